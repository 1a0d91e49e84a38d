//! Whether two outcomes agree.

use std::fmt::Write;

use iced_x86::{Code, Instruction, Mnemonic, RflagsBits};

use crate::machine::{DATA, Input, Outcome, RSP};

/// RFLAGS that an instruction at privilege level 3 can change or show, but for the arithmetic flags: DF, NT, ID.
/// RF is the processor's own matter in a fault's frame.
const OTHER_FLAGS: u64 = 1 << 10 | 1 << 14 | 1 << 18 | 1 << 21;
const ARITHMETIC: u64 = 0x8d5;
const OF: u64 = 0x800;
pub const AF: u64 = 0x10;
const CF: u64 = 1;
const BREAKPOINT: u8 = 3;
const STACK_FAULT: u8 = 12;
const PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
const FLOATING: u8 = 16;
const SIMD: u8 = 19;
/// What Linux reports for an address that is the kernel's says always that the page is present.
const USER_END: u64 = 0x7fff_ffff_f000;

/// The arithmetic flags that the manuals leave undefined.
pub fn undefined_flags(i: &Instruction, input: &Input) -> u64 {
    let count = || {
        let last = i.op_count() - 1;
        let count =
            if i.op_kind(last) == iced_x86::OpKind::Register { input.gpr[1] } else { i.immediate(last) };
        let size = if i.op_kind(0) == iced_x86::OpKind::Register {
            i.op0_register().size()
        } else {
            i.memory_size().size()
        };
        (count & if size == 8 { 63 } else { 31 }, 8 * size as u64)
    };
    match i.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => match count() {
            (0, _) => return 0,
            (1, _) => return AF,
            (n, bits) if n >= bits && i.mnemonic() != Mnemonic::Sar => return AF | OF | CF,
            _ => return AF | OF,
        },
        Mnemonic::Shld | Mnemonic::Shrd => match count() {
            (0, _) => return 0,
            (1, _) => return AF,
            (n, bits) if n > bits => return ARITHMETIC,
            _ => return AF | OF,
        },
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => {
            return if count().0 < 2 { 0 } else { OF };
        }
        _ => {}
    }
    let bits = i.rflags_undefined();
    let mut flags = 0;
    for (bit, flag) in [
        (RflagsBits::OF, OF),
        (RflagsBits::SF, 0x80),
        (RflagsBits::ZF, 0x40),
        (RflagsBits::AF, AF),
        (RflagsBits::CF, CF),
        (RflagsBits::PF, 4),
    ] {
        if bits & bit != 0 {
            flags |= flag;
        }
    }
    flags
}

/// The results that are undefined: a double shift by more than its operand has bits.
fn result_is_undefined(i: &Instruction, input: &Input) -> bool {
    matches!(i.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd)
        && i.op0_register().size().max(i.memory_size().size()) == 2
        && {
            let count =
                if i.op2_kind() == iced_x86::OpKind::Register { input.gpr[1] } else { i.immediate(2) };
            count & 31 > 16
        }
}

/// The condition codes of the x87 unit that are undefined.
fn undefined_conditions(i: &Instruction) -> u16 {
    let bits = i.rflags_undefined();
    let mut conditions = match i.mnemonic() {
        // Intel's processors clear C1 here, AMD's leave it.
        Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip => 0x200,
        Mnemonic::Fcmovb | Mnemonic::Fcmovbe | Mnemonic::Fcmove | Mnemonic::Fcmovu => 0x200,
        Mnemonic::Fcmovnb | Mnemonic::Fcmovnbe | Mnemonic::Fcmovne | Mnemonic::Fcmovnu => 0x200,
        _ => 0,
    };
    for (bit, condition) in
        [(RflagsBits::C0, 0x100), (RflagsBits::C1, 0x200), (RflagsBits::C2, 0x400), (RflagsBits::C3, 0x4000)]
    {
        if bits & bit != 0 {
            conditions |= condition;
        }
    }
    conditions
}

/// Bytes of a stored image that are not compared: where the last x87 instruction and its operand were (AMD's
/// processors keep that only of an instruction that has an exception pending), the mask of MXCSR's bits (AMD
/// has one more), and what is reserved.
fn ignored_image(i: &Instruction) -> &'static [(u64, u64)] {
    match i.code() {
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => &[(6, 24), (28, 32), (416, 512)],
        Code::Fnstenv_m28byte | Code::Fstenv_m28byte => &[(12, 28)],
        Code::Fnstenv_m14byte | Code::Fstenv_m14byte => &[(6, 14)],
        Code::Fnsave_m108byte | Code::Fsave_m108byte => &[(12, 28)],
        Code::Fnsave_m94byte | Code::Fsave_m94byte => &[(6, 14)],
        _ => &[],
    }
}

/// Whether both faulted at the instruction, for one of several reasons that it had, and the order of precedence
/// among them is the implementation's (SDM vol. 3, table 7-2: faults of one class).
fn is_matter_of_order(i: &Instruction, input: &Input, native: &Outcome, soft: &Outcome) -> bool {
    let faulted = |outcome: &Outcome| {
        outcome.rip == input.rip && matches!(outcome.vector, STACK_FAULT | PROTECTION | PAGE_FAULT | FLOATING)
    };
    let several = match i.mnemonic() {
        // Two operands in memory.
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => true,
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => true,
        Mnemonic::Bound | Mnemonic::Push | Mnemonic::Pop | Mnemonic::Call | Mnemonic::Enter => true,
        // Many accesses, or a misaligned operand that has another fault, too.
        _ => i.memory_size().size() >= 10 || soft.vector == FLOATING,
    };
    several && faulted(native) && faulted(soft)
}

/// What the conversions from packed numbers to MMX registers leave of the x87 state when they raise #XM is not
/// defined: AMD's processors have made it the MMX state before.
fn x87_is_undefined(i: &Instruction, native: &Outcome) -> bool {
    let conversion = matches!(
        i.mnemonic(),
        Mnemonic::Cvtpd2pi
            | Mnemonic::Cvttpd2pi
            | Mnemonic::Cvtps2pi
            | Mnemonic::Cvttps2pi
            | Mnemonic::Cvtpi2ps
    );
    conversion && native.vector == SIMD
}

fn note_x87(i: &Instruction, note: &mut impl FnMut(&str, u128, u128), native: &Outcome, soft: &Outcome) {
    let mask = !undefined_conditions(i);
    note("FCW", native.fx.u16(0).into(), soft.fx.u16(0).into());
    note("FSW", (native.fx.u16(2) & mask).into(), (soft.fx.u16(2) & mask).into());
    note("FTW", native.fx.0[4].into(), soft.fx.0[4].into());
    let wide =
        |bytes: [u8; 10]| bytes.iter().rev().fold(0, |value: u128, &byte| value << 8 | u128::from(byte));
    for n in 0..8 {
        note(&format!("ST{n}"), wide(native.fx.st(n)), wide(soft.fx.st(n)));
    }
}

/// What differs, a line each; empty if nothing does.
pub fn differences(i: &Instruction, input: &Input, native: &Outcome, soft: &Outcome) -> String {
    let mut text = String::new();
    // Whether bytes that are not stored can fault is the implementation's choice.
    let masked = matches!(i.mnemonic(), Mnemonic::Maskmovdqu | Mnemonic::Maskmovq);
    if masked && matches!(native.vector, STACK_FAULT | PROTECTION | PAGE_FAULT) {
        return text;
    }
    let mut note = |what: &str, native: u128, soft: u128| {
        if native != soft {
            let _ = writeln!(text, "    {what}: processor {native:#x}, software {soft:#x}");
        }
    };
    let order = is_matter_of_order(i, input, native, soft);
    if !order {
        note("vector", native.vector.into(), soft.vector.into());
    }
    if order {
    } else if native.vector == soft.vector && native.vector == PAGE_FAULT {
        let kernel = native.cr2 >= USER_END;
        let mask = !u64::from(kernel);
        note("error code", (native.error & mask).into(), (soft.error & mask).into());
        note("CR2", native.cr2.into(), soft.cr2.into());
    } else if native.vector == soft.vector {
        note("error code", native.error.into(), soft.error.into());
    }
    note("RIP", native.rip.into(), soft.rip.into());
    if result_is_undefined(i, input) {
        return text;
    }
    const NAMES: [&str; 16] = [
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
        "R14", "R15",
    ];
    // AMD's processors have loaded what could be popped; RSP is as before, so that it can be executed again.
    let partly = matches!(i.mnemonic(), Mnemonic::Popa | Mnemonic::Popad) && native.vector != BREAKPOINT;
    for (n, name) in NAMES.iter().enumerate().filter(|(n, _)| *n == RSP || !partly) {
        note(name, native.gpr[n].into(), soft.gpr[n].into());
    }
    let mask = OTHER_FLAGS | ARITHMETIC & !undefined_flags(i, input) & !input.undefined;
    note("RFLAGS", (native.rflags & mask).into(), (soft.rflags & mask).into());
    for n in 0..16 {
        note(&format!("XMM{n}"), native.fx.xmm(n), soft.fx.xmm(n));
    }
    note("MXCSR", native.fx.mxcsr().into(), soft.fx.mxcsr().into());
    if !x87_is_undefined(i, native) {
        note_x87(i, &mut note, native, soft);
    }
    if native.data == soft.data {
        return text;
    }
    let mut bytes = 0;
    for at in 0..native.data.len() {
        let address = DATA + at as u64;
        let ignored = ignored_image(i).iter().any(|&(from, to)| {
            let offset = address.wrapping_sub(input.target);
            offset >= from && offset < to
        });
        if native.data[at] != soft.data[at] && !ignored && bytes < 16 {
            bytes += 1;
            note(&format!("[{address:#x}]"), native.data[at].into(), soft.data[at].into());
        }
    }
    text
}
