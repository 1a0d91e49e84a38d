//! Bit tests and scans.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Flow;
use super::operand::{operand_size, register_offset, segment_index};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::rflags;
use crate::accel::soft::integer::Int;
use crate::accel::soft::state::Cpu;

/// BT, BTS, BTR, BTC. A bit offset in a register reaches beyond a memory operand.
pub fn test(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let offset: T = cpu.operand(i, 1)?;
        let bit = 1u64 << (offset.to_u64() % u64::from(T::BITS));
        let mnemonic = i.mnemonic();
        let change = |a: T| {
            T::from_u64(match mnemonic {
                Mnemonic::Bts => a.to_u64() | bit,
                Mnemonic::Btr => a.to_u64() & !bit,
                Mnemonic::Btc => a.to_u64() ^ bit,
                _ => a.to_u64(),
            })
        };
        let old = if i.op0_kind() == OpKind::Memory {
            let writes = mnemonic != Mnemonic::Bt;
            let mut address = cpu.effective_address(i);
            if i.op1_kind() == OpKind::Register {
                let words = offset.to_i64() >> T::BITS.trailing_zeros();
                address = address.wrapping_add((words as u64).wrapping_mul(T::BYTES));
                address &= cpu.address_mask(i);
            }
            let la = cpu.linear(segment_index(i.memory_segment()), address, T::BYTES, writes)?;
            if writes { cpu.modify(la, i.has_lock_prefix(), change)?.0 } else { cpu.load(la)? }
        } else {
            let register = register_offset(i.op0_register());
            let old: T = cpu.reg(register);
            if mnemonic != Mnemonic::Bt {
                cpu.set_reg(register, change(old));
            }
            old
        };
        let carry = if old.to_u64() & bit != 0 { rflags::CF } else { 0 };
        cpu.set_arithmetic(cpu.lazy.arithmetic() & !rflags::CF | carry);
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// BSF, or BSR with `reverse`. A source of 0 leaves the destination as it is.
pub fn scan(cpu: &mut Cpu, i: &Instruction, reverse: bool) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction, reverse: bool) -> Exec<Flow> {
        let source: T = cpu.operand(i, 1)?;
        let value = source.to_u64();
        let flags = cpu.lazy.arithmetic();
        if value == 0 {
            cpu.set_arithmetic(flags | rflags::ZF);
        } else {
            let position = if reverse { 63 - value.leading_zeros() } else { value.trailing_zeros() };
            cpu.set_reg(register_offset(i.op0_register()), T::from_u64(position.into()));
            cpu.set_arithmetic(flags & !rflags::ZF);
        }
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        2 => sized::<u16>(cpu, i, reverse),
        4 => sized::<u32>(cpu, i, reverse),
        _ => sized::<u64>(cpu, i, reverse),
    }
}

/// POPCNT.
pub fn popcnt(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let source: T = cpu.operand(i, 1)?;
        let count = T::from_u64(source.to_u64().count_ones().into());
        cpu.set_reg(register_offset(i.op0_register()), count);
        cpu.set_arithmetic(if count.to_u64() == 0 { rflags::ZF } else { 0 });
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}
