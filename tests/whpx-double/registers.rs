//! The registers by the platform's names, written from its documentation and apart from the backend's.

use std::sync::atomic::Ordering;

use vm_accel::accel::ffi::whpx::{RegisterName, RegisterValue, SegmentRegister, register};
use vm_accel::accel::soft::SoftVcpu;
use vm_accel::accel::{
    Activity, DescriptorTable, FpuRegs, GuestRegs, Segment, SpecialRegs, VcpuOps, X86FpuRegs, X86Regs,
    X86SpecialRegs,
};

use super::processor::Link;
use super::{E_INVALID_ARGUMENT, Outcome, lock};

/// All registers of a processor, and which of them have been set.
pub struct State {
    general: X86Regs,
    special: X86SpecialRegs,
    fpu: X86FpuRegs,
    activity: u64,
    shadow: bool,
    set_general: bool,
    set_special: bool,
    set_fpu: bool,
    wake: bool,
}

/// Registers that are events; true if `name` is one that is known.
pub fn set_event(name: RegisterName, value: &RegisterValue, link: &Link) -> bool {
    match name {
        register::PENDING_EVENT if value.low & 0xf == register::EVENT_EXT_INT => {
            *lock(&link.extint) = Some((value.low >> 8) as u8);
        }
        register::DELIVERABILITY_NOTIFICATIONS => {
            link.wants_window.store(value.low & register::INTERRUPT_NOTIFICATION != 0, Ordering::SeqCst);
        }
        _ => return false,
    }
    true
}

fn word(low: u64) -> RegisterValue {
    RegisterValue { low, high: 0 }
}

/// A segment register as the platform has it.
pub fn segment(s: &Segment) -> SegmentRegister {
    let flags = [(s.s, 4), (s.present && !s.unusable, 7), (s.avl, 12), (s.l, 13), (s.db, 14), (s.g, 15)];
    let flags = flags.into_iter().map(|(set, bit)| u16::from(set) << bit).sum::<u16>();
    SegmentRegister {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        attributes: flags + u16::from(s.type_) + (u16::from(s.dpl) << 5),
    }
}

fn segment_value(s: &Segment) -> RegisterValue {
    let s = segment(s);
    let [a, b, c, d] = s.limit.to_le_bytes();
    let ([e, f], [g, h]) = (s.selector.to_le_bytes(), s.attributes.to_le_bytes());
    RegisterValue { low: s.base, high: u64::from_le_bytes([a, b, c, d, e, f, g, h]) }
}

fn set_segment(s: &mut Segment, value: &RegisterValue) {
    let [a, b, c, d, e, f, g, h] = value.high.to_le_bytes();
    let attributes = u16::from_le_bytes([g, h]);
    let has = |bit: u32| attributes & 1 << bit != 0;
    *s = Segment {
        base: value.low,
        limit: u32::from_le_bytes([a, b, c, d]),
        selector: u16::from_le_bytes([e, f]),
        type_: (attributes & 15) as u8,
        dpl: (attributes >> 5 & 3) as u8,
        s: has(4),
        present: has(7),
        avl: has(12),
        l: has(13),
        db: has(14),
        g: has(15),
        unusable: !has(7),
    };
}

fn table_value(t: &DescriptorTable) -> RegisterValue {
    let [a, b] = t.limit.to_le_bytes();
    RegisterValue { low: u64::from_le_bytes([0, 0, 0, 0, 0, 0, a, b]), high: t.base }
}

fn set_table(t: &mut DescriptorTable, value: &RegisterValue) {
    let [.., a, b] = value.low.to_le_bytes();
    *t = DescriptorTable { base: value.high, limit: u16::from_le_bytes([a, b]) };
}

impl State {
    /// The state of `vcpu`.
    pub fn of(vcpu: &SoftVcpu) -> Outcome<Self> {
        let all = (vcpu.get_regs(), vcpu.get_special_regs(), vcpu.get_fpu_regs());
        let (Ok(GuestRegs::X86_64(general)), Ok(SpecialRegs::X86_64(special)), Ok(FpuRegs::X86_64(fpu))) =
            all
        else {
            return Err(E_INVALID_ARGUMENT);
        };
        let activity = match vcpu.activity().map_err(|_| E_INVALID_ARGUMENT)? {
            Activity::Running => 0,
            Activity::Halted | Activity::HaltedForever => register::HALT_SUSPEND,
            Activity::WaitForStart => register::STARTUP_SUSPEND,
        };
        Ok(Self {
            general,
            special,
            fpu,
            activity,
            shadow: vcpu.interrupt_shadow(),
            set_general: false,
            set_special: false,
            set_fpu: false,
            wake: false,
        })
    }

    /// The general register `name`: the platform numbers them as instructions do.
    fn general(&mut self, name: RegisterName) -> Option<&mut u64> {
        let r = &mut self.general;
        Some(match name {
            0 => &mut r.rax,
            1 => &mut r.rcx,
            2 => &mut r.rdx,
            3 => &mut r.rbx,
            4 => &mut r.rsp,
            5 => &mut r.rbp,
            6 => &mut r.rsi,
            7 => &mut r.rdi,
            8 => &mut r.r8,
            9 => &mut r.r9,
            10 => &mut r.r10,
            11 => &mut r.r11,
            12 => &mut r.r12,
            13 => &mut r.r13,
            14 => &mut r.r14,
            15 => &mut r.r15,
            16 => &mut r.rip,
            17 => &mut r.rflags,
            _ => return None,
        })
    }

    fn segment(&mut self, name: RegisterName) -> Option<&mut Segment> {
        let r = &mut self.special;
        Some(match name {
            18 => &mut r.es,
            19 => &mut r.cs,
            20 => &mut r.ss,
            21 => &mut r.ds,
            22 => &mut r.fs,
            23 => &mut r.gs,
            24 => &mut r.ldt,
            25 => &mut r.tr,
            _ => return None,
        })
    }

    fn control(&mut self, name: RegisterName) -> Option<&mut u64> {
        let r = &mut self.special;
        Some(match name {
            register::CR0 => &mut r.cr0,
            register::CR2 => &mut r.cr2,
            register::CR3 => &mut r.cr3,
            register::CR4 => &mut r.cr4,
            register::CR8 => &mut r.cr8,
            register::EFER => &mut r.efer,
            register::APIC_BASE => &mut r.apic_base,
            _ => return None,
        })
    }

    fn vector(&mut self, name: RegisterName) -> Option<&mut [u8; 16]> {
        let index = |first: i32| usize::try_from(name - first).ok();
        match name {
            0x1000..=0x100f => self.fpu.xmm.get_mut(index(0x1000)?),
            0x1010..=0x1017 => self.fpu.fpr.get_mut(index(0x1010)?),
            _ => None,
        }
    }

    /// The value of a register; `None` for one that there is not.
    pub fn get(&self, name: RegisterName) -> Option<RegisterValue> {
        // The places are found by mutable borrows, so a copy is looked at.
        let mut copy = Self { ..*self };
        if let Some(place) = copy.general(name) {
            return Some(word(*place));
        }
        if let Some(place) = copy.segment(name) {
            return Some(segment_value(place));
        }
        if let Some(place) = copy.control(name) {
            return Some(word(*place));
        }
        if let Some(bytes) = copy.vector(name) {
            let (low, high) = bytes.split_at(8);
            let word = |half: &[u8]| half.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            return Some(RegisterValue { low: word(low)?, high: word(high)? });
        }
        let fpu = &self.fpu;
        Some(match name {
            register::IDTR => table_value(&self.special.idt),
            register::GDTR => table_value(&self.special.gdt),
            register::FP_CONTROL_STATUS => {
                let [a, b] = fpu.fcw.to_le_bytes();
                let [c, d] = fpu.fsw.to_le_bytes();
                let [e, f] = fpu.last_opcode.to_le_bytes();
                RegisterValue { low: u64::from_le_bytes([a, b, c, d, fpu.ftwx, 0, e, f]), high: fpu.last_ip }
            }
            register::XMM_CONTROL_STATUS => {
                RegisterValue { low: fpu.last_dp, high: u64::from(fpu.mxcsr) | 0xffff << 32 }
            }
            register::INTERNAL_ACTIVITY => word(self.activity),
            register::INTERRUPT_STATE => word(u64::from(self.shadow)),
            _ => return None,
        })
    }

    /// Sets a register; `None` for one that there is not.
    pub fn set(&mut self, name: RegisterName, value: &RegisterValue) -> Option<()> {
        if let Some(place) = self.general(name) {
            *place = value.low;
            self.set_general = true;
        } else if let Some(place) = self.segment(name) {
            set_segment(place, value);
            self.set_special = true;
        } else if let Some(place) = self.control(name) {
            *place = value.low;
            self.set_special = true;
        } else if let Some(bytes) = self.vector(name) {
            let (low, high) = bytes.split_at_mut(8);
            low.copy_from_slice(&value.low.to_le_bytes());
            high.copy_from_slice(&value.high.to_le_bytes());
            self.set_fpu = true;
        } else {
            self.set_other(name, value)?;
        }
        Some(())
    }

    fn set_other(&mut self, name: RegisterName, value: &RegisterValue) -> Option<()> {
        match name {
            register::IDTR => set_table(&mut self.special.idt, value),
            register::GDTR => set_table(&mut self.special.gdt, value),
            register::FP_CONTROL_STATUS => {
                let [a, b, c, d, tag, _, e, f] = value.low.to_le_bytes();
                self.fpu.fcw = u16::from_le_bytes([a, b]);
                self.fpu.fsw = u16::from_le_bytes([c, d]);
                self.fpu.ftwx = tag;
                self.fpu.last_opcode = u16::from_le_bytes([e, f]);
                self.fpu.last_ip = value.high;
            }
            register::XMM_CONTROL_STATUS => {
                self.fpu.last_dp = value.low;
                self.fpu.mxcsr = value.high as u32;
            }
            register::INTERRUPT_STATE => self.shadow = value.low & register::INTERRUPT_SHADOW != 0,
            register::INTERNAL_ACTIVITY => {
                // A processor can be woken; that one waits for its start-up is known here.
                self.wake = self.activity & !value.low & register::HALT_SUSPEND != 0;
                let startup = (self.activity ^ value.low) & register::STARTUP_SUSPEND;
                return (startup == 0).then_some(());
            }
            _ => return None,
        }
        self.set_special |= matches!(name, register::IDTR | register::GDTR);
        self.set_fpu |= matches!(name, register::FP_CONTROL_STATUS | register::XMM_CONTROL_STATUS);
        Some(())
    }

    /// Gives `vcpu` what has been set; true if an instruction that was under way is not any more.
    pub fn apply(&self, vcpu: &mut SoftVcpu) -> Outcome<bool> {
        let failed = |_| E_INVALID_ARGUMENT;
        if self.set_special {
            vcpu.set_special_regs(&SpecialRegs::X86_64(self.special)).map_err(failed)?;
        }
        if self.set_fpu {
            vcpu.set_fpu_regs(&FpuRegs::X86_64(self.fpu)).map_err(failed)?;
        }
        if self.set_general || self.wake {
            vcpu.set_regs(&GuestRegs::X86_64(self.general)).map_err(failed)?;
        }
        vcpu.set_interrupt_shadow(self.shadow);
        Ok(self.set_general || self.wake)
    }
}
