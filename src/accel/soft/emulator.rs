//! One instruction at a time, for a hypervisor that leaves MMIO and string I/O to its user.
//!
//! The interpreter itself executes it, on a copy of the vCPU's registers and on the guest's RAM, so there
//! is no second emulator whose gaps a guest could meet.

#![forbid(unsafe_code)]

use super::abort::AbortReason;
use super::ram::Ram;
use super::state::Cpu;
use super::vcpu::SoftVcpu;
use super::wakeup::Wakeup;
use crate::accel::{
    FpuRegs, GuestRegs, SpecialRegs, VcpuError, VcpuOps, VcpuResult, X86FpuRegs, X86Regs, X86SpecialRegs,
};
use crate::devices::irqchip::lapic::MSR_APIC_BASE;
use crate::memory::GuestMemory;

/// An access that the instruction under way needs an answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A load of `size` bytes from a port.
    IoIn {
        /// I/O port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// A store of the low `size` bytes of `value` to a port.
    IoOut {
        /// I/O port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// The value.
        value: u32,
    },
    /// A load of `size` bytes from an address without RAM.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes: 1 to 8.
        size: u8,
    },
    /// A store of the low `size` bytes of `value` to an address without RAM.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes: 1 to 8.
        size: u8,
        /// The value.
        value: u64,
    },
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The instruction, or one round of a repeated one, is done, or its exception delivered: the registers
    /// are those behind it.
    Done,
    /// It needs an answer: `answer`, then another `step`.
    Access(Access),
    /// A valid instruction that the interpreter does not implement.
    Unimplemented {
        /// Its linear address.
        rip: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Its exception could not be delivered.
    TripleFault,
}

/// The registers that an instruction can read or change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// General registers.
    pub general: X86Regs,
    /// Segment, control and system registers.
    pub special: X86SpecialRegs,
    /// x87 and SSE registers.
    pub fpu: X86FpuRegs,
}

/// Executes single instructions of one vCPU.
pub struct Emulator {
    vcpu: SoftVcpu,
}

impl Emulator {
    /// The emulator of vCPU `id`, whose RAM is `memory`.
    #[must_use]
    pub fn new(id: u32, memory: &GuestMemory) -> Self {
        let cpu = Cpu::new(id, Ram::new(memory));
        // The hypervisor's APIC is the real one: this one must not answer at its address.
        let _ = cpu.lapic.msr_write(MSR_APIC_BASE, 0xfee0_0000);
        Self { vcpu: SoftVcpu::new(cpu, Wakeup::default().into()) }
    }

    /// Begins with the instruction at RIP of `registers`.
    ///
    /// # Errors
    /// Never for this CPU.
    pub fn load(&mut self, registers: &Registers) -> VcpuResult<()> {
        // 0 leaves this CPU's own APIC as it is.
        let special = X86SpecialRegs { apic_base: 0, ..registers.special };
        self.vcpu.set_special_regs(&SpecialRegs::X86_64(special))?;
        self.vcpu.set_regs(&GuestRegs::X86_64(registers.general))?;
        self.vcpu.set_fpu_regs(&FpuRegs::X86_64(registers.fpu))
    }

    /// Executes on, up to the end of the instruction or its next access.
    pub fn step(&mut self) -> Step {
        match self.vcpu.step() {
            AbortReason::None | AbortReason::Exception(_) | AbortReason::Retry => Step::Done,
            AbortReason::IoIn { port, size } => Step::Access(Access::IoIn { port, size }),
            AbortReason::IoOut { port, size, value } => Step::Access(Access::IoOut { port, size, value }),
            AbortReason::MmioRead { gpa, size } => Step::Access(Access::MmioRead { gpa, size }),
            AbortReason::MmioWrite { gpa, size, value } => {
                Step::Access(Access::MmioWrite { gpa, size, value })
            }
            AbortReason::Unimplemented => {
                let (rip, bytes) = self.vcpu.instruction();
                Step::Unimplemented { rip, bytes }
            }
            AbortReason::TripleFault => Step::TripleFault,
        }
    }

    /// Answers the access of the last step: with the value of a load, or `None` for a store that is done.
    pub fn answer(&mut self, value: Option<u64>) {
        self.vcpu.answer(value);
    }

    /// The registers as they are now, with `apic_base` of the hypervisor's.
    ///
    /// # Errors
    /// Never for this CPU.
    pub fn registers(&self, apic_base: u64) -> VcpuResult<Registers> {
        let all = (self.vcpu.get_regs()?, self.vcpu.get_special_regs()?, self.vcpu.get_fpu_regs()?);
        let (GuestRegs::X86_64(general), SpecialRegs::X86_64(special), FpuRegs::X86_64(fpu)) = all else {
            return Err(VcpuError::OtherGuest { id: self.vcpu.get_id() });
        };
        Ok(Registers { general, special: X86SpecialRegs { apic_base, ..special }, fpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::{Segment, X86FpuRegs, X86Regs, X86SpecialRegs};
    use crate::memory;
    use vm_memory::{Bytes, GuestAddress};

    /// Flat real mode with the code at 0x1000.
    fn registers(general: X86Regs) -> Registers {
        let data =
            Segment { limit: u32::MAX, type_: 3, present: true, s: true, g: true, ..Segment::default() };
        let special = X86SpecialRegs {
            cs: Segment { type_: 11, ..data },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            apic_base: 0xfee0_0900,
            ..X86SpecialRegs::default()
        };
        Registers {
            general: X86Regs { rip: 0x1000, rflags: 2, ..general },
            special,
            fpu: X86FpuRegs::default(),
        }
    }

    fn emulator(code: &[u8]) -> Emulator {
        let memory = memory::allocate(64 << 10).unwrap();
        memory.write_slice(code, GuestAddress(0x1000)).unwrap();
        Emulator::new(0, &memory)
    }

    fn general(emulator: &Emulator) -> X86Regs {
        emulator.registers(0).unwrap().general
    }

    #[test]
    fn a_read_modify_write_of_mmio_is_two_accesses() {
        // add dword [ebx], eax, with 32-bit address and operand
        let mut emulator = emulator(&[0x67, 0x66, 0x01, 0x03]);
        emulator.load(&registers(X86Regs { rax: 5, rbx: 0xd000_0000, ..X86Regs::default() })).unwrap();
        let read = Access::MmioRead { gpa: 0xd000_0000, size: 4 };
        assert_eq!(emulator.step(), Step::Access(read));
        emulator.answer(Some(7));
        assert_eq!(emulator.step(), Step::Access(Access::MmioWrite { gpa: 0xd000_0000, size: 4, value: 12 }));
        emulator.answer(None);
        assert_eq!(emulator.step(), Step::Done);
        assert_eq!(general(&emulator).rip, 0x1004);
    }

    #[test]
    fn a_repeated_input_is_done_round_by_round() {
        // rep insb
        let mut emulator = emulator(&[0xf3, 0x6c]);
        let regs = X86Regs { rcx: 2, rdx: 0x60, rdi: 0x2000, ..X86Regs::default() };
        emulator.load(&registers(regs)).unwrap();
        for (round, byte) in [(1, 0x41), (0, 0x42)] {
            assert_eq!(emulator.step(), Step::Access(Access::IoIn { port: 0x60, size: 1 }));
            emulator.answer(Some(byte));
            assert_eq!(emulator.step(), Step::Done);
            assert_eq!(general(&emulator).rcx, round);
        }
        while general(&emulator).rip == 0x1000 {
            assert_eq!(emulator.step(), Step::Done);
        }
        assert_eq!((general(&emulator).rip, general(&emulator).rdi), (0x1002, 0x2002));
    }

    #[test]
    fn the_apics_address_is_mmio_like_any_other() {
        // mov eax, [ebx]
        let mut emulator = emulator(&[0x67, 0x66, 0x8b, 0x03]);
        emulator.load(&registers(X86Regs { rbx: 0xfee0_0020, ..X86Regs::default() })).unwrap();
        assert_eq!(emulator.step(), Step::Access(Access::MmioRead { gpa: 0xfee0_0020, size: 4 }));
    }
}
