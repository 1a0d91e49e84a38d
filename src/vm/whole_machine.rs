//! The run of a machine that a backend has whole: our part is its console, the script, signals and the time
//! limit.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::accel::{AccelError, AccelResult, MachineEvents, WholeMachine};
use crate::config::VmConfig;
use crate::console::{self, GuestOutput};
use crate::devices::lock;
use crate::devices::serial::SerialSink;
use crate::devices::timer::Timers;
use crate::outcome::Outcome;

use super::extension::HostOutput;
use super::facts::Facts;
use super::host::Host;
use super::machine::console_sink;
use super::run_state::RunState;
use super::supervisor::Supervisor;
use super::typist::{Console, Typist};
use super::{VmError, flush, patience};

/// What the machine tells, on its way to the run.
struct Events {
    state: Arc<RunState>,
    /// COM1's far end, where there is one.
    sink: Mutex<Option<SerialSink>>,
}

impl MachineEvents for Events {
    fn output(&self, bytes: &[u8]) {
        if let Some(sink) = &mut *lock(&self.sink) {
            bytes.iter().for_each(|byte| sink(*byte));
        }
    }

    fn ended(&self, end: Result<Outcome, AccelError>) {
        self.state.finish(end.map_err(VmError::from));
    }
}

/// Runs the machine that `start` starts to its end. All its output is written when this returns.
pub fn boot(
    config: &VmConfig,
    host: &Arc<Host>,
    facts: &mut Facts,
    start: impl FnOnce(Arc<dyn MachineEvents>) -> AccelResult<Box<dyn WholeMachine>>,
) -> Result<Outcome, VmError> {
    // Its vCPUs are not ours to watch.
    let state = Arc::new(RunState::new(0, Arc::clone(&host.bell)));
    let waker: console::Waker = {
        let bell = Arc::clone(&host.bell);
        Arc::new(move || bell.ring())
    };
    let output = HostOutput {
        stdout: Arc::new(GuestOutput::stdout(Arc::clone(&waker))),
        stderr: Arc::new(GuestOutput::stderr(waker)),
    };
    let sink = console_sink(config, &state, host, &output.stdout);
    let events = Arc::new(Events { state: Arc::clone(&state), sink: Mutex::new(sink) });
    if let Some(watcher) = &host.watcher {
        watcher.set_ending(false);
    }
    facts.boots = facts.boots.saturating_add(1);
    facts.first_instruction.get_or_insert_with(Instant::now);
    let machine: Arc<dyn WholeMachine> = Arc::from(start(events)?);
    let console: Option<Arc<dyn Typist>> = match config.serial.first() {
        Some(Some(_)) => Some(Arc::new(Console(Arc::clone(&machine)))),
        _ => None,
    };
    host.connect(&[console.clone(), None, None, None]);
    let button = Arc::clone(&machine);
    let supervisor = Supervisor {
        state: Arc::clone(&state),
        host: Arc::clone(host),
        has_stdin: config.uses_stdio(),
        com1: console,
        button: Some(Box::new(move || button.press_power_button())),
        timers: Timers::default(),
        output: output.clone(),
        grace: config.grace,
        // No answer to the question would mean anything.
        ends_hangs: false,
    };
    supervisor.watch();
    // Nothing is typed any more, so that this is the last handle: it stops the machine.
    host.disconnect();
    drop(machine);
    let end = state.take_end().unwrap_or_else(|| Err(VmError::Panicked("the run loop".into())));
    let interrupted = matches!(end, Ok(Outcome::Signalled(_)));
    let flushed = flush(&output, || patience(host, interrupted));
    super::lost_output(end, flushed)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::config::SerialBackend;
    use crate::script::{Pattern, Script, Step, Verdict};

    /// A machine that asks for a name, and powers off when it has got one.
    struct Fake {
        events: Arc<dyn MachineEvents>,
        typed: Mutex<Vec<u8>>,
        stopped: Arc<AtomicBool>,
    }

    impl WholeMachine for Fake {
        fn type_in(&self, bytes: &[u8]) -> usize {
            // A slow one: a byte at a time.
            let Some(byte) = bytes.first() else { return 0 };
            lock(&self.typed).push(*byte);
            if *byte == b'\n' {
                self.events.output(b"hello ");
                self.events.output(&lock(&self.typed));
                self.events.ended(Ok(Outcome::PoweredOff));
            }
            1
        }

        fn press_power_button(&self) {
            self.events.ended(Ok(Outcome::PoweredOff));
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            self.stopped.store(true, Ordering::SeqCst);
        }
    }

    fn run(config: &VmConfig) -> (Result<Outcome, VmError>, Arc<Host>, bool) {
        let host = Arc::new(Host::new(config, Instant::now()).unwrap());
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let end = boot(config, &host, &mut Facts::default(), |events| {
            events.output(b"name: ");
            Ok(Box::new(Fake { events, typed: Mutex::default(), stopped: flag }))
        });
        (end, host, stopped.load(Ordering::SeqCst))
    }

    fn config(script: Script) -> VmConfig {
        let mut serial = VmConfig::default().serial;
        serial[0] = Some(SerialBackend::Null);
        VmConfig { script, serial, timeout: Some(Duration::from_secs(60)), ..VmConfig::default() }
    }

    /// A host's side takes the process's signals, which other tests have.
    #[test]
    fn in_a_process_of_their_own() {
        let tests = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--test-threads=1", "vm::whole_machine::tests"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&tests.stdout);
        assert!(tests.status.success() && told.contains("3 passed"), "{told}");
    }

    #[test]
    #[ignore = "run by in_a_process_of_their_own"]
    fn a_script_talks_to_its_console() {
        let expect = |text: &str| Some(Pattern::new(text).unwrap());
        let steps = vec![
            Step { expect: expect("name: "), send: Some(b"you\n".to_vec()), ..Step::default() },
            Step { expect: expect("hello you"), ..Step::default() },
        ];
        let (end, host, stopped) = run(&config(Script { steps, ..Script::default() }));
        let outcome = super::super::script_judges(&host, end.unwrap());
        assert_eq!(outcome, Outcome::Script(Verdict::Passed { steps: 2 }));
        assert!(stopped);
        assert_eq!(host.written.get().0, 16);
    }

    #[test]
    #[ignore = "run by in_a_process_of_their_own"]
    fn the_time_limit_stops_it() {
        let config = VmConfig { timeout: Some(Duration::ZERO), ..config(Script::default()) };
        let (end, _, stopped) = run(&config);
        assert!(matches!(end, Ok(Outcome::TimedOut { .. })) && stopped);
    }

    #[test]
    #[ignore = "run by in_a_process_of_their_own"]
    fn a_machine_that_does_not_start_is_an_error() {
        let config = config(Script::default());
        let host = Arc::new(Host::new(&config, Instant::now()).unwrap());
        let end = boot(&config, &host, &mut Facts::default(), |_| {
            Err(AccelError::Unusable { what: "it".into(), reason: "no".into(), remedy: "Give up".into() })
        });
        assert_eq!(end.unwrap_err().to_string(), "it: no. Give up");
    }
}
