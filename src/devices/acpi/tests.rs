//! The tables as a guest finds them, and as `iasl` reads them.

use super::*;
use crate::memory;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Output};

fn spec(cpus: u32) -> AcpiSpec {
    let virtio_mmio =
        (0..2).map(|n| VirtioMmio { address: 0xD000_0000 + n * 0x1000, bytes: 0x1000, gsi: 5 + n });
    AcpiSpec { cpus, serial: [true, true, true, false], virtio_mmio: virtio_mmio.collect() }
}

fn guest(spec: &AcpiSpec) -> GuestMemory {
    let memory = memory::allocate(1 << 20).unwrap();
    assert_eq!(write_tables(&memory, spec).unwrap(), 0xE_0000);
    memory
}

fn bytes_at(memory: &GuestMemory, gpa: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
    bytes
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A table, with its checksum verified.
fn table(memory: &GuestMemory, gpa: u64) -> Vec<u8> {
    assert_eq!(gpa % 16, 0);
    let length = number(&bytes_at(memory, gpa + 4, 4), 0, 4);
    let table = bytes_at(memory, gpa, usize::try_from(length).unwrap());
    assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
    table
}

/// The tables by signature, found from the RSDP as a guest does.
fn tables(memory: &GuestMemory) -> Vec<(String, Vec<u8>)> {
    let rsdp = bytes_at(memory, 0xE_0000, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    for part in [&rsdp[..20], &rsdp] {
        assert_eq!(part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "RSDP checksum");
    }
    let xsdt = table(memory, number(&rsdp, 24, 8));
    let mut tables: Vec<Vec<u8>> =
        xsdt[36..].chunks(8).map(|entry| table(memory, number(entry, 0, 8))).collect();
    let dsdt = table(memory, number(&tables[0], 140, 8));
    assert_eq!(dsdt, table(memory, number(&tables[0], 40, 4)));
    let rsdt = table(memory, number(&rsdp, 16, 4));
    let by_rsdt: Vec<Vec<u8>> =
        rsdt[36..].chunks(4).map(|entry| table(memory, number(entry, 0, 4))).collect();
    assert_eq!(tables, by_rsdt);
    tables.extend([dsdt, xsdt, rsdt]);
    tables.into_iter().map(|table| (String::from_utf8(table[..4].to_vec()).unwrap(), table)).collect()
}

fn find(tables: &[(String, Vec<u8>)], signature: &str) -> Vec<u8> {
    tables.iter().find(|(name, _)| name == signature).unwrap().1.clone()
}

#[test]
fn the_fadt_is_hardware_reduced() {
    let fadt = find(&tables(&guest(&spec(1))), "FACP");
    assert_eq!((fadt.len(), fadt[8]), (276, 6), "length and revision");
    assert_ne!(number(&fadt, 112, 4) & 1 << 20, 0, "HW_REDUCED_ACPI");
    assert_ne!(number(&fadt, 112, 4) & 1 << 10, 0, "RESET_REG_SUP");
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0], "reset register");
    assert_eq!(fadt[128], 6, "reset value");
    assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x00, 0x06, 0, 0, 0, 0, 0, 0], "sleep control");
    assert_eq!(fadt[256..268], [1, 8, 0, 1, 0x01, 0x06, 0, 0, 0, 0, 0, 0], "sleep status");
}

#[test]
fn the_madt_names_every_processor_once() {
    for cpus in [1, 4, 255, 300] {
        let madt = find(&tables(&guest(&spec(cpus))), "APIC");
        let mut ids = Vec::new();
        let mut others = Vec::new();
        let mut rest = &madt[44..];
        while let [kind, length, ..] = *rest {
            let (entry, behind) = rest.split_at(usize::from(length));
            match kind {
                0 => ids.push(u64::from(entry[3])),
                9 => ids.push(number(entry, 4, 4)),
                _ => others.push(kind),
            }
            rest = behind;
        }
        assert_eq!(ids, (0..u64::from(cpus)).collect::<Vec<_>>());
        assert_eq!(others, if cpus > 255 { vec![1, 2, 4, 10] } else { vec![1, 2, 4] });
    }
}

#[test]
fn too_many_processors_are_an_error() {
    let memory = memory::allocate(1 << 20).unwrap();
    assert!(matches!(write_tables(&memory, &spec(4095)), Err(AcpiError::TooLarge { .. })));
    let memory = memory::allocate(64 << 10).unwrap();
    assert!(matches!(write_tables(&memory, &spec(1)), Err(AcpiError::Memory { .. })));
}

/// Runs iasl in `folder`; its output and exit status must be free of complaints.
fn iasl(folder: &Path, args: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        Command::new("iasl").args(args).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "iasl {args:?}: {said}");
    said
}

#[test]
fn iasl_reads_every_table() {
    if let Err(error) = Command::new("iasl").arg("-v").output() {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        // Not eprintln: the test harness would hide it.
        let _ = std::io::stderr()
            .write_all(b"SKIPPED: iasl_reads_every_table: iasl (Debian: acpica-tools) is missing\n");
        return;
    }
    for cpus in [1, 255] {
        let folder = tempfile::tempdir().unwrap();
        for (signature, table) in tables(&guest(&spec(cpus))) {
            let name = signature.to_lowercase();
            std::fs::write(folder.path().join(format!("{name}.dat")), table).unwrap();
            let said = iasl(folder.path(), &["-d", &format!("{name}.dat")]);
            let source = std::fs::read_to_string(folder.path().join(format!("{name}.dsl"))).unwrap();
            for text in [&said, &source] {
                let text = text.to_lowercase();
                for complaint in ["error", "warning", "invalid", "unknown"] {
                    assert!(!text.contains(complaint), "{signature}: {complaint}\n{said}\n{source}");
                }
            }
        }
        // What it has read, it must also be able to compile.
        let said = iasl(folder.path(), &["-p", "again", "dsdt.dsl"]);
        assert!(said.contains("0 Errors, 0 Warnings"), "{said}");
    }
}
