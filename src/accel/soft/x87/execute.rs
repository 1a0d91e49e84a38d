//! The x87 instructions.
//!
//! The caller decodes, computes addresses and accesses memory; it probes a store before `execute`, which
//! commits state. Opcodes are those of the escape bytes D8 to DF with their ModRM byte.
#![forbid(unsafe_code)]

use super::compare::{UNORDERED, compare, examine};
use super::environment::{IMAGE, environment_bytes};
use super::status::{B, BEFORE_RESULT, C0, C1, C2, C3, DE, ES, EXCEPTIONS, IE, OE, PE, SF, UE, ZE};
use super::{ALL_MASKED, F80, INTEGER_BIT, X87, convert, softfloat, unit};

/// What an x87 instruction does with memory: the caller probes or loads before `execute`, and stores after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryOperand {
    /// It has no memory operand.
    None,
    /// It loads that many bytes.
    Load(u8),
    /// It stores that many bytes, or none if an unmasked exception prevents it.
    Store(u8),
}

/// What an instruction gets from outside the x87 unit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// The bytes that `MemoryOperand::Load` asks for.
    pub memory: &'a [u8],
    /// RFLAGS, for FCMOVcc and FCOMI.
    pub rflags: u64,
    /// The instruction's own offset in CS.
    pub ip: u64,
    /// Selector of CS.
    pub cs: u16,
    /// The memory operand's offset in its segment.
    pub dp: u64,
    /// Selector of the memory operand's segment.
    pub ds: u16,
    /// 32-bit operand size: the long formats of FNSTENV and FNSAVE. True in 64-bit mode.
    pub wide: bool,
    /// Real or virtual-8086 mode: the environment holds linear addresses.
    pub real: bool,
}

/// What an instruction changes outside the x87 unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effects {
    /// Nothing; also of a store that an unmasked exception prevents.
    None,
    /// The low bytes, as many as `MemoryOperand::Store` says, go to memory.
    Store([u8; 10]),
    /// The first bytes, as many as `MemoryOperand::Store` says, go to memory (FNSTENV, FNSAVE).
    StoreImage(Box<[u8; IMAGE]>),
    /// The new RFLAGS (FCOMI and its like).
    Rflags(u64),
    /// The new AX (FNSTSW).
    Ax(u16),
}

impl Effects {
    /// What is to be stored, in at least as many bytes as `MemoryOperand::Store` says.
    #[must_use]
    pub fn stored(&self) -> Option<&[u8]> {
        match self {
            Self::Store(bytes) => Some(bytes),
            Self::StoreImage(image) => Some(&image[..]),
            _ => None,
        }
    }
}

/// Why an instruction did not execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// #MF: an unmasked exception is pending and the instruction waits for it.
    Mf,
    /// #UD: no such instruction.
    Ud,
}

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const ZF: u64 = 1 << 6;
/// CF, PF, AF, ZF, SF, OF.
const ARITHMETIC_FLAGS: u64 = 0x8d5;

/// Memory operand of an opcode (D8 to DF) and its ModRM byte; `None` for what is #UD.
#[must_use]
pub fn memory_operand(opcode: u8, modrm: u8, wide: bool) -> Option<MemoryOperand> {
    use MemoryOperand::{Load, Store};
    let field = modrm >> 3 & 7;
    if modrm >= 0xc0 {
        return register_form_exists(opcode, modrm).then_some(MemoryOperand::None);
    }
    Some(match (opcode, field) {
        (0xd8 | 0xda, _) | (0xd9 | 0xdb, 0) => Load(4),
        (0xdc, _) | (0xdd, 0) | (0xdf, 5) => Load(8),
        (0xde, _) | (0xdf, 0) | (0xd9, 5) => Load(2),
        (0xd9, 2 | 3) | (0xdb, 1..=3) => Store(4),
        (0xdd, 1..=3) | (0xdf, 7) => Store(8),
        (0xdf, 1..=3) | (0xd9 | 0xdd, 7) => Store(2),
        (0xdb, 5) | (0xdf, 4) => Load(10),
        (0xdb, 7) | (0xdf, 6) => Store(10),
        (0xd9, 4) => Load(environment_bytes(wide)),
        (0xd9, 6) => Store(environment_bytes(wide)),
        (0xdd, 4) => Load(environment_bytes(wide) + 80),
        (0xdd, 6) => Store(environment_bytes(wide) + 80),
        _ => return None,
    })
}

fn register_form_exists(opcode: u8, modrm: u8) -> bool {
    match opcode {
        0xd8 | 0xdc => true,
        0xd9 => !matches!(modrm, 0xd1..=0xd7 | 0xe2 | 0xe3 | 0xe6 | 0xe7 | 0xef),
        0xda => matches!(modrm, 0xc0..=0xdf | 0xe9),
        0xdb => matches!(modrm, 0xc0..=0xdf | 0xe0..=0xe4 | 0xe8..=0xf7),
        0xdd => modrm < 0xf0,
        0xde => !matches!(modrm, 0xd8 | 0xda..=0xdf),
        0xdf => matches!(modrm, 0xc0..=0xe0 | 0xe8..=0xf7),
        _ => false,
    }
}

/// Whether the instruction waits for pending exceptions, that is raises #MF if `X87::wait` says so. That
/// comes before any fault of its memory access.
#[inline]
#[must_use]
pub fn is_waiting(opcode: u8, modrm: u8) -> bool {
    !match opcode {
        // FNSTENV, FNSTCW.
        0xd9 => modrm < 0xc0 && modrm & 0x30 == 0x30,
        // FENI, FDISI, FNCLEX, FNINIT, FSETPM.
        0xdb => matches!(modrm, 0xe0..=0xe4),
        // FNSAVE, FNSTSW.
        0xdd => modrm < 0xc0 && modrm & 0x30 == 0x30,
        // FNSTSW AX.
        0xdf => modrm == 0xe0,
        _ => false,
    }
}

/// Whether the instruction is a control instruction, which leaves the pointers to the last one alone.
fn is_control(opcode: u8, modrm: u8) -> bool {
    match opcode {
        0xd9 | 0xdd if modrm < 0xc0 => modrm & 0x20 != 0,
        0xdb => matches!(modrm, 0xe0..=0xe4),
        0xdf => modrm == 0xe0,
        _ => false,
    }
}

/// The first `N` bytes of the operand.
#[inline]
fn operand<const N: usize>(memory: &[u8]) -> [u8; N] {
    memory.first_chunk().copied().unwrap_or([0; N])
}

fn store<const N: usize>(bytes: [u8; N]) -> Effects {
    let mut stored = [0; 10];
    stored[..N].copy_from_slice(&bytes);
    Effects::Store(stored)
}

impl X87 {
    /// Executes an instruction.
    ///
    /// # Errors
    /// `Mf` if an unmasked exception is pending, `Ud` if there is no such instruction; nothing has changed.
    pub fn execute(&mut self, opcode: u8, modrm: u8, inputs: &Inputs<'_>) -> Result<Effects, Fault> {
        if self.wait() && is_waiting(opcode, modrm) {
            return Err(Fault::Mf);
        }
        let effects = if modrm < 0xc0 {
            self.memory_form(opcode, modrm >> 3 & 7, inputs)?
        } else {
            self.register_form(opcode, modrm, inputs)?
        };
        if !is_control(opcode, modrm) {
            self.opcode = u16::from(opcode & 7) << 8 | u16::from(modrm);
            self.ip = inputs.ip;
            self.cs = inputs.cs;
            if modrm < 0xc0 {
                self.dp = inputs.dp;
                self.ds = inputs.ds;
            }
        }
        Ok(effects)
    }

    /// Sets the exceptions and C1; whether the result may be stored.
    #[inline]
    fn raise(&mut self, flags: u16) -> bool {
        self.status = self.status & !C1 | flags;
        let unmasked = flags & !self.control & EXCEPTIONS;
        if unmasked != 0 {
            self.status |= ES | B;
        }
        unmasked & BEFORE_RESULT == 0
    }

    /// A stack underflow; whether the response to a masked invalid operation is to be given.
    #[cold]
    fn underflow(&mut self) -> bool {
        self.raise(IE | SF)
    }

    fn memory_form(&mut self, opcode: u8, field: u8, inputs: &Inputs<'_>) -> Result<Effects, Fault> {
        let memory = inputs.memory;
        match (opcode, field) {
            (0xd8, _) => {
                let (b, flags) = convert::from_single(u32::from_le_bytes(operand(memory)));
                self.arithmetic_with_memory(field, b, flags);
            }
            (0xdc, _) => {
                let (b, flags) = convert::from_double(u64::from_le_bytes(operand(memory)));
                self.arithmetic_with_memory(field, b, flags);
            }
            (0xda, _) => {
                let b = i64::from(i32::from_le_bytes(operand(memory)));
                self.arithmetic_with_memory(field, convert::from_integer(b), 0);
            }
            (0xde, _) => {
                let b = i64::from(i16::from_le_bytes(operand(memory)));
                self.arithmetic_with_memory(field, convert::from_integer(b), 0);
            }
            (0xd9, 0) => self.load(convert::from_single(u32::from_le_bytes(operand(memory)))),
            (0xdd, 0) => self.load(convert::from_double(u64::from_le_bytes(operand(memory)))),
            (0xdb, 0) => self.load_integer(i64::from(i32::from_le_bytes(operand(memory)))),
            (0xdf, 0) => self.load_integer(i64::from(i16::from_le_bytes(operand(memory)))),
            (0xdf, 5) => self.load_integer(i64::from_le_bytes(operand(memory))),
            (0xdb, 5) => self.load_exact(F80::from_bytes(operand(memory))),
            (0xdf, 4) => self.load_exact(convert::from_bcd(operand(memory))),
            (0xd9, 2 | 3) => return Ok(self.store_single(field == 3)),
            (0xdd, 2 | 3) => return Ok(self.store_double(field == 3)),
            (0xdb, 1) => return Ok(self.store_integer(32, true, true)),
            (0xdb, 2 | 3) => return Ok(self.store_integer(32, false, field == 3)),
            (0xdd, 1) => return Ok(self.store_integer(64, true, true)),
            (0xdf, 1) => return Ok(self.store_integer(16, true, true)),
            (0xdf, 2 | 3) => return Ok(self.store_integer(16, false, field == 3)),
            (0xdf, 7) => return Ok(self.store_integer(64, false, true)),
            (0xdb, 7) => return Ok(self.store_extended()),
            (0xdf, 6) => return Ok(self.store_bcd()),
            (0xd9, 5) => self.set_control(u16::from_le_bytes(operand(memory))),
            (0xd9, 7) => return Ok(store(self.control.to_le_bytes())),
            (0xdd, 7) => return Ok(store(self.status.to_le_bytes())),
            (0xd9, 4) => self.load_environment(memory, inputs.wide, inputs.real),
            (0xd9, 6) => {
                let image = self.environment(inputs.wide, inputs.real);
                self.set_control(self.control | ALL_MASKED);
                return Ok(Effects::StoreImage(Box::new(image)));
            }
            (0xdd, 4) => self.load_image(memory, inputs.wide, inputs.real),
            (0xdd, 6) => {
                let image = self.image(inputs.wide, inputs.real);
                self.init();
                return Ok(Effects::StoreImage(Box::new(image)));
            }
            _ => return Err(Fault::Ud),
        }
        Ok(Effects::None)
    }

    fn register_form(&mut self, opcode: u8, modrm: u8, inputs: &Inputs<'_>) -> Result<Effects, Fault> {
        let (field, i) = (modrm >> 3 & 7, usize::from(modrm & 7));
        match (opcode, field) {
            (0xd8, 2 | 3) | (0xdc, 2 | 3) | (0xde, 2) => {
                let pops = usize::from(field == 3 || opcode == 0xde);
                self.compare_registers(i, false, pops);
            }
            (0xde, 3) if i == 1 => self.compare_registers(1, false, 2),
            (0xda, 5) if i == 1 => self.compare_registers(1, true, 2),
            (0xdd, 4 | 5) => self.compare_registers(i, true, usize::from(field == 5)),
            (0xdb | 0xdf, 5 | 6) => {
                return Ok(self.compare_to_rflags(i, field == 5, opcode == 0xdf, inputs.rflags));
            }
            (0xd8, _) => {
                self.arithmetic_registers(field, i, 0);
            }
            (0xdc, _) => {
                self.arithmetic_registers(field, i, i);
            }
            (0xde, 0 | 1 | 4..) => {
                if self.arithmetic_registers(field, i, i) {
                    self.pop();
                }
            }
            (0xd9, 0) => {
                if self.is_empty(i) {
                    if self.underflow() {
                        self.push(F80::INDEFINITE);
                    }
                } else {
                    self.load_exact(self.st(i));
                }
            }
            (0xd9, 1) | (0xdd, 1) | (0xdf, 1) => self.exchange(i),
            // The alias of FSTP that knows no underflow.
            (0xd9, 3) if self.is_empty(0) => {
                self.status &= !C1;
                self.pop();
            }
            (0xdd, 2 | 3) | (0xdf, 2 | 3) | (0xd9, 3) => {
                self.store_register(i, opcode != 0xdd || field == 3);
            }
            (0xdd | 0xdf, 0) => {
                self.free(i);
                self.status &= !C1;
                if opcode == 0xdf {
                    self.pop();
                }
            }
            (0xda | 0xdb, 0..=3) => self.conditional_move(opcode == 0xdb, field, i, inputs.rflags),
            // FNOP.
            (0xd9, 2) if i == 0 => {}
            (0xd9, 4..) => return self.register_free_form(modrm),
            // FENI, FDISI and FSETPM do nothing since the 387.
            (0xdb, 4) if matches!(i, 0 | 1 | 4) => {}
            (0xdb, 4) if i == 2 => self.status &= !(EXCEPTIONS | SF | ES | B),
            (0xdb, 4) if i == 3 => self.init(),
            (0xdf, 4) if i == 0 => return Ok(Effects::Ax(self.status)),
            _ => return Err(Fault::Ud),
        }
        Ok(Effects::None)
    }

    /// D9 E0 to D9 FF: operands in ST0 and ST1.
    fn register_free_form(&mut self, modrm: u8) -> Result<Effects, Fault> {
        let control = self.control;
        let st0 = self.st(0);
        match modrm {
            0xe0 => self.unary((st0.negated(), 0)),
            0xe1 => self.unary((F80::new(st0.exponent(), st0.mantissa), 0)),
            0xe4 => {
                let flags = self.is_empty(0).then_some(IE | SF);
                self.finish_compare(flags, F80::ZERO, false, 0, 0);
            }
            0xe5 => {
                let codes = examine(st0, self.is_empty(0));
                self.status = self.status & !(UNORDERED | C1) | codes;
            }
            0xe8..=0xee => self.load_exact(constant(control, modrm & 7)),
            0xf0 => self.unary_by(|a| unit::exp2_minus_one(control, a)),
            0xf1 => self.binary_and_pop(unit::log2_times),
            0xf2 => {
                self.status &= !C2;
                self.unary_and_push(|a| unit::tangent(control, a));
            }
            0xf3 => self.binary_and_pop(unit::arctangent),
            0xf4 => self.unary_and_push(|a| {
                let (significand, exponent, flags) = softfloat::extract(control, a);
                (exponent, significand, flags)
            }),
            0xf5 => self.remainder(true),
            0xf6 => {
                self.set_top(self.top() + 7);
                self.status &= !C1;
            }
            0xf7 => {
                self.set_top(self.top() + 1);
                self.status &= !C1;
            }
            0xf8 => self.remainder(false),
            0xf9 => self.binary_and_pop(unit::log2_of_one_plus_times),
            0xfa => self.unary_by(|a| softfloat::sqrt(control, a)),
            0xfb => {
                self.status &= !C2;
                self.unary_and_push(|a| unit::sine_cosine(control, a));
            }
            0xfc => self.unary_by(|a| softfloat::round_to_integer(control, a)),
            0xfd => {
                if self.is_empty(0) || self.is_empty(1) {
                    if self.underflow() {
                        self.set_st(0, F80::INDEFINITE);
                    }
                } else {
                    self.unary(softfloat::scale(control, st0, self.st(1)));
                }
            }
            0xfe => self.trigonometric(unit::sine),
            0xff => self.trigonometric(unit::cosine),
            _ => return Err(Fault::Ud),
        }
        Ok(Effects::None)
    }

    /// Puts an answer that was made of ST0 into ST0.
    #[inline]
    fn unary(&mut self, (value, flags): softfloat::Answer) {
        if self.is_empty(0) {
            if self.underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
        } else if self.raise(flags) {
            self.set_st(0, value);
        }
    }

    fn unary_by(&mut self, operation: impl Fn(F80) -> softfloat::Answer) {
        // Nothing is computed of an empty register.
        let answer = if self.is_empty(0) { (F80::INDEFINITE, 0) } else { operation(self.st(0)) };
        self.unary(answer);
    }

    fn trigonometric(&mut self, operation: impl Fn(u16, F80) -> softfloat::Answer) {
        self.status &= !C2;
        let control = self.control;
        self.unary_by(|a| operation(control, a));
    }

    /// FPTAN, FSINCOS and FXTRACT: ST0 becomes the first result, the second is pushed.
    fn unary_and_push(&mut self, operation: impl Fn(F80) -> (F80, F80, u16)) {
        let both_indefinite = (F80::INDEFINITE, F80::INDEFINITE);
        let (first, second) = if self.is_empty(0) {
            if !self.underflow() {
                return;
            }
            both_indefinite
        } else if !self.is_empty(7) {
            if !self.raise(IE | SF | C1) {
                return;
            }
            both_indefinite
        } else {
            let (first, second, flags) = operation(self.st(0));
            if !self.raise(flags) || flags & C2 != 0 {
                return;
            }
            (first, second)
        };
        self.set_st(0, first);
        self.push(second);
    }

    /// FYL2X, FYL2XP1 and FPATAN: ST1 becomes the result, ST0 is popped.
    fn binary_and_pop(&mut self, operation: impl Fn(u16, F80, F80) -> softfloat::Answer) {
        let value = if self.is_empty(0) || self.is_empty(1) {
            if !self.underflow() {
                return;
            }
            F80::INDEFINITE
        } else {
            let (value, flags) = operation(self.control, self.st(0), self.st(1));
            if !self.raise(flags) {
                return;
            }
            value
        };
        self.set_st(1, value);
        self.pop();
    }

    fn remainder(&mut self, nearest: bool) {
        if self.is_empty(0) || self.is_empty(1) {
            self.status &= !C2;
            if self.underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        let (value, flags) = softfloat::remainder(self.control, self.st(0), self.st(1), nearest);
        // Without a quotient its bits stay what they were.
        let quotient = flags & (IE | !self.control & DE) == 0 && !value.is_nan();
        self.status &= !if quotient { UNORDERED } else { C2 };
        let flags = if quotient { flags } else { flags & EXCEPTIONS };
        if self.raise(flags) {
            self.set_st(0, value);
        }
    }

    /// Arithmetic or comparison of ST0 with an operand from memory, which raised `flags` when widened.
    #[inline]
    fn arithmetic_with_memory(&mut self, field: u8, b: F80, flags: u16) {
        let empty = self.is_empty(0);
        if field & 6 == 2 {
            let fault = empty.then_some(IE | SF);
            self.finish_compare(fault, b, false, usize::from(field & 1), flags);
        } else if empty {
            if self.underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
        } else {
            self.arithmetic(field, self.st(0), b, 0, flags);
        }
    }

    /// Arithmetic of ST0 and ST(i), stored in ST(`destination`); false if an unmasked exception prevents
    /// the store, and so a pop.
    #[inline]
    fn arithmetic_registers(&mut self, field: u8, i: usize, destination: usize) -> bool {
        if self.is_empty(0) || self.is_empty(i) {
            let masked = self.underflow();
            if masked {
                self.set_st(destination, F80::INDEFINITE);
            }
            return masked;
        }
        self.arithmetic(field, self.st(0), self.st(i), destination, 0)
    }

    #[inline]
    fn arithmetic(&mut self, field: u8, a: F80, b: F80, destination: usize, loaded: u16) -> bool {
        let control = self.control;
        let mut answer = match field {
            0 => softfloat::add(control, a, b),
            1 => softfloat::mul(control, a, b),
            4 => softfloat::sub(control, a, b),
            5 => softfloat::sub(control, b, a),
            6 => softfloat::div(control, a, b),
            _ => softfloat::div(control, b, a),
        };
        // A denormal from memory is normal by now, but still to be reported unless something worse is.
        if loaded & DE != 0 && answer.1 & (IE | ZE) == 0 && !a.is_nan() {
            answer = softfloat::with_denormal(control, DE, answer);
        }
        let stored = self.raise(answer.1);
        if stored {
            self.set_st(destination, answer.0);
        }
        stored
    }

    fn compare_registers(&mut self, i: usize, quiet: bool, pops: usize) {
        let fault = (self.is_empty(0) || self.is_empty(i)).then_some(IE | SF);
        self.finish_compare(fault, self.st(i), quiet, pops, 0);
    }

    /// Compares ST0 with `b` unless there is a stack fault, sets the condition codes and pops.
    fn finish_compare(&mut self, fault: Option<u16>, b: F80, quiet: bool, pops: usize, loaded: u16) {
        let (codes, flags) = match fault {
            Some(flags) => (UNORDERED, flags),
            None => {
                let (codes, flags) = compare(self.st(0), b, quiet);
                // No denormal is reported where there is a NaN.
                (codes, if codes == UNORDERED { flags } else { flags | loaded })
            }
        };
        let masked = self.raise(flags);
        self.status = self.status & !UNORDERED | codes;
        if masked {
            for _ in 0..pops {
                self.pop();
            }
        }
    }

    fn compare_to_rflags(&mut self, i: usize, quiet: bool, pop: bool, rflags: u64) -> Effects {
        let (codes, flags) = if self.is_empty(0) || self.is_empty(i) {
            (UNORDERED, IE | SF)
        } else {
            compare(self.st(0), self.st(i), quiet)
        };
        if self.raise(flags) && pop {
            self.pop();
        }
        let flag = |code, flag| if codes & code != 0 { flag } else { 0 };
        Effects::Rflags(rflags & !ARITHMETIC_FLAGS | flag(C0, CF) | flag(C2, PF) | flag(C3, ZF))
    }

    /// Pushes a number that was widened with these flags.
    #[inline]
    fn load(&mut self, (value, flags): (F80, u16)) {
        if !self.is_empty(7) {
            return self.load_exact(value);
        }
        let (value, flags) = if value.is_signalling() { (value.quieted(), IE) } else { (value, flags) };
        // An unmasked DE does not prevent a load.
        if self.raise(flags) || flags & IE == 0 {
            self.push(value);
        }
    }

    fn load_integer(&mut self, value: i64) {
        self.load_exact(convert::from_integer(value));
    }

    /// Pushes what can raise nothing but a stack overflow.
    #[inline]
    fn load_exact(&mut self, value: F80) {
        if self.is_empty(7) {
            self.status &= !C1;
            self.push(value);
        } else if self.raise(IE | SF | C1) {
            self.push(F80::INDEFINITE);
        }
    }

    fn store_register(&mut self, i: usize, pop: bool) {
        let value = if self.is_empty(0) {
            if !self.underflow() {
                return;
            }
            F80::INDEFINITE
        } else {
            self.status &= !C1;
            self.st(0)
        };
        self.set_st(i, value);
        if pop {
            self.pop();
        }
    }

    /// ST0 rounded by `convert`, or the invalid operation's result if it is empty; `None` if an unmasked
    /// exception prevents the store. Then nothing is popped either.
    #[inline]
    fn store_rounded<T>(
        &mut self,
        pop: bool,
        invalid: T,
        convert: impl Fn(u16, F80) -> (T, u16),
    ) -> Option<T> {
        let (value, flags) =
            if self.is_empty(0) { (invalid, IE | SF) } else { convert(self.control, self.st(0)) };
        let unmasked = flags & !self.control & (OE | UE) != 0;
        // Where the result does not fit, nothing was rounded.
        let flags = if unmasked { flags & !(PE | C1) } else { flags };
        if !self.raise(flags) || unmasked {
            return None;
        }
        if pop {
            self.pop();
        }
        Some(value)
    }

    fn store_single(&mut self, pop: bool) -> Effects {
        self.store_rounded(pop, 0xffc0_0000, convert::to_single)
            .map_or(Effects::None, |bits: u32| store(bits.to_le_bytes()))
    }

    fn store_double(&mut self, pop: bool) -> Effects {
        self.store_rounded(pop, 0xfff8_0000_0000_0000, convert::to_double)
            .map_or(Effects::None, |bits: u64| store(bits.to_le_bytes()))
    }

    fn store_extended(&mut self) -> Effects {
        self.store_rounded(true, F80::INDEFINITE, |_, a| (a, 0))
            .map_or(Effects::None, |a| Effects::Store(a.to_bytes()))
    }

    fn store_bcd(&mut self) -> Effects {
        self.store_rounded(true, convert::BCD_INDEFINITE, convert::to_bcd)
            .map_or(Effects::None, Effects::Store)
    }

    fn store_integer(&mut self, bits: u32, truncate: bool, pop: bool) -> Effects {
        let indefinite = i64::MIN >> (64 - bits);
        self.store_rounded(pop, indefinite, |control, a| convert::to_integer(control, a, bits, truncate))
            .map_or(Effects::None, |value| store(value.to_le_bytes()))
    }

    fn exchange(&mut self, i: usize) {
        if self.is_empty(0) || self.is_empty(i) {
            if !self.underflow() {
                return;
            }
            for register in [0, i] {
                if self.is_empty(register) {
                    self.set_st(register, F80::INDEFINITE);
                }
            }
        } else {
            self.status &= !C1;
        }
        let (a, b) = (self.st(0), self.st(i));
        self.set_st(0, b);
        self.set_st(i, a);
    }

    fn conditional_move(&mut self, negate: bool, field: u8, i: usize, rflags: u64) {
        if self.is_empty(0) || self.is_empty(i) {
            if self.underflow() {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        self.status &= !C1;
        let flags = match field {
            0 => CF,
            1 => ZF,
            2 => CF | ZF,
            _ => PF,
        };
        if (rflags & flags != 0) != negate {
            self.set_st(0, self.st(i));
        }
    }
}

/// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ: constants of 66 bits, rounded as the control word says.
fn constant(control: u16, number: u8) -> F80 {
    // Truncated significand, and whether rounding to nearest goes up; none of them is exact.
    let (exponent, mantissa, nearest_up) = match number {
        0 => return F80::ONE,
        1 => (0x4000, 0xd49a_784b_cd1b_8afe, false),
        2 => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
        3 => (0x4000, 0xc90f_daa2_2168_c234, true),
        4 => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
        5 => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
        _ => return F80::ZERO,
    };
    let up = match softfloat::Rounding::of(control) {
        softfloat::Rounding::Nearest => nearest_up,
        softfloat::Rounding::Up => true,
        softfloat::Rounding::Down | softfloat::Rounding::Chop => false,
    };
    F80::new(exponent, (mantissa | INTEGER_BIT) + u64::from(up))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLD1: (u8, u8) = (0xd9, 0xe8);

    fn run(x87: &mut X87, (opcode, modrm): (u8, u8)) -> Effects {
        x87.execute(opcode, modrm, &Inputs::default()).unwrap()
    }

    #[test]
    fn waiting_instructions_fault_while_an_unmasked_exception_is_pending() {
        let mut x87 = X87::default();
        x87.set_control(0x340);
        run(&mut x87, FLD1);
        // FTST of an empty register after the pop.
        run(&mut x87, (0xdd, 0xd8));
        run(&mut x87, (0xd9, 0xe4));
        assert!(x87.wait());
        let before = x87.clone();
        for opcode in 0xd8..=0xdf {
            for modrm in 0..=0xff {
                if memory_operand(opcode, modrm, true).is_some() && is_waiting(opcode, modrm) {
                    let result = x87.execute(opcode, modrm, &Inputs::default());
                    assert_eq!((result, &x87), (Err(Fault::Mf), &before));
                }
            }
        }
        assert_eq!(run(&mut x87, (0xdf, 0xe0)), Effects::Ax(before.status));
        run(&mut x87, (0xdb, 0xe2));
        assert!(!x87.wait());
    }

    #[test]
    fn execute_and_memory_operand_agree_on_what_exists() {
        for opcode in 0..=0xff {
            for modrm in 0..=0xff {
                let exists = memory_operand(opcode, modrm, false).is_some();
                let result = X87::default().execute(opcode, modrm, &Inputs::default());
                assert_eq!(result.is_ok(), exists, "{opcode:02x} {modrm:02x}");
            }
        }
    }

    #[test]
    fn pointers_follow_all_but_control_instructions() {
        let mut x87 = X87::default();
        let inputs = Inputs { memory: &[0; 4], ip: 0x1000, cs: 8, dp: 0x2000, ds: 16, ..Inputs::default() };
        x87.execute(0xd8, 0x03, &inputs).unwrap();
        let pointers = |x87: &X87| (x87.opcode, x87.ip, x87.cs, x87.dp, x87.ds);
        assert_eq!(pointers(&x87), (0x003, 0x1000, 8, 0x2000, 16));
        let later = Inputs { ip: 0x1010, dp: 0, ..inputs };
        for (opcode, modrm) in [(0xd9, 0x2b), (0xd9, 0x3b), (0xdd, 0x3b), (0xdb, 0xe2), (0xdf, 0xe0)] {
            x87.execute(opcode, modrm, &later).unwrap();
            assert_eq!(pointers(&x87).1, 0x1000, "{opcode:02x} {modrm:02x}");
        }
        x87.execute(0xd9, 0xe1, &later).unwrap();
        assert_eq!(pointers(&x87), (0x1e1, 0x1010, 8, 0x2000, 16));
    }

    #[test]
    fn mmx_writes_are_seen_as_numbers_that_are_none() {
        let mut x87 = X87::default();
        run(&mut x87, FLD1);
        x87.mmx_set(3, 0x0123_4567_89ab_cdef);
        assert_eq!((x87.top(), x87.tag, x87.mmx_get(3)), (0, 0xff, 0x0123_4567_89ab_cdef));
        assert_eq!(x87.st(3).sign_exponent, 0xffff);
        x87.emms();
        assert!(x87.is_empty(3));
    }
}
