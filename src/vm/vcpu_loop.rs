//! The loop of one vCPU: run, look at the exit, ask the bus, run again.

use crate::accel::{Activity, SpecialRegs, VcpuExit, VcpuOps, VcpuResult};
use crate::devices::bus::Bus;
use crate::outcome::Outcome;

use super::run_state::RunState;

/// What a vCPU's exits are answered by.
pub struct Platform {
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

/// Runs `vcpu` until the run ends, by this vCPU or by any other thread.
///
/// # Errors
/// When the host's hypervisor fails.
pub fn run_vcpu<V: VcpuOps>(vcpu: &mut V, platform: &Platform, state: &RunState) -> VcpuResult<()> {
    let id = vcpu.get_id();
    while !state.ended() {
        match vcpu.run()? {
            VcpuExit::IoIn { port, data } => platform.ports.read(port.into(), data),
            VcpuExit::IoOut { port, data } => platform.ports.write(port.into(), data),
            VcpuExit::MmioRead { gpa, data } => platform.mmio.read(gpa, data),
            VcpuExit::MmioWrite { gpa, data } => platform.mmio.write(gpa, data),
            VcpuExit::Hlt => state.note_activity(id, Activity::HaltedForever),
            VcpuExit::Interrupted => {
                if state.take_question(id) {
                    state.note_activity(id, vcpu.activity()?);
                }
            }
            VcpuExit::Shutdown => {
                let rip = linear_rip(vcpu);
                state.finish(Ok(Outcome::TripleFault { vcpu: id, rip }));
            }
            VcpuExit::EmulationFailure { rip, bytes } => {
                state.finish(Ok(Outcome::EmulationFailure { vcpu: id, rip, bytes }));
            }
            VcpuExit::Debug => {}
        }
    }
    Ok(())
}

/// The vCPU's linear instruction pointer, where the backend can still tell.
pub fn linear_rip<V: VcpuOps>(vcpu: &V) -> Option<u64> {
    let rip = vcpu.get_regs().ok()?.instruction_pointer();
    let SpecialRegs::X86_64(special) = vcpu.get_special_regs().ok()?;
    Some(rip.wrapping_add(special.cs.base))
}
