//! Decimal adjustment: AAA, AAS, AAM, AAD, DAA, DAS (not in 64-bit mode).

use iced_x86::{Instruction, Mnemonic};

use super::Flow;
use crate::accel::soft::abort::{Exec, vector};
use crate::accel::soft::flags::{result_flags, rflags};
use crate::accel::soft::state::Cpu;

/// Executes a decimal adjustment.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let flags = cpu.lazy.arithmetic();
    let adjust = flags & rflags::AF != 0;
    let carry = flags & rflags::CF != 0;
    let (al, ah): (u8, u8) = (cpu.reg(0), cpu.reg(1));
    match i.mnemonic() {
        Mnemonic::Aaa | Mnemonic::Aas => {
            let over = al & 15 > 9 || adjust;
            let mut ax: u16 = cpu.reg(0);
            if over {
                ax = if i.mnemonic() == Mnemonic::Aaa {
                    ax.wrapping_add(0x106)
                } else {
                    ax.wrapping_sub(0x106)
                };
            }
            ax &= 0xff0f;
            cpu.set_reg(0, ax);
            let set = if over { rflags::AF | rflags::CF } else { 0 };
            cpu.set_arithmetic(result_flags(ax as u8) | set);
        }
        Mnemonic::Aam => {
            let base = i.immediate8();
            if base == 0 {
                return cpu.raise(vector::DE, None);
            }
            cpu.set_reg(1, al / base);
            cpu.set_reg(0, al % base);
            cpu.set_arithmetic(result_flags(al % base));
        }
        Mnemonic::Aad => {
            let value = ah.wrapping_mul(i.immediate8()).wrapping_add(al);
            cpu.set_reg(0, u16::from(value));
            cpu.set_arithmetic(result_flags(value));
        }
        mnemonic => {
            let low = al & 15 > 9 || adjust;
            let high = al > 0x99 || carry;
            let change = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
            let (value, borrow) = if mnemonic == Mnemonic::Daa {
                (al.wrapping_add(change), false)
            } else {
                (al.wrapping_sub(change), low && al < 6)
            };
            cpu.set_reg(0, value);
            let mut new = result_flags(value);
            if low {
                new |= rflags::AF;
            }
            if high || borrow {
                new |= rflags::CF;
            }
            cpu.set_arithmetic(new);
        }
    }
    Ok(Flow::Next)
}
