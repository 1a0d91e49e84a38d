//! RDRAND and RDSEED: the host's random numbers.

#![forbid(unsafe_code)]

use iced_x86::Instruction;

use super::super::flags::rflags;
use super::super::state::Cpu;
use super::operand;

/// Numbers fetched from the host at a time.
const BATCH: usize = 32;

/// A store of random numbers.
#[derive(Debug, Clone, Default)]
pub struct Random {
    numbers: Vec<u64>,
}

impl Random {
    /// A random number; none if the host has none to give.
    fn next(&mut self) -> Option<u64> {
        if self.numbers.is_empty() {
            self.numbers.extend((0..BATCH).map_while(|_| getrandom::u64().ok()));
        }
        self.numbers.pop()
    }
}

/// RDRAND, RDSEED: CF says whether there was a number.
pub fn random(cpu: &mut Cpu, instruction: &Instruction) {
    let number = cpu.system.random.next();
    operand::set_register(cpu, instruction.op0_register(), number.unwrap_or(0));
    cpu.set_arithmetic(if number.is_some() { rflags::CF } else { 0 });
}
