//! The loop of one vCPU: run, look at the exit, ask the bus, run again.

use crate::accel::{Activity, SystemEvent, VcpuExit, VcpuOps, VcpuResult};
use crate::devices::bus::Bus;
use crate::outcome::Outcome;

use super::facts::ExitCounts;
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
    let mut exits = ExitCounts::default();
    let result = run_counting(vcpu, platform, state, &mut exits);
    state.add_exits(&exits);
    result
}

fn run_counting<V: VcpuOps>(
    vcpu: &mut V,
    platform: &Platform,
    state: &RunState,
    exits: &mut ExitCounts,
) -> VcpuResult<()> {
    let id = vcpu.get_id();
    while !state.ended() {
        let exit = vcpu.run()?;
        exits.count(&exit);
        match exit {
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
            VcpuExit::SystemEvent(event) => state.finish(Ok(match event {
                SystemEvent::PowerOff => Outcome::PoweredOff,
                SystemEvent::Reset => Outcome::Reset,
                SystemEvent::Crash => Outcome::Panicked,
            })),
        }
    }
    Ok(())
}

/// The vCPU's linear instruction pointer, where the backend can still tell.
pub fn linear_rip<V: VcpuOps>(vcpu: &V) -> Option<u64> {
    let rip = vcpu.get_regs().ok()?.instruction_pointer();
    Some(rip.wrapping_add(vcpu.get_special_regs().ok()?.code_base()))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::accel::{
        FpuRegs, GuestRegs, Kick, SpecialRegs, VcpuError, X86FpuRegs, X86Regs, X86SpecialRegs,
    };
    use crate::console::Doorbell;
    use crate::devices::{Device, lock};

    /// One scripted exit; a read carries the answer that the loop must give.
    enum Step {
        IoIn(u16, Vec<u8>),
        IoOut(u16, Vec<u8>),
        MmioRead(u64, Vec<u8>),
        MmioWrite(u64, Vec<u8>),
        Hlt,
        Shutdown,
        Interrupted,
        Failure,
        Debug,
        SystemEvent(SystemEvent),
        Error,
    }

    /// A vCPU that gives scripted exits and checks the answers.
    struct Mock {
        script: VecDeque<Step>,
        /// The buffer of the read under way, and what must be in it at the next run.
        data: Vec<u8>,
        expected: Option<Vec<u8>>,
        runs: usize,
        activity: Activity,
    }

    impl Mock {
        fn new(script: impl Into<VecDeque<Step>>) -> Self {
            let script = script.into();
            Self { script, data: Vec::new(), expected: None, runs: 0, activity: Activity::Running }
        }

        fn buffer(&mut self, expected: Vec<u8>) -> &mut [u8] {
            self.data = vec![0xaa; expected.len()];
            self.expected = Some(expected);
            &mut self.data
        }
    }

    impl VcpuOps for Mock {
        fn get_id(&self) -> u32 {
            0
        }

        fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
            self.runs += 1;
            if let Some(expected) = self.expected.take() {
                assert_eq!(self.data, expected, "the answer that the last exit got");
            }
            Ok(match self.script.pop_front().expect("the loop ran past the end of the script") {
                Step::IoIn(port, answer) => VcpuExit::IoIn { port, data: self.buffer(answer) },
                Step::MmioRead(gpa, answer) => VcpuExit::MmioRead { gpa, data: self.buffer(answer) },
                Step::IoOut(port, bytes) => {
                    self.data = bytes;
                    VcpuExit::IoOut { port, data: &self.data }
                }
                Step::MmioWrite(gpa, bytes) => {
                    self.data = bytes;
                    VcpuExit::MmioWrite { gpa, data: &self.data }
                }
                Step::Hlt => VcpuExit::Hlt,
                Step::Shutdown => VcpuExit::Shutdown,
                Step::Interrupted => VcpuExit::Interrupted,
                Step::Failure => VcpuExit::EmulationFailure { rip: 0x1234, bytes: vec![0x0f, 0xff] },
                Step::Debug => VcpuExit::Debug,
                Step::SystemEvent(event) => VcpuExit::SystemEvent(event),
                Step::Error => {
                    let source = io::Error::from_raw_os_error(14);
                    return Err(VcpuError::Host { id: 0, operation: "KVM_RUN", source });
                }
            })
        }

        fn get_regs(&self) -> VcpuResult<GuestRegs> {
            Ok(GuestRegs::X86_64(X86Regs { rip: 0x50, ..Default::default() }))
        }

        fn set_regs(&mut self, _regs: &GuestRegs) -> VcpuResult<()> {
            Ok(())
        }

        fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
            Ok(FpuRegs::X86_64(X86FpuRegs::default()))
        }

        fn set_fpu_regs(&mut self, _regs: &FpuRegs) -> VcpuResult<()> {
            Ok(())
        }

        fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
            let mut special = X86SpecialRegs::default();
            special.cs.base = 0x1000;
            Ok(SpecialRegs::X86_64(special))
        }

        fn set_special_regs(&mut self, _regs: &SpecialRegs) -> VcpuResult<()> {
            Ok(())
        }

        fn activity(&self) -> VcpuResult<Activity> {
            Ok(self.activity)
        }

        fn kicker(&self) -> Arc<dyn Kick> {
            Arc::new(NoKick)
        }
    }

    struct NoKick;

    impl Kick for NoKick {
        fn kick(&self) {}
    }

    /// Remembers the writes, answers reads with 0x10, 0x11, …; a write to offset 7 ends the run.
    struct Recorder {
        writes: Vec<(u64, Vec<u8>)>,
        state: Arc<RunState>,
    }

    impl Device for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            for (value, byte) in (0x10 + offset as u8..).zip(data) {
                *byte = value;
            }
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
            if offset == 7 {
                self.state.finish(Ok(Outcome::PoweredOff));
            }
        }
    }

    struct Rig {
        platform: Platform,
        state: Arc<RunState>,
        recorder: Arc<Mutex<Recorder>>,
    }

    impl Rig {
        fn new() -> Self {
            let state = Arc::new(RunState::new(1, Arc::new(Doorbell::new().unwrap())));
            let recorder = Arc::new(Mutex::new(Recorder { writes: Vec::new(), state: Arc::clone(&state) }));
            let mut platform = Platform { ports: Bus::new(), mmio: Bus::new() };
            platform.ports.insert(0x100, 8, "recorder", recorder.clone()).unwrap();
            platform.mmio.insert(0xd000_0000, 0x1000, "recorder", recorder.clone()).unwrap();
            Self { platform, state, recorder }
        }

        fn run(&self, script: Vec<Step>) -> (Mock, VcpuResult<()>) {
            let mut mock = Mock::new(script);
            let result = run_vcpu(&mut mock, &self.platform, &self.state);
            (mock, result)
        }
    }

    const END: (u16, u8) = (0x107, 0);

    fn end() -> Step {
        Step::IoOut(END.0, vec![END.1])
    }

    #[test]
    fn accesses_reach_the_bus_and_answers_come_back() {
        let rig = Rig::new();
        let (mock, result) = rig.run(vec![
            Step::IoIn(0x101, vec![0x11, 0x12]),
            Step::IoIn(0x200, vec![0xff; 4]),
            Step::MmioRead(0xd000_0004, vec![0x14, 0x15, 0x16, 0x17]),
            Step::MmioRead(0xe000_0000, vec![0xff; 8]),
            Step::IoOut(0x102, vec![1, 2]),
            Step::MmioWrite(0xd000_0008, vec![3; 8]),
            Step::MmioWrite(0xe000_0000, vec![4]),
            Step::Debug,
            end(),
        ]);
        result.unwrap();
        assert!(mock.script.is_empty());
        let writes = &lock(&rig.recorder).writes;
        assert_eq!(writes[..2], [(2, vec![1, 2]), (8, vec![3; 8])]);
        assert!(matches!(rig.state.take_end(), Some(Ok(Outcome::PoweredOff))));
    }

    #[test]
    fn fates_end_the_loop() {
        for (step, outcome) in [
            (Step::SystemEvent(SystemEvent::PowerOff), Outcome::PoweredOff),
            (Step::SystemEvent(SystemEvent::Reset), Outcome::Reset),
            (Step::SystemEvent(SystemEvent::Crash), Outcome::Panicked),
            (Step::Shutdown, Outcome::TripleFault { vcpu: 0, rip: Some(0x1050) }),
            (Step::Failure, Outcome::EmulationFailure { vcpu: 0, rip: 0x1234, bytes: vec![0x0f, 0xff] }),
        ] {
            let rig = Rig::new();
            let (mock, result) = rig.run(vec![step]);
            result.unwrap();
            assert_eq!(mock.runs, 1);
            assert_eq!(rig.state.take_end().unwrap().unwrap(), outcome);
        }
    }

    #[test]
    fn the_hypervisors_failure_is_an_error() {
        let (_, result) = Rig::new().run(vec![Step::Error]);
        assert!(result.unwrap_err().to_string().starts_with("KVM_RUN failed on vCPU 0"));
    }

    #[test]
    fn a_run_that_has_ended_is_not_entered() {
        let rig = Rig::new();
        rig.state.finish(Ok(Outcome::Escaped));
        let (mock, result) = rig.run(vec![]);
        result.unwrap();
        assert_eq!(mock.runs, 0);
    }

    #[test]
    fn halted_vcpus_are_noted_and_the_first_end_counts() {
        let rig = Rig::new();
        let (_, result) = rig.run(vec![Step::Hlt, end()]);
        result.unwrap();
        assert!(rig.state.all_dead());
        rig.state.finish(Ok(Outcome::Panicked));
        assert!(matches!(rig.state.take_end(), Some(Ok(Outcome::PoweredOff))));
        let exits: Vec<_> = rig.state.exits().by_name().filter(|(_, count)| *count > 0).collect();
        assert_eq!(exits, [("io_out", 1), ("hlt", 1)]);
    }

    #[test]
    fn the_question_of_the_watchdog_is_answered_once() {
        let rig = Rig::new();
        rig.state.ask_activity();
        let mut mock = Mock::new(vec![Step::Interrupted, Step::Interrupted, end()]);
        mock.activity = Activity::WaitForStart;
        run_vcpu(&mut mock, &rig.platform, &rig.state).unwrap();
        assert!(rig.state.all_dead());
        assert!(!rig.state.take_question(0));
    }

    #[test]
    fn a_reset_after_a_panic_is_the_panic() {
        let rig = Rig::new();
        rig.state.note_panic();
        rig.state.finish(Ok(Outcome::Reset));
        assert!(matches!(rig.state.take_end(), Some(Ok(Outcome::Panicked))));
    }

    #[test]
    fn every_vcpu_is_kicked_at_the_end() {
        struct Count(AtomicUsize);
        impl Kick for Count {
            fn kick(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let state = RunState::new(2, Arc::new(Doorbell::new().unwrap()));
        let count = Arc::new(Count(AtomicUsize::new(0)));
        state.set_kicks(vec![count.clone(), count.clone()]);
        state.finish(Ok(Outcome::PoweredOff));
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
