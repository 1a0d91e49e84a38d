//! The DSDT: the devices, in AML.

use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Arg, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If,
    Interrupt, Local, Memory32Fixed, Method, Name, Notify, OpRegion, OpRegionSpace, Package, Path,
    ResourceTemplate, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::registers::{EVENTS, POWER_BUTTON, SLEEP_TYPE_S5};
use super::{ACPI_PORT, AcpiSpec, POWER_BUTTON_GSI, SERIAL_PORTS, VirtioMmio, with_header};

/// From 2 on, integers are 64 bits wide.
const REVISION: u8 = 2;
/// A notification: the button was pressed (ACPI 6.5, section 5.6.6).
const BUTTON_PRESSED: u8 = 0x80;

/// The DSDT for `spec`.
pub(super) fn table(spec: &AcpiSpec) -> Sdt {
    let mut devices = Vec::with_capacity(4096);
    for id in 0..spec.cpus {
        processor(id, &mut devices);
    }
    keyboard_interrupt(&mut devices);
    for (index, serial) in SERIAL_PORTS.iter().enumerate() {
        if spec.serial.get(index) == Some(&true) {
            let twin_exists = SERIAL_PORTS
                .iter()
                .zip(spec.serial)
                .any(|(other, exists)| exists && other != serial && other.irq == serial.irq);
            legacy_device(
                Legacy {
                    name: &format!("COM{}", index + 1),
                    hid: "PNP0501",
                    uid: index,
                    ports: (serial.port, 8),
                    irq: serial.irq,
                    shared: twin_exists,
                },
                &mut devices,
            );
        }
    }
    let rtc = Legacy { name: "RTC_", hid: "PNP0B00", uid: 0, ports: (0x70, 2), irq: 8, shared: false };
    legacy_device(rtc, &mut devices);
    power_button(&mut devices);
    for (index, device) in spec.virtio_mmio.iter().enumerate() {
        virtio_mmio(index, device, &mut devices);
    }

    let mut body = Vec::with_capacity(devices.len() + 64);
    Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_S5, &ZERO])).to_aml_bytes(&mut body);
    interrupt_model(&mut body);
    body.extend(Scope::raw(Path::new("\\_SB_"), devices));
    with_header(*b"DSDT", REVISION, &body)
}

/// `_PIC`: the guest says which interrupt controllers it uses. Nothing here depends on it.
fn interrupt_model(body: &mut Vec<u8>) {
    Name::new("PICM".into(), &ZERO).to_aml_bytes(body);
    Method::new("_PIC".into(), 1, false, vec![&Store::new(&Path::new("PICM"), &Arg(0))]).to_aml_bytes(body);
}

fn processor(id: u32, devices: &mut Vec<u8>) {
    Device::new(
        Path::new(&format!("C{id:03X}")),
        vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &id)],
    )
    .to_aml_bytes(devices);
}

/// The 8042's interrupt, as a resource of the board. Linux numbers the interrupts of such a machine in the order
/// in which it meets them, and before 4.11 its driver of the 8042 takes number 1 whatever that is: so this is
/// the first, or the first serial port would lose its own.
fn keyboard_interrupt(devices: &mut Vec<u8>) {
    Device::new(
        "KBC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Interrupt::new(true, true, false, false, 1)]),
            ),
        ],
    )
    .to_aml_bytes(devices);
}

/// A device with ports and an ISA interrupt.
struct Legacy<'a> {
    name: &'a str,
    hid: &'a str,
    uid: usize,
    /// First port and number of ports.
    ports: (u16, u8),
    irq: u32,
    shared: bool,
}

fn legacy_device(device: Legacy<'_>, devices: &mut Vec<u8>) {
    let (port, ports) = device.ports;
    let io = IO::new(port, port, 1, ports);
    let irq = Interrupt::new(true, true, false, device.shared, device.irq);
    Device::new(
        Path::new(device.name),
        vec![
            &Name::new("_HID".into(), &EISAName::new(device.hid)),
            &Name::new("_UID".into(), &device.uid),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&io, &irq])),
        ],
    )
    .to_aml_bytes(devices);
}

/// The power button, and the Generic Event Device that notifies it. The interrupt line stays up until the
/// method has read the event register, so a press is not lost while the guest still boots.
fn power_button(devices: &mut Vec<u8>) {
    Device::new("PWRB".into(), vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C"))])
        .to_aml_bytes(devices);
    let interrupt = Interrupt::new(true, false, false, false, u32::from(POWER_BUTTON_GSI));
    let field = Field::new(
        "EVTR".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"EVTS", 8)],
    );
    let (events, button) = (Path::new("EVTS"), Path::new("\\_SB_.PWRB"));
    let read_events = Store::new(&Local(0), &events);
    let is_pressed = And::new(&ZERO, &Local(0), &POWER_BUTTON);
    let notify = Notify::new(&button, &BUTTON_PRESSED);
    let if_pressed = If::new(&is_pressed, vec![&notify]);
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
            &OpRegion::new("EVTR".into(), OpRegionSpace::SystemIO, &(ACPI_PORT + EVENTS), &1u8),
            &field,
            &Method::new("_EVT".into(), 1, true, vec![&read_events, &if_pressed]),
        ],
    )
    .to_aml_bytes(devices);
}

fn virtio_mmio(index: usize, device: &VirtioMmio, devices: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, device.address, device.bytes);
    let interrupt = Interrupt::new(true, false, false, false, device.gsi);
    Device::new(
        Path::new(&format!("V{:03X}", index & 0xFFF)),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &1u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &interrupt])),
        ],
    )
    .to_aml_bytes(devices);
}
