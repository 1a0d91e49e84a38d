//! Guests that mean harm: any instruction on any state, and nothing may panic.

use iced_x86::{Decoder, DecoderOptions};
use proptest::prelude::*;

use super::machine::*;
use crate::accel::soft::abort::{AbortReason, Exception};
use crate::accel::soft::execute::Flow;
use crate::accel::soft::state::Cpu;
use crate::accel::soft::system::{delivery, execute};
use crate::accel::{DescriptorTable, Segment};

/// Opcodes of the system side, to be followed by random bytes.
const OPCODES: &[&[u8]] = &[
    &[0x0f, 0x00],
    &[0x0f, 0x01],
    &[0x0f, 0x02],
    &[0x0f, 0x03],
    &[0x0f, 0x05],
    &[0x0f, 0x07],
    &[0x48, 0x0f, 0x07],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0xa2],
    &[0x0f, 0xa9],
    &[0x0f, 0xae],
    &[0x48, 0x0f, 0xae],
    &[0xf3, 0x48, 0x0f, 0xae],
    &[0x0f, 0xb2],
    &[0x0f, 0xb4],
    &[0x0f, 0xc7],
    &[0x63],
    &[0x8e],
    &[0x9a],
    &[0xc5],
    &[0xca],
    &[0xcb],
    &[0x48, 0xcb],
    &[0xcc],
    &[0xcd],
    &[0xcf],
    &[0x48, 0xcf],
    &[0x66, 0xcf],
    &[0xea],
    &[0xff],
];

/// Words with which tables and registers are filled: some all random, some nearly sensible.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..0x10000,
        (any::<u8>(), 0u16..0x100, any::<u8>()).prop_map(|(kind, selector, low)| gate(
            kind & 15,
            selector,
            HANDLER,
            kind >> 4 & 3,
            low
        )),
        (0u64..16, any::<u64>())
            .prop_map(|(kind, noise)| 0x00cf_9000_0000_ffff | kind << 40 | noise & 3 << 45),
        Just(u64::MAX),
        Just(1 << 47),
    ]
}

fn scramble(cpu: &mut Cpu, words: &[u64], wild: bool) {
    let mut words = words.iter().copied().cycle();
    let mut next = || words.next().unwrap_or(0);
    for table in [GDT, IDT, TSS, LDT, 0x4000, STACK - 0x200] {
        for i in 0..64 {
            put(cpu, table + i * 8, 8, next());
        }
    }
    for register in &mut cpu.gpr {
        *register = next();
    }
    cpu.gpr[4] = STACK - (next() & 0xff);
    if wild {
        cpu.gdt = DescriptorTable { base: next(), limit: next() as u16 };
        cpu.idt = DescriptorTable { base: next(), limit: next() as u16 };
        let segment = Segment { base: next(), limit: next() as u32, type_: next() as u8 & 15, ..cpu.tr };
        cpu.tr = segment;
        cpu.ldt = segment;
        cpu.gpr[4] = next();
        cpu.rip = next();
        cpu.seg[2].limit = next() as u32;
    }
    cpu.set_rflags(next() & 0x0025_7fd7);
    cpu.update_mode();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_panics(
        words in proptest::collection::vec(word(), 32..97),
        opcode in 0..OPCODES.len(),
        tail in any::<[u8; 10]>(),
        vector in any::<u8>(),
        wild in any::<bool>(),
    ) {
        let machines: [fn() -> Cpu; 7] = [
            real,
            || protected(0),
            || protected(3),
            || virtual8086(3),
            || long(0),
            || long(3),
            || compatibility(0),
        ];
        for machine in machines {
            let mut cpu = machine();
            scramble(&mut cpu, &words, wild);
            let bytes = [OPCODES[opcode], &tail].concat();
            let mut decoder = Decoder::with_ip(cpu.code_bits(), &bytes, cpu.rip, DecoderOptions::NONE);
            let instruction = decoder.decode();
            cpu.next_rip = instruction.next_ip();
            let before = (cpu.gpr, cpu.rip, cpu.seg, cpu.tr.selector);
            match execute(&mut cpu, &instruction) {
                Ok(Flow::Next | Flow::Jump | Flow::Halt) => {}
                Err(_) => {
                    prop_assert_ne!(cpu.abort, AbortReason::None);
                    // A fault leaves no trace, but in a task switch that is past its middle.
                    let after = (cpu.gpr, cpu.rip, cpu.seg, cpu.tr.selector);
                    prop_assert!(before == after || before.3 != after.3, "{:?}", instruction);
                }
            }
            let _ = delivery::deliver_interrupt(&mut cpu, vector);
            let error_code = Some(u32::from(tail[0]));
            let _ = delivery::deliver_exception(&mut cpu, Exception { vector: vector & 31, error_code });
        }
    }
}
