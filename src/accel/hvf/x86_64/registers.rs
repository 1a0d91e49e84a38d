//! The neutral registers in the framework's registers and in the VMCS.

#![forbid(unsafe_code)]

use super::controls::ENTRY_IA32E;
use super::cpu::{Cpu, XsaveArea};
use super::vmcs::{
    CTRL_CR0_MASK, CTRL_CR0_SHADOW, CTRL_CR4_MASK, CTRL_CR4_SHADOW, CTRL_ENTRY, Field, GUEST_CR0, GUEST_CR3,
    GUEST_CR4, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_RIGHTS, GUEST_ES_SELECTOR, GUEST_GDTR_BASE,
    GUEST_GDTR_LIMIT, GUEST_IA32_EFER, GUEST_IDTR_BASE, GUEST_IDTR_LIMIT,
};
use crate::accel::ffi::hvf::x86_64::{HV_X86_CR2, HV_X86_R8, HV_X86_RAX, HV_X86_RFLAGS, HV_X86_RIP, Reg};
use crate::accel::hvf::error::HvResult;
use crate::accel::macros::impl_reg_calls;
use crate::accel::{DescriptorTable, Segment, X86FpuRegs, X86Regs, X86SpecialRegs};

/// RSP's number.
pub const RSP: Reg = HV_X86_RAX + 6;

impl_reg_calls!(X86Regs, Reg {
    rax = HV_X86_RAX,
    rcx = HV_X86_RAX + 1,
    rdx = HV_X86_RAX + 2,
    rbx = HV_X86_RAX + 3,
    rsi = HV_X86_RAX + 4,
    rdi = HV_X86_RAX + 5,
    rsp = RSP,
    rbp = HV_X86_RAX + 7,
    r8 = HV_X86_R8,
    r9 = HV_X86_R8 + 1,
    r10 = HV_X86_R8 + 2,
    r11 = HV_X86_R8 + 3,
    r12 = HV_X86_R8 + 4,
    r13 = HV_X86_R8 + 5,
    r14 = HV_X86_R8 + 6,
    r15 = HV_X86_R8 + 7,
    rip = HV_X86_RIP,
    rflags = HV_X86_RFLAGS,
});

/// A general register by its number in instructions: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI.
#[must_use]
pub fn by_encoding(gpr: u8) -> Reg {
    match gpr & 15 {
        4 => RSP,
        5 => HV_X86_RAX + 7,
        6 => HV_X86_RAX + 4,
        7 => HV_X86_RAX + 5,
        low @ 0..=3 => HV_X86_RAX + Reg::from(low),
        high => HV_X86_R8 + Reg::from(high - 8),
    }
}

/// CR0: protection, numeric error, cache disable, not write-through, paging.
pub const CR0_PE: u64 = 1;
const CR0_NE: u64 = 1 << 5;
/// CR0: extension type, which is 1 on every processor.
pub const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
/// CR0: paging.
pub const CR0_PG: u64 = 1 << 31;
/// The bits of CR0 that the guest sees as it set them, and the processor as it needs them.
const CR0_MASK: u64 = CR0_PG | CR0_CD | CR0_NW | CR0_NE;
/// CR4: VMX is on, which the guest must not know.
pub const CR4_VMXE: u64 = 1 << 13;
/// CR4: physical address extension.
pub const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled, long mode active.
pub const EFER_LME: u64 = 1 << 8;
/// EFER: long mode active.
pub const EFER_LMA: u64 = 1 << 10;

/// Access rights of the VMCS: present, system or not, unusable.
const RIGHTS_S: u64 = 1 << 4;
const RIGHTS_PRESENT: u64 = 1 << 7;
const RIGHTS_UNUSABLE: u64 = 1 << 16;
/// A busy 64-bit or 32-bit task state segment.
const TSS_BUSY: u8 = 11;
/// Its shortest limit.
const TSS_LIMIT: u32 = 0x67;

/// The segments in the order of the VMCS.
const CS: Field = 1;
const SS: Field = 2;
const LDTR: Field = 6;
const TR: Field = 7;

/// A segment's access rights as the VMCS has them (SDM vol. 3, table 25-2).
#[must_use]
pub fn rights(segment: &Segment) -> u64 {
    if segment.unusable {
        return RIGHTS_UNUSABLE;
    }
    u64::from(segment.type_ & 15)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl & 3) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.avl) << 12
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15
}

/// The segment that the VMCS's fields describe.
#[must_use]
pub fn segment(selector: u64, base: u64, limit: u64, rights: u64) -> Segment {
    let flag = |bit: u32| rights >> bit & 1 != 0;
    Segment {
        base,
        limit: limit as u32,
        selector: selector as u16,
        type_: (rights & 15) as u8,
        dpl: (rights >> 5 & 3) as u8,
        present: rights & RIGHTS_PRESENT != 0,
        db: flag(14),
        s: rights & RIGHTS_S != 0,
        l: flag(13),
        g: flag(15),
        avl: flag(12),
        unusable: rights & RIGHTS_UNUSABLE != 0,
    }
}

fn read_segment(cpu: &impl Cpu, index: Field) -> HvResult<Segment> {
    Ok(segment(
        cpu.vmcs(GUEST_ES_SELECTOR + 2 * index)?,
        cpu.vmcs(GUEST_ES_BASE + 2 * index)?,
        cpu.vmcs(GUEST_ES_LIMIT + 2 * index)?,
        cpu.vmcs(GUEST_ES_RIGHTS + 2 * index)?,
    ))
}

fn write_segment(cpu: &mut impl Cpu, index: Field, segment: &Segment) -> HvResult<()> {
    cpu.set_vmcs(GUEST_ES_SELECTOR + 2 * index, segment.selector.into())?;
    cpu.set_vmcs(GUEST_ES_BASE + 2 * index, segment.base)?;
    cpu.set_vmcs(GUEST_ES_LIMIT + 2 * index, segment.limit.into())?;
    cpu.set_vmcs(GUEST_ES_RIGHTS + 2 * index, rights(segment))
}

/// A segment that a data segment register may hold: one that is not present is not usable.
fn data(segment: &Segment) -> Segment {
    Segment { unusable: segment.unusable || !segment.present, ..*segment }
}

/// TR as an entry accepts it: a busy TSS, also where no software has loaded one yet.
fn task(tr: &Segment) -> Segment {
    let limit = if tr.present { tr.limit } else { tr.limit.max(TSS_LIMIT) };
    // Available becomes busy: bit 1 of the type.
    let type_ = if tr.present && !tr.s { tr.type_ | 2 } else { TSS_BUSY };
    Segment { limit, type_, s: false, present: true, unusable: false, ..*tr }
}

/// CR0 as the guest sees it.
///
/// # Errors
/// When the framework refuses.
pub fn cr0(cpu: &impl Cpu) -> HvResult<u64> {
    let mask = cpu.vmcs(CTRL_CR0_MASK)?;
    Ok(cpu.vmcs(GUEST_CR0)? & !mask | cpu.vmcs(CTRL_CR0_SHADOW)? & mask)
}

/// Sets CR0 as the guest sees it, and what follows from it: IA-32e mode.
///
/// # Errors
/// When the framework refuses.
pub fn set_cr0(cpu: &mut impl Cpu, value: u64) -> HvResult<()> {
    cpu.set_vmcs(CTRL_CR0_MASK, CR0_MASK)?;
    cpu.set_vmcs(CTRL_CR0_SHADOW, value)?;
    cpu.set_vmcs(GUEST_CR0, value & !(CR0_CD | CR0_NW) | CR0_NE | CR0_ET)?;
    let efer = cpu.vmcs(GUEST_IA32_EFER)?;
    let is_long = value & CR0_PG != 0 && efer & EFER_LME != 0;
    cpu.set_vmcs(GUEST_IA32_EFER, if is_long { efer | EFER_LMA } else { efer & !EFER_LMA })?;
    let entry = cpu.vmcs(CTRL_ENTRY)?;
    cpu.set_vmcs(CTRL_ENTRY, if is_long { entry | ENTRY_IA32E } else { entry & !ENTRY_IA32E })?;
    if is_long {
        // IA-32e mode knows one kind of TSS only.
        let tr = read_segment(cpu, TR)?;
        write_segment(cpu, TR, &Segment { type_: TSS_BUSY, ..task(&tr) })?;
    }
    Ok(())
}

/// CR4 as the guest sees it.
///
/// # Errors
/// When the framework refuses.
pub fn cr4(cpu: &impl Cpu) -> HvResult<u64> {
    let mask = cpu.vmcs(CTRL_CR4_MASK)?;
    Ok(cpu.vmcs(GUEST_CR4)? & !mask | cpu.vmcs(CTRL_CR4_SHADOW)? & mask)
}

/// Sets CR4 as the guest sees it.
///
/// # Errors
/// When the framework refuses.
pub fn set_cr4(cpu: &mut impl Cpu, value: u64) -> HvResult<()> {
    cpu.set_vmcs(CTRL_CR4_MASK, CR4_VMXE)?;
    cpu.set_vmcs(CTRL_CR4_SHADOW, value)?;
    cpu.set_vmcs(GUEST_CR4, value | CR4_VMXE)
}

/// Reads the special registers; CR8 and the APIC's base are the APIC's.
///
/// # Errors
/// When the framework refuses.
pub fn special(cpu: &impl Cpu, cr8: u64, apic_base: u64) -> HvResult<X86SpecialRegs> {
    let table = |base, limit| -> HvResult<DescriptorTable> {
        Ok(DescriptorTable { base: cpu.vmcs(base)?, limit: cpu.vmcs(limit)? as u16 })
    };
    Ok(X86SpecialRegs {
        es: read_segment(cpu, 0)?,
        cs: read_segment(cpu, CS)?,
        ss: read_segment(cpu, SS)?,
        ds: read_segment(cpu, 3)?,
        fs: read_segment(cpu, 4)?,
        gs: read_segment(cpu, 5)?,
        ldt: read_segment(cpu, LDTR)?,
        tr: read_segment(cpu, TR)?,
        gdt: table(GUEST_GDTR_BASE, GUEST_GDTR_LIMIT)?,
        idt: table(GUEST_IDTR_BASE, GUEST_IDTR_LIMIT)?,
        cr0: cr0(cpu)?,
        cr2: cpu.reg(HV_X86_CR2)?,
        cr3: cpu.vmcs(GUEST_CR3)?,
        cr4: cr4(cpu)?,
        cr8,
        efer: cpu.vmcs(GUEST_IA32_EFER)?,
        apic_base,
    })
}

/// Writes the special registers but those of the APIC.
///
/// # Errors
/// When the framework refuses.
pub fn set_special(cpu: &mut impl Cpu, regs: &X86SpecialRegs) -> HvResult<()> {
    for (index, segment) in (0..).zip([&regs.es, &regs.cs, &regs.ss, &regs.ds, &regs.fs, &regs.gs, &regs.ldt])
    {
        write_segment(cpu, index, &if index == CS { *segment } else { data(segment) })?;
    }
    write_segment(cpu, TR, &task(&regs.tr))?;
    for (base, limit, table) in
        [(GUEST_GDTR_BASE, GUEST_GDTR_LIMIT, regs.gdt), (GUEST_IDTR_BASE, GUEST_IDTR_LIMIT, regs.idt)]
    {
        cpu.set_vmcs(base, table.base)?;
        cpu.set_vmcs(limit, table.limit.into())?;
    }
    cpu.set_reg(HV_X86_CR2, regs.cr2)?;
    cpu.set_vmcs(GUEST_CR3, regs.cr3)?;
    set_cr4(cpu, regs.cr4)?;
    // Before CR0, which makes of it whether long mode is active.
    cpu.set_vmcs(GUEST_IA32_EFER, regs.efer)?;
    set_cr0(cpu, regs.cr0)?;
    cpu.flush_tlb()
}

/// Where FXSAVE puts things (SDM vol. 1, table 10-2).
const ST: usize = 32;
const XMM: usize = 160;
/// XSTATE_BV: which parts of an XSAVE area are valid; x87 and SSE.
const XSTATE_BV: usize = 512;
const X87_SSE: u8 = 3;

/// Bytes `at` to `at + N` of an area.
fn bytes<const N: usize>(area: &XsaveArea, at: usize) -> [u8; N] {
    let mut value = [0; N];
    if let Some(bytes) = area.0.get(at..at + N) {
        value.copy_from_slice(bytes);
    }
    value
}

/// The x87 and SSE registers of an XSAVE area.
#[must_use]
pub fn fpu(area: &XsaveArea) -> X86FpuRegs {
    X86FpuRegs {
        fpr: std::array::from_fn(|n| bytes(area, ST + 16 * n)),
        fcw: u16::from_le_bytes(bytes(area, 0)),
        fsw: u16::from_le_bytes(bytes(area, 2)),
        ftwx: u8::from_le_bytes(bytes(area, 4)),
        last_opcode: u16::from_le_bytes(bytes(area, 6)),
        last_ip: u64::from_le_bytes(bytes(area, 8)),
        last_dp: u64::from_le_bytes(bytes(area, 16)),
        xmm: std::array::from_fn(|n| bytes(area, XMM + 16 * n)),
        mxcsr: u32::from_le_bytes(bytes(area, 24)),
    }
}

/// Puts the x87 and SSE registers into an XSAVE area; the rest of it stays.
pub fn set_fpu(area: &mut XsaveArea, regs: &X86FpuRegs) {
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = area.0.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    };
    put(0, &regs.fcw.to_le_bytes());
    put(2, &regs.fsw.to_le_bytes());
    put(4, &[regs.ftwx]);
    put(6, &regs.last_opcode.to_le_bytes());
    put(8, &regs.last_ip.to_le_bytes());
    put(16, &regs.last_dp.to_le_bytes());
    put(24, &regs.mxcsr.to_le_bytes());
    for (n, value) in regs.fpr.iter().enumerate() {
        put(ST + 16 * n, value);
    }
    for (n, value) in regs.xmm.iter().enumerate() {
        put(XMM + 16 * n, value);
    }
    area.0[XSTATE_BV] |= X87_SSE;
}

#[cfg(test)]
mod tests {
    use super::super::testing::ScriptedCpu;
    use super::*;

    #[test]
    fn access_rights_come_back() {
        // A flat 64-bit code segment, and a real-mode one.
        for (value, limit) in [(0xa09b, 0xffff_ffff), (0x009b, 0xffff), (0xc093, 0xffff_ffff), (0x008b, 0x67)]
        {
            let segment = segment(0x10, 0, limit, value);
            assert_eq!(rights(&segment), value);
            assert_eq!((segment.selector, u64::from(segment.limit)), (0x10, limit));
        }
        assert_eq!(rights(&Segment { unusable: true, ..Segment::default() }), 0x1_0000);
    }

    #[test]
    fn what_is_set_is_read_back() {
        let mut cpu = ScriptedCpu::default();
        let code = segment(8, 0, 0xffff_ffff, 0xa09b);
        let flat = segment(0x10, 0, 0xffff_ffff, 0xc093);
        let regs = X86SpecialRegs {
            cs: code,
            ds: flat,
            es: flat,
            fs: flat,
            gs: flat,
            ss: flat,
            tr: segment(0, 0, 0xffff, 0x8b),
            ldt: Segment { unusable: true, ..Segment::default() },
            gdt: DescriptorTable { base: 0x500, limit: 0x1f },
            idt: DescriptorTable { base: 0, limit: 0 },
            // ET is 1 on every processor.
            cr0: CR0_PG | CR0_PE | CR0_ET,
            cr2: 0x1234,
            cr3: 0x9000,
            cr4: CR4_PAE,
            cr8: 3,
            efer: EFER_LME | EFER_LMA,
            apic_base: 0xfee0_0900,
        };
        set_special(&mut cpu, &regs).unwrap();
        assert_eq!(special(&cpu, 3, 0xfee0_0900).unwrap(), regs);
        // What the processor has is another thing.
        assert_eq!(cpu.vmcs(GUEST_CR0).unwrap(), CR0_PG | CR0_PE | CR0_NE | CR0_ET);
        assert_eq!(cpu.vmcs(GUEST_CR4).unwrap(), CR4_PAE | CR4_VMXE);
        assert_eq!(cpu.vmcs(CTRL_ENTRY).unwrap() & ENTRY_IA32E, ENTRY_IA32E);
    }

    #[test]
    fn long_mode_follows_paging_and_efer() {
        let mut cpu = ScriptedCpu::default();
        cpu.set_vmcs(GUEST_IA32_EFER, EFER_LME).unwrap();
        set_cr0(&mut cpu, CR0_PE).unwrap();
        assert_eq!(cpu.vmcs(GUEST_IA32_EFER).unwrap(), EFER_LME);
        set_cr0(&mut cpu, CR0_PE | CR0_PG).unwrap();
        assert_eq!(cpu.vmcs(GUEST_IA32_EFER).unwrap(), EFER_LME | EFER_LMA);
        set_cr0(&mut cpu, CR0_PE).unwrap();
        assert_eq!(cpu.vmcs(CTRL_ENTRY).unwrap() & ENTRY_IA32E, 0);
    }

    #[test]
    fn a_task_register_that_nobody_loaded_is_a_busy_one() {
        let mut cpu = ScriptedCpu::default();
        set_special(&mut cpu, &X86SpecialRegs::default()).unwrap();
        assert_eq!(cpu.vmcs(GUEST_ES_RIGHTS + 2 * TR).unwrap(), 0x8b);
        assert_eq!(cpu.vmcs(GUEST_ES_LIMIT + 2 * TR).unwrap(), 0x67);
        assert_eq!(cpu.vmcs(GUEST_ES_RIGHTS).unwrap(), 0x1_0000);
    }

    #[test]
    fn registers_are_found_by_their_encoding() {
        // RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15 in the framework's numbers.
        let expected = [2, 3, 4, 5, 8, 9, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17];
        assert_eq!(std::array::from_fn(|n| by_encoding(n as u8)), expected);
    }

    #[test]
    fn an_xsave_area_holds_the_fpu() {
        let mut regs =
            X86FpuRegs { fcw: 0x37f, ftwx: 0x81, mxcsr: 0x1fa0, last_ip: 5, ..X86FpuRegs::default() };
        regs.fpr[7][..10].copy_from_slice(&[7; 10]);
        regs.xmm[15] = [15; 16];
        let mut area = XsaveArea::default();
        area.0[XSTATE_BV] = 4;
        set_fpu(&mut area, &regs);
        assert_eq!(fpu(&area), regs);
        assert_eq!(area.0[XSTATE_BV], 7);
    }
}
