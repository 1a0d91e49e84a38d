//! The tests.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::forms::{self, Undefined};
use crate::interpreter::Interpreter;
use crate::machine::{CODE, CODE_PAGES, Fx, Input, Outcome, PAGE, RSP};

use crate::native::Native;
use crate::random::Random;
use crate::{cases, verdict};

const UNDEFINED: u8 = 6;
const PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;

/// Both sides. One at a time: the addresses and the signal handlers are the process's.
struct Pair {
    native: Native,
    soft: Interpreter,
    /// Released behind the mappings.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Pair {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { native: Native::new(), soft: Interpreter::new(), _alone: alone }
    }

    /// What differs.
    fn differences(&mut self, i: &Instruction, input: &Input) -> String {
        let native = self.native.run(input);
        let soft = self.soft.run(input);
        verdict::differences(i, input, &native, &soft)
    }

    /// Leaves out of the input what does not matter.
    fn shrink(&mut self, i: &Instruction, input: &mut Input) -> String {
        let mut last = self.differences(i, input);
        let mut attempt = |pair: &mut Self, change: &dyn Fn(&mut Input)| {
            let mut smaller = input.clone();
            change(&mut smaller);
            let differences = pair.differences(i, &smaller);
            if !differences.is_empty() {
                *input = smaller;
                last = differences;
            }
        };
        attempt(self, &|input| input.data.fill(0));
        attempt(self, &|input| input.fx = Fx::new());
        attempt(self, &|input| input.rflags = 0x202);
        attempt(self, &|input| input.stepped = true);
        attempt(self, &|input| input.limited = true);
        for n in (0..16).filter(|&n| n != RSP) {
            attempt(self, &|input| input.gpr[n] = 0);
        }
        attempt(self, &|input| input.gpr[RSP] = crate::machine::DATA + 0x800);
        for n in 0..16 {
            attempt(self, &|input| input.fx.set_xmm(n, 0));
        }
        attempt(self, &|input| input.fx.set_mxcsr(0x1f80));
        attempt(self, &|input| input.fx.set_u16(0, 0x37f));
        last
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = setting("DIFFERENTIAL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("DIFFERENTIAL_SEED={seed}");
        seed
    })
}

fn describe(i: &Instruction, input: &Input, differences: &str) -> String {
    use std::fmt::Write;
    let mut text = format!("  {i} {:02x?} at {:#x}", input.code, input.rip);
    let mut at = i.len();
    while at < input.code.len() && !i.is_invalid() {
        let next = forms::decode(input.bits, &input.code[at..], input.rip + at as u64);
        let _ = write!(text, "; {next}");
        at += next.len();
    }
    if !input.stepped {
        text += ", in a block";
    }
    text += "\n    from";
    for (n, value) in input.gpr.iter().enumerate() {
        if *value != 0 {
            let _ = write!(text, " r{n}={value:#x}");
        }
    }
    let _ = write!(text, " rflags={:#x}", input.rflags);
    if input.fx != Fx::new() {
        let _ = write!(
            text,
            " mxcsr={:#x} fcw={:#x} fsw={:#x} ftw={:#x}",
            input.fx.mxcsr(),
            input.fx.u16(0),
            input.fx.u16(2),
            input.fx.0[4]
        );
        for n in 0..16 {
            if input.fx.xmm(n) != 0 {
                let _ = write!(text, " xmm{n}={:#x}", input.fx.xmm(n));
            }
        }
        for n in 0..8 {
            let _ = write!(text, " st{n}={:02x?}", input.fx.st(n));
        }
    }
    if input.target != 0 {
        let _ = write!(text, " operand at {:#x}:", input.target);
        let at = input.target.wrapping_sub(crate::machine::DATA) as usize;
        for n in 0..16 {
            match input.data.get(at.wrapping_add(n)) {
                Some(byte) => drop(write!(text, " {byte:02x}")),
                None => text += " --",
            }
        }
    }
    format!("{text}\n{differences}")
}

/// Every form of 64-bit code with random operands.
#[test]
fn every_form_as_the_processor() {
    every_form(64, 100);
}

/// Every form of 32-bit code, in compatibility mode.
#[test]
fn every_form_of_32_bits_as_the_processor() {
    every_form(32, 50);
}

fn every_form(bits: u32, cases: u64) {
    let cases: u64 = setting("DIFFERENTIAL_CASES").unwrap_or(cases);
    let wanted: String = setting("DIFFERENTIAL_FORM").unwrap_or_default();
    let seed = seed();
    let mut pair = Pair::new();
    let mut failures: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let (mut forms_tried, mut executed) = (0, 0u64);
    for form in forms::all(bits) {
        let name = format!("{:?}{}", form.code, if form.memory { " (memory)" } else { "" });
        if !name.to_lowercase().contains(&wanted.to_lowercase()) {
            continue;
        }
        forms_tried += 1;
        let mut random = Random::new(seed ^ (form.code as u64) << 1 ^ u64::from(form.memory));
        for _ in 0..cases {
            let Some((mut input, i)) = cases::case(&mut random, &form) else { continue };
            executed += 1;
            let differences = pair.differences(&i, &input);
            if differences.is_empty() {
                continue;
            }
            let failure = failures.entry(name.clone()).or_insert_with(|| {
                let differences = pair.shrink(&i, &mut input);
                (0, describe(&i, &input, &differences))
            });
            failure.0 += 1;
        }
    }
    println!("{forms_tried} forms, {executed} cases");
    assert!(executed > 0, "no form is called {wanted}");
    for (name, (count, text)) in &failures {
        println!("{name}: {count} cases differ\n{text}");
    }
    assert!(failures.is_empty(), "{} forms differ; DIFFERENTIAL_SEED={seed}", failures.len());
}

/// Whether executing the bytes here would do more than change the state that is put back.
fn is_safe(i: &Instruction, input: &Input) -> bool {
    let into_itself =
        matches!(i.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16)
            && i.near_branch_target().wrapping_sub(input.rip) < i.len() as u64;
    let pops_flags = matches!(i.mnemonic(), Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq);
    let implementation = matches!(
        i.mnemonic(),
        Mnemonic::Maskmovdqu | Mnemonic::Maskmovq | Mnemonic::Ldmxcsr | Mnemonic::Fxrstor
    );
    // They store the pointers of the last x87 instruction, which some processors keep from earlier cases.
    let implementation = implementation
        || matches!(i.mnemonic(), Mnemonic::Fnsave | Mnemonic::Fsave | Mnemonic::Fnstenv | Mnemonic::Fstenv);
    let fs = i.segment_prefix() == Register::FS;
    !into_itself && !pops_flags && !implementation && !fs
}

/// What is wrong with the outcome of an instruction that the software CPU does not have.
fn must_be_undefined(soft: &Outcome, input: &Input) -> String {
    let narrow_branch = input.code.contains(&0x66) && soft.vector == PROTECTION;
    // #PF where the bytes are not all there.
    if (matches!(soft.vector, UNDEFINED | PAGE_FAULT) || narrow_branch) && soft.rip == input.rip {
        String::new()
    } else {
        format!("    not offered, but vector {}\n", soft.vector)
    }
}

/// Random bytes: what is undefined for the processor is for the software CPU, too, and what is not does the same.
#[test]
fn random_bytes_as_the_processor() {
    random_bytes(64);
}

/// As that, in compatibility mode.
#[test]
fn random_bytes_of_32_bits_as_the_processor() {
    random_bytes(32);
}

fn random_bytes(bits: u32) {
    let cases: u64 = setting("DIFFERENTIAL_CASES").map_or(30_000, |cases: u64| cases * 300);
    let seed = seed();
    let mut pair = Pair::new();
    let mut failures: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let (mut executed, mut undefined, mut not_offered) = (0u64, 0u64, 0u64);
    for case in 0..cases {
        let mut random = Random::new(seed ^ case << 16);
        let mut input = cases::raw(&mut random, bits);
        let mut i = forms::decode(input.bits, &input.code, input.rip);
        let mut differences = if i.is_invalid() {
            undefined += 1;
            // How many bytes are fetched of an instruction that is undefined is the implementation's choice.
            if input.rip + 15 > CODE + (CODE_PAGES * PAGE) as u64 {
                continue;
            }
            match forms::undefined(&input.code) {
                Undefined::Always => pair.differences(&i, &input),
                Undefined::OrTooLong if pair.native.run(&input).vector == PROTECTION => String::new(),
                Undefined::OrTooLong => pair.differences(&i, &input),
                Undefined::NotHere => must_be_undefined(&pair.soft.run(&input), &input),
            }
        } else {
            input.code.truncate(i.len());
            if !forms::is_comparable(&i) || forms::is_vendor_specific(&input.code, &i) || !is_safe(&i, &input)
            {
                continue;
            }
            cases::fit(&mut random, &mut input, &i);
            i = forms::decode(input.bits, &input.code, input.rip);
            if forms::is_offered(&i) {
                executed += 1;
                pair.differences(&i, &input)
            } else if forms::is_system(&i) {
                continue;
            } else {
                not_offered += 1;
                must_be_undefined(&pair.soft.run(&input), &input)
            }
        };
        if !differences.is_empty() {
            let mut name = format!("{:?}", i.code());
            if i.is_invalid() && differences.contains("vector") {
                name += differences.lines().next().unwrap_or_default();
            }
            let failure = failures.entry(name).or_insert_with(|| {
                if forms::is_offered(&i) && !i.is_invalid() {
                    differences = pair.shrink(&i, &mut input);
                }
                (0, describe(&i, &input, &differences))
            });
            failure.0 += 1;
        }
    }
    println!("{executed} executed, {undefined} undefined, {not_offered} not offered");
    for (name, (count, text)) in &failures {
        println!("{name}: {count} cases differ\n{text}");
    }
    assert!(failures.is_empty(), "{} forms differ; DIFFERENTIAL_SEED={seed}", failures.len());
}

/// Several instructions in a block: flags that a later one needs, jumps that are joined with what is before them,
/// loops.
#[test]
fn sequences_as_the_processor() {
    sequences(64);
}

/// As that, in compatibility mode.
#[test]
fn sequences_of_32_bits_as_the_processor() {
    sequences(32);
}

fn sequences(bits: u32) {
    let cases: u64 = setting("DIFFERENTIAL_CASES").map_or(30_000, |cases: u64| cases * 300);
    let seed = seed();
    let mut pair = Pair::new();
    let forms = forms::all(bits);
    let forms = cases::sequence_forms(&forms, bits);
    let mut failures = Vec::new();
    for case in 0..cases {
        let mut random = Random::new(seed ^ case << 16);
        let mut input = cases::sequence(&mut random, &forms, bits);
        // What is undefined has been left out of the sequence.
        let nop = forms::decode(bits, &[0x90; 15], 0);
        if !pair.differences(&nop, &input).is_empty() {
            let differences = pair.shrink(&nop, &mut input);
            failures.push(describe(&forms::decode(input.bits, &input.code, input.rip), &input, &differences));
        }
    }
    println!("{cases} sequences of {} forms", forms.len());
    for text in failures.iter().take(20) {
        println!("{text}");
    }
    assert!(failures.is_empty(), "{} sequences differ; DIFFERENTIAL_SEED={seed}", failures.len());
}
