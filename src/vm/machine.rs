//! The machine: every device, where it is, and what it is wired to.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::accel::MsiSink;
use crate::config::{SerialBackend, VmConfig};
use crate::console::GuestOutput;
use crate::devices::acpi::{self, AcpiRegisters};
use crate::devices::irqchip::IrqChip;
use crate::devices::pc::{Pc, PcSetup};
use crate::devices::rtc::MemorySize;
use crate::devices::serial::{Serial, SerialSink};
use crate::devices::timer::{HostClock, Timers};
use crate::devices::{EventSink, GuestEvent};
use crate::memory;
use crate::outcome::Outcome;

use super::VmError;
use super::extension::{Extension, HostOutput, Wiring};
use super::panic_watch::{PanicText, PanicWatch};
use super::run_state::RunState;
use super::vcpu_loop::Platform;

/// The devices of one machine.
pub struct Machine {
    /// What the vCPUs' exits go to.
    pub platform: Platform,
    /// The interrupt controllers.
    pub irqchip: Arc<IrqChip>,
    /// Devices with deadlines.
    pub timers: Timers,
    /// The serial port that is on the terminal.
    pub stdin: Option<Arc<Mutex<Serial>>>,
}

impl Machine {
    /// Builds the machine that `config` describes, with `extension`, around a backend's `msi`.
    ///
    /// # Errors
    /// When a serial port's file cannot be made.
    pub fn new(
        config: &VmConfig,
        msi: Arc<dyn MsiSink>,
        state: &Arc<RunState>,
        host: &HostOutput,
        mut extension: Option<&mut (dyn Extension + '_)>,
    ) -> Result<Self, VmError> {
        let output = &host.stdout;
        let mut serial = [const { None }; 4];
        for (port, (sink, backend)) in serial.iter_mut().zip(&config.serial).enumerate() {
            let Some(backend) = backend else { continue };
            let console = extension.as_mut().filter(|_| port == 0).and_then(|e| e.console(host));
            let own = match console {
                Some(console) => console,
                None => serial_sink(backend, state, output)?,
            };
            *sink = Some(if port == 0 { watched(own, state) } else { own });
        }
        let (low, high) = memory::split(config.memory);
        let events = event_sink(state);
        let debug_output = Arc::clone(output);
        let wake = Arc::clone(state);
        let mut pc = Pc::new(PcSetup {
            clock: Arc::new(HostClock),
            memory: MemorySize { low, high },
            cpus: u16::try_from(config.cpus).unwrap_or(u16::MAX),
            msi,
            events: Arc::clone(&events),
            waker: Arc::new(move || wake.wake_supervisor()),
            serial,
            debug_console: Some(Box::new(move |byte| debug_output.push(&[byte]))),
        })?;
        let button = pc.irqchip.line(acpi::POWER_BUTTON_GSI);
        let registers = AcpiRegisters::new(Arc::clone(&events), Box::new(button));
        let (base, len) = (acpi::ACPI_PORT.into(), acpi::ACPI_PORTS.into());
        pc.ports.insert(base, len, "acpi registers", Arc::new(Mutex::new(registers)))?;

        if let Some(extension) = extension {
            let (ports, serial) = (&mut pc.ports, &pc.serial);
            extension.attach(Wiring { ports, serial, events, host: host.clone() })?;
        }
        let on_stdio = config.serial.iter().position(|port| *port == Some(SerialBackend::Stdio));
        let stdin = on_stdio.and_then(|port| pc.serial.get(port)?.clone());
        let platform = Platform { ports: pc.ports, mmio: pc.mmio };
        Ok(Self { platform, irqchip: pc.irqchip, timers: pc.timers, stdin })
    }
}

/// What a guest tells through a device is an outcome.
fn event_sink(state: &Arc<RunState>) -> EventSink {
    let state = Arc::clone(state);
    Arc::new(move |event| {
        state.finish(Ok(match event {
            GuestEvent::PowerOff => Outcome::PoweredOff,
            GuestEvent::Reset => Outcome::Reset,
            GuestEvent::DebugExit(value) => Outcome::DebugExit(value),
            GuestEvent::Panicked => Outcome::Panicked,
        }));
    })
}

/// Where the bytes of one serial port go.
fn serial_sink(
    backend: &SerialBackend,
    state: &Arc<RunState>,
    output: &Arc<GuestOutput>,
) -> Result<SerialSink, VmError> {
    Ok(match backend {
        SerialBackend::Null => Box::new(|_| {}),
        SerialBackend::Stdio => {
            let output = Arc::clone(output);
            Box::new(move |byte| output.push(&[byte]))
        }
        SerialBackend::File(path) => file_sink(path, Arc::clone(state))?,
    })
}

/// `sink`, with its text looked at for a kernel's panic.
fn watched(mut sink: SerialSink, state: &Arc<RunState>) -> SerialSink {
    let state = Arc::clone(state);
    let mut panic_watch = PanicWatch::default();
    Box::new(move |byte| {
        sink(byte);
        match panic_watch.push(byte) {
            PanicText::None => {}
            PanicText::Begun => state.note_panic(),
            PanicText::Complete => state.finish(Ok(Outcome::Panicked)),
        }
    })
}

fn file_sink(path: &Path, state: Arc<RunState>) -> Result<SerialSink, VmError> {
    let error = |path: &Path, reason| VmError::SerialFile { path: path.to_owned(), reason };
    let mut file = BufWriter::new(File::create(path).map_err(|reason| error(path, reason))?);
    let path = path.to_owned();
    Ok(Box::new(move |byte| {
        // A line at a time, so that the file can be followed; the rest when the machine goes.
        let written =
            file.write_all(&[byte]).and_then(|()| if byte == b'\n' { file.flush() } else { Ok(()) });
        if let Err(reason) = written {
            state.finish(Err(error(&path, reason)));
        }
    }))
}
