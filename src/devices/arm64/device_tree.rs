//! The device tree of the AArch64 machine (Devicetree Specification 0.4, and Linux's bindings for the nodes).

#![forbid(unsafe_code)]

use std::ops::Range;

use vm_fdt::{Error, FdtWriter};

use super::{COM_SPIS, PORTS, RTC, RTC_SPI};
use crate::accel::GicVersion;
use crate::accel::arm64::{
    GICC, GICC_BYTES, GICD, GICD_BYTES, GICR, GICR_BYTES, GICV2_GICD_BYTES, TIMER_PPIS, affinity,
};
use crate::devices::pl031;
use crate::devices::pvpanic;
use crate::devices::serial::{self, COM_PORTS};

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;

/// The first cell of an interrupt: which kind it is.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// The last cell of an interrupt: active high, level-sensitive.
const LEVEL_HIGH: u32 = 4;
/// The last cell of a GICv2's PPI has the CPUs that it goes to from this bit on.
const PPI_CPUS: u32 = 8;

/// The rate of a PC's UARTs in Hz.
const UART_CLOCK: u32 = 1_843_200;
/// The rate of the bus of the PrimeCells in Hz; nothing depends on it.
const BUS_CLOCK: u32 = 24_000_000;
/// `pvpanic` has one register; its binding wants two bytes.
const PVPANIC_BYTES: u64 = 2;

/// The machine that a tree describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// RAM.
    pub memory: Range<u64>,
    /// Number of vCPUs.
    pub cpus: u32,
    /// The GIC.
    pub gic: GicVersion,
    /// Which of COM1 to COM4 there are.
    pub serial: [bool; 4],
}

/// What the tree tells a kernel beside the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// The command line.
    pub cmdline: &'a str,
    /// Where the initrd lies.
    pub initrd: Option<Range<u64>>,
    /// Randomness; none is better than bad one.
    pub seed: Option<[u8; 64]>,
}

/// Writes the tree.
///
/// # Errors
/// When the command line has a NUL byte.
pub fn write(machine: &Description, chosen: &Chosen<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "vm-accel")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;

    write_chosen(&mut fdt, machine, chosen)?;
    write_aliases(&mut fdt, machine)?;

    let memory = fdt.begin_node(&format!("memory@{:x}", machine.memory.start))?;
    fdt.property_string("device_type", "memory")?;
    let bytes = machine.memory.end.saturating_sub(machine.memory.start);
    fdt.property_array_u64("reg", &[machine.memory.start, bytes])?;
    fdt.end_node(memory)?;

    write_cpus(&mut fdt, machine.cpus)?;

    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    write_gic(&mut fdt, machine)?;
    write_timer(&mut fdt, machine)?;

    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", BUS_CLOCK)?;
    fdt.property_phandle(CLOCK_PHANDLE)?;
    fdt.end_node(clock)?;

    let rtc = fdt.begin_node(&format!("rtc@{RTC:x}"))?;
    fdt.property_string_list("compatible", vec!["arm,pl031".into(), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &[RTC, pl031::BYTES])?;
    fdt.property_array_u32("interrupts", &[SPI, RTC_SPI, LEVEL_HIGH])?;
    fdt.property_u32("clocks", CLOCK_PHANDLE)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(rtc)?;

    for (port, spi) in uarts(machine) {
        let uart = fdt.begin_node(&uart_name(port))?;
        fdt.property_string("compatible", "ns16550a")?;
        fdt.property_array_u64("reg", &[PORTS + port, serial::PORTS])?;
        fdt.property_array_u32("interrupts", &[SPI, spi, LEVEL_HIGH])?;
        fdt.property_u32("clock-frequency", UART_CLOCK)?;
        fdt.end_node(uart)?;
    }

    let panic = fdt.begin_node(&format!("pvpanic@{:x}", PORTS + pvpanic::PORT))?;
    fdt.property_string("compatible", "qemu,pvpanic-mmio")?;
    fdt.property_array_u64("reg", &[PORTS + pvpanic::PORT, PVPANIC_BYTES])?;
    fdt.end_node(panic)?;

    fdt.end_node(root)?;
    fdt.finish()
}

fn uart_name(port: u64) -> String {
    format!("serial@{:x}", PORTS + port)
}

/// Port and SPI of the UARTs that there are.
fn uarts(machine: &Description) -> impl Iterator<Item = (u64, u32)> {
    let places = COM_PORTS.into_iter().zip(COM_SPIS).zip(machine.serial);
    places.filter(|(_, there)| *there).map(|(((port, _), spi), _)| (port, spi))
}

fn write_chosen(fdt: &mut FdtWriter, machine: &Description, chosen: &Chosen<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", chosen.cmdline)?;
    if let Some((port, _)) = uarts(machine).next() {
        fdt.property_string("stdout-path", &format!("/{}", uart_name(port)))?;
    }
    if let Some(initrd) = &chosen.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    if let Some((kaslr, rng)) = chosen.seed.as_ref().and_then(|seed| seed.split_first_chunk::<8>()) {
        fdt.property("kaslr-seed", kaslr)?;
        fdt.property("rng-seed", rng)?;
    }
    fdt.end_node(node)
}

/// COM1 is `ttyS0` also where another UART comes first.
fn write_aliases(fdt: &mut FdtWriter, machine: &Description) -> Result<(), Error> {
    let node = fdt.begin_node("aliases")?;
    for (number, ((port, _), there)) in COM_PORTS.into_iter().zip(machine.serial).enumerate() {
        if there {
            fdt.property_string(&format!("serial{number}"), &format!("/{}", uart_name(port)))?;
        }
    }
    fdt.end_node(node)
}

fn write_cpus(fdt: &mut FdtWriter, cpus: u32) -> Result<(), Error> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for id in 0..cpus {
        let affinity = affinity(id);
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_u64("reg", affinity)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(node)
}

fn write_gic(fdt: &mut FdtWriter, machine: &Description) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("interrupt-controller@{GICD:x}"))?;
    match machine.gic {
        GicVersion::V3 => {
            fdt.property_string("compatible", "arm,gic-v3")?;
            let redistributors = u64::from(machine.cpus) * GICR_BYTES;
            fdt.property_array_u64("reg", &[GICD, GICD_BYTES, GICR, redistributors])?;
        }
        GicVersion::V2 => {
            fdt.property_string("compatible", "arm,cortex-a15-gic")?;
            fdt.property_array_u64("reg", &[GICD, GICV2_GICD_BYTES, GICC, GICC_BYTES])?;
        }
    }
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    fdt.property_phandle(GIC_PHANDLE)?;
    fdt.end_node(node)
}

fn write_timer(fdt: &mut FdtWriter, machine: &Description) -> Result<(), Error> {
    let flags = match machine.gic {
        GicVersion::V3 => LEVEL_HIGH,
        GicVersion::V2 => LEVEL_HIGH | ((1 << machine.cpus.min(8)) - 1) << PPI_CPUS,
    };
    let interrupts: Vec<u32> = TIMER_PPIS.into_iter().flat_map(|ppi| [PPI, ppi, flags]).collect();
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The properties of a tree by their paths, read from its structure block (Devicetree Specification,
    /// chapter 5).
    fn read(blob: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
        let string = |at: usize| {
            let end = at + blob[at..].iter().position(|&byte| byte == 0).unwrap();
            String::from_utf8(blob[at..end].to_vec()).unwrap()
        };
        assert_eq!((word(0), word(4) as usize), (0xD00D_FEED, blob.len()));
        let (mut at, strings) = (word(8) as usize, word(12) as usize);
        let (mut path, mut properties) = (Vec::new(), BTreeMap::new());
        loop {
            at += 4;
            match word(at - 4) {
                1 => {
                    let name = string(at);
                    at = (at + name.len() + 1).next_multiple_of(4);
                    path.push(name);
                }
                2 => drop(path.pop().unwrap()),
                3 => {
                    let (bytes, name) = (word(at) as usize, string(strings + word(at + 4) as usize));
                    let value = blob[at + 8..at + 8 + bytes].to_vec();
                    properties.insert(format!("{}/{name}", path.join("/")), value);
                    at = (at + 8 + bytes).next_multiple_of(4);
                }
                9 => return properties,
                other => panic!("token {other} at {at:#x}"),
            }
        }
    }

    fn machine() -> Description {
        Description {
            memory: 0x4000_0000..0x5000_0000,
            cpus: 17,
            gic: GicVersion::V3,
            serial: [true, false, true, false],
        }
    }

    fn tree(machine: &Description) -> BTreeMap<String, Vec<u8>> {
        let chosen = Chosen {
            cmdline: "console=ttyS0",
            initrd: Some(0x4800_0000..0x4800_1234),
            seed: Some(std::array::from_fn(|at| at as u8)),
        };
        read(&write(machine, &chosen).unwrap())
    }

    fn cells(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_kernel_finds_what_it_needs() {
        let tree = tree(&machine());
        assert_eq!(tree["/chosen/bootargs"], b"console=ttyS0\0");
        assert_eq!(tree["/chosen/stdout-path"], b"/serial@3eff03f8\0");
        assert_eq!(tree["/chosen/linux,initrd-start"], cells(&[0, 0x4800_0000]));
        assert_eq!(tree["/chosen/linux,initrd-end"], cells(&[0, 0x4800_1234]));
        assert_eq!(tree["/chosen/kaslr-seed"], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(tree["/chosen/rng-seed"].len(), 56);
        assert_eq!(tree["/memory@40000000/reg"], cells(&[0, 0x4000_0000, 0, 0x1000_0000]));
        assert_eq!(tree["/cpus/cpu@0/enable-method"], b"psci\0");
        assert_eq!(tree["/cpus/cpu@100/reg"], cells(&[0, 0x100]));
        assert_eq!(tree["/psci/method"], b"hvc\0");
        assert_eq!(tree["/rtc@9010000/interrupts"], cells(&[0, 8, 4]));
        assert_eq!(tree["/serial@3eff03f8/reg"], cells(&[0, 0x3EFF_03F8, 0, 8]));
        assert_eq!(tree["/serial@3eff03e8/interrupts"], cells(&[0, 3, 4]));
        assert_eq!(tree["/aliases/serial2"], b"/serial@3eff03e8\0");
        assert!(!tree.contains_key("/serial@3eff02f8/reg"));
        assert_eq!(tree["/timer/interrupts"][..12], cells(&[1, 13, 4]));
    }

    #[test]
    fn each_gic_is_described_as_it_is() {
        let v3 = tree(&machine());
        let reg = cells(&[0, 0x0800_0000, 0, 0x1_0000, 0, 0x080A_0000, 0, 17 * 0x2_0000]);
        assert_eq!(v3["/interrupt-controller@8000000/reg"], reg);
        let v2 = tree(&Description { cpus: 2, gic: GicVersion::V2, ..machine() });
        let reg = cells(&[0, 0x0800_0000, 0, 0x1000, 0, 0x0801_0000, 0, 0x2000]);
        assert_eq!(v2["/interrupt-controller@8000000/reg"], reg);
        assert_eq!(v2["/timer/interrupts"][..12], cells(&[1, 13, 0x304]));
    }

    #[test]
    fn a_machine_without_serial_ports_has_no_console() {
        let tree = tree(&Description { serial: [false; 4], ..machine() });
        assert!(!tree.contains_key("/chosen/stdout-path"));
    }

    #[test]
    fn a_command_line_with_a_nul_byte_is_an_error() {
        let chosen = Chosen { cmdline: "a\0b", initrd: None, seed: None };
        assert!(write(&machine(), &chosen).is_err());
    }
}
