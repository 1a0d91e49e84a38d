//! The machine: every device, where it is, and what it is wired to.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::accel::{Gic, InterruptController, InterruptSink, Kick, MsiSink, NoController};
use crate::config::{DebugExit, VmConfig};
use crate::console::GuestOutput;
use crate::devices::acpi::{self, AcpiRegisters, PowerButton};
use crate::devices::arm64::{self, Board, BoardSetup};
use crate::devices::irqchip::IrqChip;
use crate::devices::pc::{Pc, PcSetup};
use crate::devices::rtc::MemorySize;
use crate::devices::serial::{Serial, SerialSink};
use crate::devices::timer::{HostClock, Timers, Waker};
use crate::devices::{EventSink, GuestEvent, lock};
use crate::memory;
use crate::outcome::Outcome;

use super::VmError;
use super::extension::{Extension, HostOutput, Wiring};
use super::host::{Host, SerialPort};
use super::panic_watch::{PanicText, PanicWatch};
use super::run_state::RunState;
use super::vcpu_loop::Platform;

/// The devices of one machine.
pub struct Machine {
    /// What the vCPUs' exits go to.
    pub platform: Platform,
    /// The interrupt controllers, where the backend has not got them all.
    irqchip: Option<Arc<IrqChip>>,
    /// Devices with deadlines.
    pub timers: Timers,
    /// COM1 to COM4.
    pub serial: Coms,
    /// The power button, where there is one.
    pub button: Option<PowerButton>,
}

/// COM1 to COM4.
type Coms = [Option<Arc<Mutex<Serial>>>; 4];

/// What the host has wired up for the devices, whichever they are.
struct Wires {
    serial: [Option<SerialSink>; 4],
    debug_console: SerialSink,
    events: EventSink,
    waker: Waker,
}

impl Machine {
    /// Builds the machine that `config` describes, with `extension`, around a backend's interrupts.
    ///
    /// # Errors
    /// When two devices are at one address.
    pub fn new(
        config: &VmConfig,
        interrupts: InterruptSink,
        state: &Arc<RunState>,
        host: &Arc<Host>,
        streams: &HostOutput,
        mut extension: Option<&mut (dyn Extension + '_)>,
    ) -> Result<Self, VmError> {
        let output = &streams.stdout;
        let mut serial: [Option<SerialSink>; 4] = [const { None }; 4];
        for (port, (sink, backend)) in serial.iter_mut().zip(&host.serial).enumerate() {
            if let Some(backend) = backend {
                let console = extension.as_mut().filter(|_| port == 0).and_then(|e| e.console(streams));
                let own = console.unwrap_or_else(|| serial_sink(backend, state, output));
                let inner = if port == 0 { watched(own, config, state, host) } else { own };
                *sink = Some(counted(inner, host));
            }
        }
        let events = event_sink(state, config.debug_exit);
        let debug_output = Arc::clone(output);
        let wake = Arc::clone(state);
        let wires = Wires {
            serial,
            debug_console: Box::new(move |byte| debug_output.push(&[byte])),
            events: Arc::clone(&events),
            waker: Arc::new(move || wake.wake_supervisor()),
        };
        let mut machine = match interrupts {
            InterruptSink::Lapic(msi) => Self::pc(config, msi, wires)?,
            InterruptSink::Gic(gic) => Self::arm64(gic, wires)?,
        };

        for (number, port) in machine.serial.iter().enumerate() {
            if let Some(port) = port.as_ref().filter(|_| host.has_input_for(number)) {
                let host = Arc::clone(host);
                lock(port).set_room_waker(Arc::new(move || host.port_has_room(number)));
            }
        }
        // After that, so that a waker of its own stays.
        if let Some(extension) = extension {
            let Platform { ports, mmio } = &mut machine.platform;
            extension.attach(Wiring {
                ports,
                mmio,
                serial: &machine.serial,
                events,
                host: streams.clone(),
            })?;
        }
        if machine.irqchip.is_none() {
            // No instruction reaches a port: ports are a window of memory.
            let ports = std::mem::take(&mut machine.platform.ports);
            machine.platform.mmio.absorb(ports, arm64::PORTS)?;
        }
        Ok(machine)
    }

    /// The machine of an x86-64 guest.
    fn pc(config: &VmConfig, msi: Arc<dyn MsiSink>, wires: Wires) -> Result<Self, VmError> {
        let (low, high) = memory::split(config.memory);
        let mut pc = Pc::new(PcSetup {
            clock: Arc::new(HostClock),
            memory: MemorySize { low, high },
            cpus: u16::try_from(config.cpus).unwrap_or(u16::MAX),
            msi,
            events: Arc::clone(&wires.events),
            waker: wires.waker,
            serial: wires.serial,
            debug_console: Some(wires.debug_console),
        })?;
        let button = pc.irqchip.line(acpi::POWER_BUTTON_GSI);
        let registers = AcpiRegisters::new(wires.events, Box::new(button));
        let button = registers.power_button();
        let (base, len) = (acpi::ACPI_PORT.into(), acpi::ACPI_PORTS.into());
        pc.ports.insert(base, len, "acpi registers", Arc::new(Mutex::new(registers)))?;
        Ok(Self {
            platform: Platform { ports: pc.ports, mmio: pc.mmio },
            irqchip: Some(pc.irqchip),
            timers: pc.timers,
            serial: pc.serial,
            button: Some(button),
        })
    }

    /// The machine of an AArch64 guest.
    fn arm64(gic: Gic, wires: Wires) -> Result<Self, VmError> {
        let board = Board::new(BoardSetup {
            clock: Arc::new(HostClock),
            lines: gic.lines,
            events: wires.events,
            waker: wires.waker,
            serial: wires.serial,
            debug_console: Some(wires.debug_console),
        })?;
        Ok(Self {
            platform: Platform { ports: board.ports, mmio: board.mmio },
            irqchip: None,
            timers: board.timers,
            serial: board.serial,
            button: None,
        })
    }

    /// What the backend's vCPUs ask of the interrupt controllers.
    pub fn controller(&self) -> Arc<dyn InterruptController> {
        match &self.irqchip {
            Some(irqchip) => Arc::clone(irqchip) as Arc<dyn InterruptController>,
            None => Arc::new(NoController),
        }
    }

    /// Tells the interrupt controllers how to wake the boot processor.
    pub fn set_boot_kick(&self, kick: Arc<dyn Kick>) {
        if let Some(irqchip) = &self.irqchip {
            irqchip.set_boot_kick(kick);
        }
    }
}

/// What a guest tells through a device is an outcome.
fn event_sink(state: &Arc<RunState>, debug_exit: DebugExit) -> EventSink {
    let state = Arc::clone(state);
    Arc::new(move |event| {
        state.finish(Ok(match event {
            GuestEvent::PowerOff => Outcome::PoweredOff,
            GuestEvent::Reset => Outcome::Reset,
            GuestEvent::DebugExit(_) if debug_exit == DebugExit::Off => return,
            GuestEvent::DebugExit(value) => Outcome::DebugExit(value),
            GuestEvent::Panicked => Outcome::Panicked,
        }));
    })
}

/// Where the bytes of the console go that a whole machine has in place of COM1.
pub fn console_sink(
    config: &VmConfig,
    state: &Arc<RunState>,
    host: &Arc<Host>,
    output: &Arc<GuestOutput>,
) -> Option<SerialSink> {
    let backend = host.serial.first()?.as_ref()?;
    Some(counted(watched(serial_sink(backend, state, output), config, state, host), host))
}

/// `sink`, with its bytes counted.
fn counted(mut sink: SerialSink, host: &Host) -> SerialSink {
    let written = Arc::clone(&host.written);
    Box::new(move |byte| {
        written.count();
        sink(byte);
    })
}

/// Where the bytes of one serial port go.
fn serial_sink(port: &SerialPort, state: &Arc<RunState>, output: &Arc<GuestOutput>) -> SerialSink {
    match port {
        SerialPort::Null => Box::new(|_| {}),
        SerialPort::Line(line) => {
            let line = Arc::clone(line);
            Box::new(move |byte| line.push(byte))
        }
        SerialPort::Stdio => {
            let output = Arc::clone(output);
            Box::new(move |byte| output.push(&[byte]))
        }
        SerialPort::File { path, file } => {
            let (path, file, state) = (path.clone(), Arc::clone(file), Arc::clone(state));
            Box::new(move |byte| {
                let mut file = lock(&file);
                // A line at a time, so that the file can be followed; the rest when the machine goes.
                let written =
                    file.write_all(&[byte]).and_then(|()| if byte == b'\n' { file.flush() } else { Ok(()) });
                if let Err(reason) = written {
                    state.finish(Err(VmError::SerialFile { path: path.clone(), reason }));
                }
            })
        }
    }
}

/// `sink`, with its text looked at for a kernel's panic, kept, and followed by the script.
fn watched(mut sink: SerialSink, config: &VmConfig, state: &Arc<RunState>, host: &Arc<Host>) -> SerialSink {
    let (state, watcher) = (Arc::clone(state), host.watcher.clone());
    let log = host.log.clone().zip(config.log.clone());
    let mut panic_watch = PanicWatch::default();
    Box::new(move |byte| {
        sink(byte);
        if let Some((log, path)) = &log
            && let Err(reason) = lock(log).push(byte)
        {
            state.finish(Err(VmError::Log { path: path.clone(), reason }));
        }
        if let Some(watcher) = &watcher {
            watcher.push(byte);
        }
        match panic_watch.push(byte) {
            PanicText::None => {}
            PanicText::Begun => state.note_panic(),
            PanicText::Complete => state.finish(Ok(Outcome::Panicked)),
        }
    })
}
