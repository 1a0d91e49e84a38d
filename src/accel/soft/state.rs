//! The architectural state of one vCPU.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::abort::{Abort, AbortReason, Exception, Exec, vector};
use super::cache::Cache;
use super::coherence::Peer;
use super::flags::{Lazy, rflags};
use super::memory::Replay;
use super::mmu::{Entry, Tlb};
use super::op::Op;
use super::ram::Ram;
use super::returns::Returns;
use super::system::System;
use super::system::cpuid::Topology;
use super::system::time::Clock;
use super::x87::X87;
use crate::accel::{DescriptorTable, InterruptController, Segment};
use crate::devices::irqchip::lapic::{ApicBus, Lapic, LapicSetup};
use crate::devices::timer::HostClock;

/// Index of a segment register in `Cpu::seg`: the encoding of the instruction set.
#[allow(missing_docs, reason = "a register's name is its documentation")]
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// The general mode of operation: what CR0.PE, EFER.LMA, RFLAGS.VM and CS.L make of the CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Real-address mode (CR0.PE = 0).
    #[default]
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode; also compatibility mode, in which EFER.LMA is set.
    Protected,
    /// 64-bit mode.
    Long,
}

/// The state of one vCPU.
#[repr(C)]
pub struct Cpu {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Always 0: the base or index register of an address that has none.
    pub(super) zero: u64,
    /// What RIP is at the start of the page that is executed.
    pub(super) page_base: u64,
    /// Segment registers by `seg::*`.
    pub seg: [Segment; 6],
    /// The arithmetic flags.
    pub lazy: Lazy,
    /// Translations for the current privilege level; part of `tlb`.
    pub(super) tlb_set: usize,
    /// The first entry of that set.
    pub(super) tlb_current: *const Entry,
    /// Events from other threads, see `pending`.
    pub pending: Arc<AtomicU32>,
    /// Instruction pointer, an offset in CS. While an instruction executes it is that instruction's own.
    pub rip: u64,
    /// While an instruction executes, the address of the one behind it.
    pub next_rip: u64,
    /// RFLAGS but for the arithmetic flags, which are kept lazily: read with `rflags()`.
    pub rflags_rest: u64,
    /// LDTR.
    pub ldt: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdt: DescriptorTable,
    /// IDTR.
    pub idt: DescriptorTable,
    /// The bases of FS and GS, derived, for accesses by 32-bit addresses that cannot fault by the segment; or
    /// `NOT_PLAIN`.
    pub(super) plain_bases: [u64; 2],
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR7 (4 and 5 unused).
    pub dr: [u64; 8],
    /// 32-bit code in protected or compatibility mode whose CS, SS and DS are all of the linear addresses, derived.
    pub(super) flat: bool,
    /// Mode of operation, derived; kept by whoever changes what it derives from.
    pub mode: Mode,
    /// Current privilege level, derived.
    pub cpl: u8,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// PKRU: what each protection key denies on user pages.
    pub pkru: u32,
    /// `IA32_PKRS`: the same on supervisor pages.
    pub pkrs: u32,
    /// The x87 unit.
    pub x87: X87,
    /// Why the last instruction did not complete.
    pub abort: AbortReason,
    /// Interrupts are held off until the next instruction has completed (STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// An interrupt may be waiting for RFLAGS.IF.
    pub interrupt_waiting: bool,
    /// Number of the vCPU, which is its APIC id.
    pub id: u32,
    /// The state of the system side.
    pub system: System,
    /// Guest RAM.
    pub ram: Arc<Ram>,
    /// The translation lookaside buffers.
    pub(super) tlb: Tlb,
    /// Answers for an instruction that is executed again.
    pub(super) replay: Replay,
    /// Decoded blocks.
    pub(super) cache: Cache,
    /// Guest-physical page that is executed.
    pub(super) code_page: u64,
    /// The branch that has just left its block for one that it could be linked to, or null.
    pub(super) link_from: *const Op,
    /// Where calls that have not returned yet go on.
    pub(super) returns: Returns,
    /// PAUSEs that have been executed.
    pub(super) pauses: u32,
    /// Where `link_from` leads: RIP and the guest-physical page.
    pub(super) link_to: (u64, u64),
    /// Escape and ModRM bytes of the x87 instruction under way.
    pub(super) escape: (u8, u8),
    /// The instruction under way has the operand size of 32 bits (x87 environments).
    pub(super) operand_is_wide: bool,
    /// What the other vCPUs have to tell; none for a CPU that is in no machine.
    pub(super) peer: Option<Arc<Peer>>,
    /// HLT has been executed, and nothing has happened since.
    pub halted: bool,
    /// INIT has been received, and no start-up IPI since.
    pub waits_for_sipi: bool,
    /// The local APIC.
    pub lapic: Arc<Lapic>,
    /// The machine's interrupt controllers.
    pub interrupts: Arc<dyn InterruptController>,
    /// One instruction is executed outside the block cache; it may write over its own code.
    pub(super) stepping: bool,
    /// Instructions that may still be executed; none is no limit.
    pub(super) budget: Option<u64>,
}

/// Bits of `Cpu::pending`.
pub mod pending {
    /// `VcpuOps::run` is to return.
    pub const KICK: u32 = 1;
    /// Look at the LAPIC and the PICs.
    pub const INTERRUPT: u32 = 2;
    /// Other vCPUs have written to code or decoded from pages that this one may write.
    pub const CODE: u32 = 4;
    /// Something of this vCPU's own to be looked at before the next block.
    pub const LOCAL: u32 = 8;
}

/// The interrupt controllers of a CPU that is in no machine.
struct NoInterrupts;

impl InterruptController for NoInterrupts {
    fn extint_pending(&self) -> bool {
        false
    }

    fn extint_acknowledge(&self) -> Option<u8> {
        None
    }

    fn eoi(&self, _vector: u8) {}
}

/// The APIC of a CPU that is in no machine: nothing wakes it, and its timer never fires.
fn lone_apic(id: u32) -> Arc<Lapic> {
    ApicBus::new().add(LapicSetup {
        id,
        is_bsp: id == 0,
        clock: Arc::new(HostClock),
        tsc: Arc::new(|_| None),
        interrupts: Arc::new(NoInterrupts),
        wake: Arc::new(|| {}),
        timer_changed: Arc::new(|| {}),
    })
}

// SAFETY: `link_from` and `returns` point into `cache`, `tlb_current` into `tlb`, which move with the `Cpu`
// and whose vectors do not move; they are shared with no other thread.
unsafe impl Send for Cpu {}

impl Cpu {
    /// A vCPU in the state after RESET (Intel SDM vol. 3, table 10-1).
    #[must_use]
    pub fn new(id: u32, ram: Arc<Ram>) -> Self {
        let data = Segment { limit: 0xffff, type_: 3, present: true, s: true, ..Segment::default() };
        let code = Segment { base: 0xffff_0000, selector: 0xf000, type_: 11, ..data };
        let system = Segment { s: false, type_: 2, ..data };
        let table = DescriptorTable { base: 0, limit: 0xffff };
        let cache = Cache::new(ram.pages());
        let mut cpu = Self {
            gpr: [0; 16],
            zero: 0,
            page_base: 0,
            seg: [data, code, data, data, data, data],
            lazy: Lazy::default(),
            tlb_set: 0,
            tlb_current: std::ptr::null(),
            pending: Arc::new(AtomicU32::new(0)),
            rip: 0xfff0,
            next_rip: 0,
            rflags_rest: rflags::RESERVED_ONE,
            ldt: system,
            tr: Segment { type_: 11, ..system },
            gdt: table,
            idt: table,
            plain_bases: [NOT_PLAIN; 2],
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            flat: false,
            mode: Mode::Real,
            cpl: 0,
            xmm: [0; 16],
            mxcsr: 0x1f80,
            pkru: 0,
            pkrs: 0,
            x87: X87::default(),
            abort: AbortReason::None,
            interrupt_shadow: false,
            interrupt_waiting: false,
            id,
            system: System::new(Topology { apic_id: id, cpus: id.saturating_add(1) }, Clock::default()),
            ram,
            tlb: Tlb::new(),
            replay: Replay::default(),
            cache,
            code_page: 0,
            link_from: std::ptr::null(),
            link_to: (0, 0),
            returns: Returns::new(),
            pauses: 0,
            escape: (0, 0),
            operand_is_wide: true,
            halted: false,
            peer: None,
            waits_for_sipi: false,
            lapic: lone_apic(id),
            interrupts: Arc::new(NoInterrupts),
            stepping: false,
            budget: None,
        };
        cpu.gpr[2] = 0x0006_0fb1;
        cpu.update_mode();
        cpu
    }

    /// The state after INIT: as after RESET, but the FPU, the MSRs, the time and RAM stay.
    pub(super) fn reset_by_init(&mut self) {
        let fresh = Self::new(self.id, Arc::clone(&self.ram));
        self.gpr = fresh.gpr;
        self.rip = fresh.rip;
        self.lazy = fresh.lazy;
        self.rflags_rest = fresh.rflags_rest;
        self.seg = fresh.seg;
        (self.ldt, self.tr, self.gdt, self.idt) = (fresh.ldt, fresh.tr, fresh.gdt, fresh.idt);
        (self.cr0, self.cr2, self.cr3, self.cr4) = (fresh.cr0 | self.cr0 & (cr0::CD | cr0::NW), 0, 0, 0);
        self.efer = 0;
        self.dr = fresh.dr;
        self.cpl = 0;
        self.halted = false;
        self.interrupt_shadow = false;
        self.replay.clear();
        self.flush_tlb_all();
        self.update_mode();
    }

    /// Makes the instruction under way raise `vector` with an error code: `return cpu.raise(..)`.
    #[cold]
    pub fn raise<T>(&mut self, vector: u8, error_code: Option<u32>) -> Result<T, Abort> {
        self.abort = AbortReason::Exception(Exception { vector, error_code });
        Err(Abort)
    }

    /// Raises #GP(0).
    ///
    /// # Errors
    /// Always.
    #[cold]
    pub fn general_protection<T>(&mut self) -> Exec<T> {
        self.raise(vector::GP, Some(0))
    }

    /// Raises #UD.
    ///
    /// # Errors
    /// Always.
    #[cold]
    pub fn undefined<T>(&mut self) -> Exec<T> {
        self.raise(vector::UD, None)
    }

    /// Ends the run: the instruction exists, but not here.
    ///
    /// # Errors
    /// Always.
    #[cold]
    pub fn unimplemented<T>(&mut self) -> Exec<T> {
        self.abort = AbortReason::Unimplemented;
        Err(Abort)
    }

    /// Derives `mode`, the translations' set and what 32-bit code knows of its segments from CR0, EFER, RFLAGS
    /// and the segment registers. To be called after any of these, `cpl` or CR4 has changed. `cpl` itself is the caller's, but in real and virtual-8086 mode.
    pub fn update_mode(&mut self) {
        self.mode = if self.cr0 & 1 == 0 {
            Mode::Real
        } else if self.rflags_rest & rflags::VM != 0 {
            Mode::Virtual8086
        } else if self.efer & efer::LMA != 0 && self.seg[seg::CS].l {
            Mode::Long
        } else {
            Mode::Protected
        };
        match self.mode {
            Mode::Real => self.cpl = 0,
            Mode::Virtual8086 => self.cpl = 3,
            Mode::Protected | Mode::Long => {}
        }
        self.flat = self.is_flat();
        if self.mode == Mode::Protected {
            self.plain_bases = [seg::FS, seg::GS]
                .map(|n| if is_plain_data(&self.seg[n]) { self.seg[n].base } else { NOT_PLAIN });
        }
        self.update_tlb_set();
    }

    /// What `flat` must be.
    pub(super) fn is_flat(&self) -> bool {
        let [_, cs, ss, ds, ..] = &self.seg;
        self.mode == Mode::Protected
            && cs.db
            && cs.base == 0
            && cs.limit == u32::MAX
            && ss.db
            && [ss, ds].iter().all(|s| s.base == 0 && is_plain_data(s))
    }

    /// Default operand and address size of the code segment: 16, 32 or 64.
    #[must_use]
    pub fn code_bits(&self) -> u32 {
        match self.mode {
            Mode::Long => 64,
            Mode::Protected if self.seg[seg::CS].db => 32,
            Mode::Protected => 16,
            // CS.D survives a return to real mode until CS is loaded.
            Mode::Real if self.seg[seg::CS].db => 32,
            Mode::Real | Mode::Virtual8086 => 16,
        }
    }

    /// The bits of RSP that stack operations use.
    #[inline]
    #[must_use]
    pub fn stack_mask(&self) -> u64 {
        match self.mode {
            Mode::Long => u64::MAX,
            _ if self.seg[seg::SS].db => 0xffff_ffff,
            _ => 0xffff,
        }
    }

    /// Asks for a look at everything that may be due before the next block.
    pub fn look(&self) {
        self.pending.fetch_or(pending::LOCAL, Ordering::Relaxed);
    }
}

/// In `Cpu::plain_bases`: the segment has a limit or lacks a right. Makes an address that no translation has.
pub(super) const NOT_PLAIN: u64 = 1 << 62;

/// Whether loads and stores of any offset are allowed by the segment itself.
fn is_plain_data(s: &Segment) -> bool {
    // Writable data, not expand-down.
    s.present && !s.unusable && s.s && s.type_ & 0xe == 2 && s.limit == u32::MAX
}

/// Bits of CR0.
#[allow(missing_docs, reason = "the SDM's mnemonics are the documentation")]
pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4.
#[allow(missing_docs, reason = "the SDM's mnemonics are the documentation")]
pub mod cr4 {
    pub const VME: u64 = 1;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    pub const PKE: u64 = 1 << 22;
    pub const PKS: u64 = 1 << 24;
}

/// Bits of EFER.
#[allow(missing_docs, reason = "the SDM's mnemonics are the documentation")]
pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// Index of `Cpu::zero` in units of 8 bytes from the start of `Cpu`: see `execute::operand`.
pub(super) const ZERO_SLOT: u8 = (offset_of!(Cpu, zero) / 8) as u8;
/// Index of `Cpu::page_base`.
pub(super) const PAGE_BASE_SLOT: u8 = (offset_of!(Cpu, page_base) / 8) as u8;

/// Index of FS's base, or with `GS` of GS's, in 32-bit code.
pub(super) const fn plain_base_slot(gs: bool) -> u8 {
    const { assert!(offset_of!(Cpu, plain_bases) / 8 + 1 < 64) };
    (offset_of!(Cpu, plain_bases) / 8) as u8 + gs as u8
}

/// Index of a segment's base.
pub(super) const fn segment_slot(segment: usize) -> u8 {
    ((offset_of!(Cpu, seg) + segment * size_of::<Segment>() + offset_of!(Segment, base)) / 8) as u8
}
