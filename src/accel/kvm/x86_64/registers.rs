//! Conversions between the neutral register structs and KVM's.

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};

use crate::accel::macros::impl_reg_accessors;
use crate::accel::{DescriptorTable, Segment, X86FpuRegs, X86Regs, X86SpecialRegs};

impl_reg_accessors!(
    X86Regs,
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
);
impl_reg_accessors!(
    X86FpuRegs,
    kvm_fpu { fpr, fcw, fsw, ftwx, last_opcode, last_ip, last_dp, xmm, mxcsr }..kvm_fpu::default()
);
impl_reg_accessors!(DescriptorTable, kvm_dtable { base, limit }..kvm_dtable::default());

impl From<&kvm_segment> for Segment {
    fn from(from: &kvm_segment) -> Self {
        Self {
            base: from.base,
            limit: from.limit,
            selector: from.selector,
            type_: from.type_,
            dpl: from.dpl,
            present: from.present != 0,
            db: from.db != 0,
            s: from.s != 0,
            l: from.l != 0,
            g: from.g != 0,
            avl: from.avl != 0,
            unusable: from.unusable != 0,
        }
    }
}

impl From<&Segment> for kvm_segment {
    fn from(from: &Segment) -> Self {
        Self {
            base: from.base,
            limit: from.limit,
            selector: from.selector,
            type_: from.type_,
            dpl: from.dpl,
            present: from.present.into(),
            db: from.db.into(),
            s: from.s.into(),
            l: from.l.into(),
            g: from.g.into(),
            avl: from.avl.into(),
            unusable: from.unusable.into(),
            padding: 0,
        }
    }
}

impl From<&kvm_sregs> for X86SpecialRegs {
    fn from(from: &kvm_sregs) -> Self {
        Self {
            cs: (&from.cs).into(),
            ds: (&from.ds).into(),
            es: (&from.es).into(),
            fs: (&from.fs).into(),
            gs: (&from.gs).into(),
            ss: (&from.ss).into(),
            tr: (&from.tr).into(),
            ldt: (&from.ldt).into(),
            gdt: (&from.gdt).into(),
            idt: (&from.idt).into(),
            cr0: from.cr0,
            cr2: from.cr2,
            cr3: from.cr3,
            cr4: from.cr4,
            cr8: from.cr8,
            efer: from.efer,
            apic_base: from.apic_base,
        }
    }
}

/// Puts the neutral registers into `into`; what they do not cover (pending interrupts) stays.
pub fn apply_special(from: &X86SpecialRegs, into: &mut kvm_sregs) {
    *into = kvm_sregs {
        cs: (&from.cs).into(),
        ds: (&from.ds).into(),
        es: (&from.es).into(),
        fs: (&from.fs).into(),
        gs: (&from.gs).into(),
        ss: (&from.ss).into(),
        tr: (&from.tr).into(),
        ldt: (&from.ldt).into(),
        gdt: (&from.gdt).into(),
        idt: (&from.idt).into(),
        cr0: from.cr0,
        cr2: from.cr2,
        cr3: from.cr3,
        cr4: from.cr4,
        cr8: from.cr8,
        efer: from.efer,
        apic_base: from.apic_base,
        interrupt_bitmap: into.interrupt_bitmap,
    };
}
