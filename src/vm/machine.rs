//! The machine: every device, where it is, and what it is wired to.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::accel::MsiSink;
use crate::config::{SerialBackend, VmConfig};
use crate::console::GuestOutput;
use crate::devices::acpi::{self, AcpiRegisters};
use crate::devices::bus::Bus;
use crate::devices::debug_console::{self, DebugConsole};
use crate::devices::debug_exit::{self, DebugExit};
use crate::devices::i8042::I8042;
use crate::devices::irqchip::IrqChip;
use crate::devices::irqchip::pit::Pit;
use crate::devices::port_92::{self, Port92};
use crate::devices::post::{self, Post};
use crate::devices::pvpanic::{self, PvPanic};
use crate::devices::reset_control::{self, ResetControl};
use crate::devices::serial::{self, Serial, SerialSink};
use crate::devices::timer::{HostClock, Timers, Waker};
use crate::devices::{Device, EventSink, GuestEvent};
use crate::outcome::Outcome;

use super::VmError;
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
    /// Builds the machine that `config` describes around a backend's `msi`.
    ///
    /// # Errors
    /// When a serial port's file cannot be made.
    pub fn new(
        config: &VmConfig,
        msi: Arc<dyn MsiSink>,
        state: &Arc<RunState>,
        output: &Arc<GuestOutput>,
    ) -> Result<Self, VmError> {
        let irqchip = IrqChip::new(msi);
        let mut ports = Bus::new();
        let mut mmio = Bus::new();
        let mut timers = Timers::default();
        let events = event_sink(state);
        let waker: Waker = {
            let state = Arc::clone(state);
            Arc::new(move || state.wake_supervisor())
        };
        irqchip.attach(&mut ports, &mut mmio)?;

        let pit = shared(Pit::new(Arc::new(HostClock), Box::new(irqchip.line(0)), waker));
        Pit::attach(&pit, &mut ports)?;
        timers.add(pit);
        let i8042 = shared(I8042::new(Box::new(irqchip.line(1)), Arc::clone(&events)));
        I8042::attach(&i8042, &mut ports)?;

        let mut stdin = None;
        for (index, backend) in config.serial.iter().enumerate() {
            let Some(backend) = backend else { continue };
            let Some((base, irq)) = serial::COM_PORTS.get(index).copied() else { continue };
            let sink = serial_sink(backend, index == 0, state, output)?;
            let port = shared(Serial::new(Box::new(irqchip.line(irq)), sink));
            ports.insert(base, serial::PORTS, &format!("COM{}", index + 1), port.clone())?;
            if *backend == SerialBackend::Stdio && stdin.is_none() {
                stdin = Some(port);
            }
        }

        let debug_output = Arc::clone(output);
        let console = DebugConsole::new(Box::new(move |byte| debug_output.push(&[byte])));
        let button = irqchip.line(acpi::POWER_BUTTON_GSI);
        let simple: [(u64, u64, &str, Arc<Mutex<dyn Device>>); 7] = [
            (debug_console::PORT, 1, "debug console", shared(console)),
            (debug_exit::PORT, debug_exit::PORTS, "debug exit", shared(DebugExit::new(Arc::clone(&events)))),
            (pvpanic::PORT, 1, "pvpanic", shared(PvPanic::new(Arc::clone(&events)))),
            (post::PORT, 1, "POST", shared(Post::default())),
            (port_92::PORT, 1, "port 92", shared(Port92::new(Arc::clone(&events)))),
            (
                reset_control::PORT,
                reset_control::PORTS,
                "reset control",
                shared(ResetControl::new(Arc::clone(&events))),
            ),
            (
                acpi::ACPI_PORT.into(),
                acpi::ACPI_PORTS.into(),
                "ACPI registers",
                shared(AcpiRegisters::new(events, Box::new(button))),
            ),
        ];
        for (base, len, name, device) in simple {
            ports.insert(base, len, name, device)?;
        }

        Ok(Self { platform: Platform { ports, mmio }, irqchip, timers, stdin })
    }
}

/// A device as the bus takes it.
fn shared<D>(device: D) -> Arc<Mutex<D>> {
    Arc::new(Mutex::new(device))
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

/// Where the bytes of one serial port go. The text of `watch`ed ports is looked at for a kernel's panic.
fn serial_sink(
    backend: &SerialBackend,
    watched: bool,
    state: &Arc<RunState>,
    output: &Arc<GuestOutput>,
) -> Result<SerialSink, VmError> {
    let mut sink: SerialSink = match backend {
        SerialBackend::Null => Box::new(|_| {}),
        SerialBackend::Stdio => {
            let output = Arc::clone(output);
            Box::new(move |byte| output.push(&[byte]))
        }
        SerialBackend::File(path) => file_sink(path, Arc::clone(state))?,
    };
    if !watched {
        return Ok(sink);
    }
    let state = Arc::clone(state);
    let mut panic_watch = PanicWatch::default();
    Ok(Box::new(move |byte| {
        sink(byte);
        match panic_watch.push(byte) {
            PanicText::None => {}
            PanicText::Begun => state.note_panic(),
            PanicText::Complete => state.finish(Ok(Outcome::Panicked)),
        }
    }))
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
