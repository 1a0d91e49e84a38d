//! The neutral registers as lists of WHPX's names and values.
#![forbid(unsafe_code)]

use crate::accel::ffi::whpx::{RegisterName, RegisterValue, SegmentRegister, register};
use crate::accel::{DescriptorTable, Segment, X86FpuRegs, X86Regs, X86SpecialRegs};

/// The general registers, in the order of `general_values`.
pub(super) const GENERAL: [RegisterName; 18] = [
    register::RAX,
    register::RBX,
    register::RCX,
    register::RDX,
    register::RSI,
    register::RDI,
    register::RSP,
    register::RBP,
    register::R8,
    register::R8 + 1,
    register::R8 + 2,
    register::R8 + 3,
    register::R8 + 4,
    register::R8 + 5,
    register::R8 + 6,
    register::R15,
    register::RIP,
    register::RFLAGS,
];

/// The special registers, in the order of `special_values`.
pub(super) const SPECIAL: [RegisterName; 17] = [
    register::CS,
    register::DS,
    register::ES,
    register::FS,
    register::GS,
    register::SS,
    register::TR,
    register::LDTR,
    register::GDTR,
    register::IDTR,
    register::CR0,
    register::CR2,
    register::CR3,
    register::CR4,
    register::CR8,
    register::EFER,
    register::APIC_BASE,
];

/// How many registers hold the state of the FPU and of SSE.
const FPU_COUNT: usize = 26;

/// The FPU's registers, in the order of `fpu_values`.
pub(super) fn fpu_names() -> [RegisterName; FPU_COUNT] {
    let mut names = [register::FP_CONTROL_STATUS; FPU_COUNT];
    for (name, value) in
        names.iter_mut().zip((register::XMM0..).take(16).chain((register::FP_MMX0..).take(8)))
    {
        *name = value;
    }
    if let Some(last) = names.last_mut() {
        *last = register::XMM_CONTROL_STATUS;
    }
    names
}

/// A register of 64 bits or less.
pub(super) fn word(low: u64) -> RegisterValue {
    RegisterValue { low, high: 0 }
}

pub(super) fn general_values(r: &X86Regs) -> [RegisterValue; 18] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15, r.rip, r.rflags,
    ]
    .map(word)
}

pub(super) fn general(values: &[RegisterValue; 18]) -> X86Regs {
    let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags] =
        values.map(|value| value.low);
    X86Regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

/// A segment as WHPX has it: a null selector is a segment that is not present.
pub(super) fn segment_register(s: &Segment) -> SegmentRegister {
    let bit = |set: bool, at: u16| u16::from(set) << at;
    let attributes = u16::from(s.type_ & 15)
        | bit(s.s, 4)
        | u16::from(s.dpl & 3) << 5
        | bit(s.present && !s.unusable, 7)
        | bit(s.avl, 12)
        | bit(s.l, 13)
        | bit(s.db, 14)
        | bit(s.g, 15);
    SegmentRegister { base: s.base, limit: s.limit, selector: s.selector, attributes }
}

pub(super) fn segment_of(register: &SegmentRegister) -> Segment {
    let bit = |at: u16| register.attributes >> at & 1 != 0;
    Segment {
        base: register.base,
        limit: register.limit,
        selector: register.selector,
        type_: (register.attributes & 15) as u8,
        dpl: (register.attributes >> 5 & 3) as u8,
        present: bit(7),
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: !bit(7),
    }
}

fn segment_value(s: &Segment) -> RegisterValue {
    let s = segment_register(s);
    let high = u64::from(s.limit) | u64::from(s.selector) << 32 | u64::from(s.attributes) << 48;
    RegisterValue { low: s.base, high }
}

fn segment(value: &RegisterValue) -> Segment {
    segment_of(&SegmentRegister {
        base: value.low,
        limit: value.high as u32,
        selector: (value.high >> 32) as u16,
        attributes: (value.high >> 48) as u16,
    })
}

/// The limit is in the last two of the first eight bytes.
fn table_value(t: &DescriptorTable) -> RegisterValue {
    RegisterValue { low: u64::from(t.limit) << 48, high: t.base }
}

fn table(value: &RegisterValue) -> DescriptorTable {
    DescriptorTable { base: value.high, limit: (value.low >> 48) as u16 }
}

pub(super) fn special_values(r: &X86SpecialRegs) -> [RegisterValue; 17] {
    [
        segment_value(&r.cs),
        segment_value(&r.ds),
        segment_value(&r.es),
        segment_value(&r.fs),
        segment_value(&r.gs),
        segment_value(&r.ss),
        segment_value(&r.tr),
        segment_value(&r.ldt),
        table_value(&r.gdt),
        table_value(&r.idt),
        word(r.cr0),
        word(r.cr2),
        word(r.cr3),
        word(r.cr4),
        word(r.cr8),
        word(r.efer),
        word(r.apic_base),
    ]
}

pub(super) fn special(values: &[RegisterValue; 17]) -> X86SpecialRegs {
    let [cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base] = values;
    X86SpecialRegs {
        cs: segment(cs),
        ds: segment(ds),
        es: segment(es),
        fs: segment(fs),
        gs: segment(gs),
        ss: segment(ss),
        tr: segment(tr),
        ldt: segment(ldt),
        gdt: table(gdt),
        idt: table(idt),
        cr0: cr0.low,
        cr2: cr2.low,
        cr3: cr3.low,
        cr4: cr4.low,
        cr8: cr8.low,
        efer: efer.low,
        apic_base: apic_base.low,
    }
}

fn bytes(value: &RegisterValue) -> [u8; 16] {
    (u128::from(value.high) << 64 | u128::from(value.low)).to_le_bytes()
}

fn of_bytes(bytes: [u8; 16]) -> RegisterValue {
    let value = u128::from_le_bytes(bytes);
    RegisterValue { low: value as u64, high: (value >> 64) as u64 }
}

pub(super) fn fpu_values(r: &X86FpuRegs) -> [RegisterValue; FPU_COUNT] {
    let mut values = [RegisterValue::default(); FPU_COUNT];
    for (value, from) in values.iter_mut().zip(r.xmm.iter().chain(&r.fpr)) {
        *value = of_bytes(*from);
    }
    let [.., control, mxcsr] = &mut values;
    control.low =
        u64::from(r.fcw) | u64::from(r.fsw) << 16 | u64::from(r.ftwx) << 32 | u64::from(r.last_opcode) << 48;
    control.high = r.last_ip;
    mxcsr.low = r.last_dp;
    mxcsr.high = u64::from(r.mxcsr) | u64::from(MXCSR_MASK) << 32;
    values
}

/// The bits of MXCSR that there are (Intel SDM vol. 1, 11.6.6).
const MXCSR_MASK: u32 = 0xffff;

pub(super) fn fpu(values: &[RegisterValue; FPU_COUNT]) -> X86FpuRegs {
    let mut r = X86FpuRegs::default();
    for (to, value) in r.xmm.iter_mut().chain(&mut r.fpr).zip(values) {
        *to = bytes(value);
    }
    let [.., control, mxcsr] = values;
    r.fcw = control.low as u16;
    r.fsw = (control.low >> 16) as u16;
    r.ftwx = (control.low >> 32) as u8;
    r.last_opcode = (control.low >> 48) as u16;
    r.last_ip = control.high;
    r.last_dp = mxcsr.low;
    r.mxcsr = mxcsr.high as u32;
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_come_back_as_they_went() {
        let regs = X86Regs { rax: 1, rbx: 2, r15: 3, rip: 4, rflags: 5, ..X86Regs::default() };
        assert_eq!(general(&general_values(&regs)), regs);
        assert_eq!(general_values(&regs)[1].low, 2, "the second is RBX");

        let code = Segment {
            base: 0x1000,
            limit: 0xf_ffff,
            selector: 8,
            type_: 11,
            dpl: 3,
            present: true,
            db: true,
            s: true,
            l: false,
            g: true,
            avl: true,
            unusable: false,
        };
        let null = Segment { unusable: true, ..Segment::default() };
        let special_regs = X86SpecialRegs {
            cs: code,
            ds: null,
            gdt: DescriptorTable { base: 0x2000, limit: 0x27 },
            efer: 0x500,
            es: null,
            fs: null,
            gs: null,
            ss: null,
            tr: null,
            ldt: null,
            ..X86SpecialRegs::default()
        };
        assert_eq!(special(&special_values(&special_regs)), special_regs);
        // As a descriptor has them: type 11, S, DPL 3, P, AVL, D, G.
        assert_eq!(segment_register(&code).attributes, 0xd0fb);

        let mut fpu_regs = X86FpuRegs { fsw: 0x3800, ftwx: 0x81, last_dp: 7, ..X86FpuRegs::default() };
        fpu_regs.xmm[15] = [9; 16];
        fpu_regs.fpr[0][9] = 0x3f;
        assert_eq!(fpu(&fpu_values(&fpu_regs)), fpu_regs);
    }

    #[test]
    fn names_stand_at_their_values_places() {
        let names = fpu_names();
        assert_eq!((names[0], names[15]), (register::XMM0, register::XMM0 + 15));
        assert_eq!((names[16], names[23]), (register::FP_MMX0, register::FP_MMX0 + 7));
        assert_eq!(names[24..], [register::FP_CONTROL_STATUS, register::XMM_CONTROL_STATUS]);
    }
}
