//! A partition: a virtual machine of the software CPU, in the platform's words.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vm_accel::accel::ffi::whpx::{InterruptControl, interrupt, map, property};
use vm_accel::accel::soft::{HostRange, SoftBackend};
use vm_accel::accel::{Accel, AccelError, InterruptSink, MsiMessage, MsiSink};

use super::processor::Processor;
use super::{E_INVALID_ARGUMENT, E_INVALID_CONFIGURATION, E_UNKNOWN_PROPERTY, Outcome, lock};

/// A partition.
pub struct Partition {
    inner: Mutex<Inner>,
    apics: Arc<dyn MsiSink>,
    processors: Mutex<BTreeMap<u32, Arc<Processor>>>,
}

struct Inner {
    backend: SoftBackend,
    ranges: Vec<HostRange>,
    cpus: Option<u32>,
    has_apics: bool,
    is_set_up: bool,
}

impl Partition {
    pub fn new() -> Result<Self, AccelError> {
        let backend = SoftBackend::new()?;
        let InterruptSink::Lapic(apics) = backend.interrupt_sink() else {
            unreachable!("the software CPU's machine is a PC")
        };
        let inner = Inner { backend, ranges: Vec::new(), cpus: None, has_apics: false, is_set_up: false };
        Ok(Self { inner: Mutex::new(inner), apics, processors: Mutex::default() })
    }

    pub fn set_property(&self, code: i32, value: &[u8]) -> Outcome {
        let mut inner = lock(&self.inner);
        if inner.is_set_up {
            return Err(E_INVALID_CONFIGURATION);
        }
        let word =
            || value.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)).ok_or(E_INVALID_ARGUMENT);
        match code {
            property::PROCESSOR_COUNT => inner.cpus = Some(word()?),
            property::LOCAL_APIC_EMULATION_MODE => {
                if ![property::APIC_XAPIC, property::APIC_X2APIC].contains(&word()?.cast_signed()) {
                    return Err(E_INVALID_ARGUMENT);
                }
                inner.has_apics = true;
            }
            // What no exit is made for, the software CPU does itself.
            property::EXTENDED_VM_EXITS if value.len() == 8 => {}
            property::CPUID_EXIT_LIST if value.len().is_multiple_of(4) => {}
            _ => return Err(E_UNKNOWN_PROPERTY),
        }
        Ok(())
    }

    pub fn set_up(&self) -> Outcome {
        let mut inner = lock(&self.inner);
        if inner.is_set_up || inner.cpus.is_none() || !inner.has_apics {
            return Err(E_INVALID_CONFIGURATION);
        }
        inner.is_set_up = true;
        Ok(())
    }

    pub fn map(&self, host: usize, gpa: u64, size: u64, flags: i32) -> Outcome {
        let mut inner = lock(&self.inner);
        let aligned = [host as u64, gpa, size].iter().all(|value| value.is_multiple_of(4096));
        if !inner.is_set_up || !aligned || size == 0 || flags != map::READ | map::WRITE | map::EXECUTE {
            return Err(E_INVALID_ARGUMENT);
        }
        inner.ranges.push(HostRange { gpa, host, size });
        Ok(())
    }

    pub fn create_processor(&self, index: u32) -> Outcome {
        let mut inner = lock(&self.inner);
        let cpus = inner.cpus.filter(|cpus| inner.is_set_up && index < *cpus).ok_or(E_INVALID_ARGUMENT)?;
        let mut processors = lock(&self.processors);
        if processors.contains_key(&index) {
            return Err(E_INVALID_ARGUMENT);
        }
        if processors.is_empty() {
            let ranges = inner.ranges.clone();
            // SAFETY: who maps a range keeps it until the partition is gone (the contract of MapGpaRange).
            unsafe { inner.backend.map_host(&ranges) };
        }
        let processor =
            Processor::new(index, cpus, &mut inner.backend).map_err(|_| E_INVALID_CONFIGURATION)?;
        processors.insert(index, processor);
        Ok(())
    }

    pub fn delete_processor(&self, index: u32) -> Outcome {
        lock(&self.processors).remove(&index).map(|_| ()).ok_or(E_INVALID_ARGUMENT)
    }

    pub fn processor(&self, index: u32) -> Outcome<Arc<Processor>> {
        lock(&self.processors).get(&index).cloned().ok_or(E_INVALID_ARGUMENT)
    }

    pub fn interrupt(&self, control: InterruptControl) -> Outcome {
        let kind = control.bits & 0xff;
        if ![interrupt::FIXED, interrupt::LOWEST_PRIORITY, interrupt::NMI, interrupt::INIT].contains(&kind) {
            return Err(E_INVALID_ARGUMENT);
        }
        let logical = control.bits >> 8 & 15 == interrupt::LOGICAL;
        let level = control.bits >> 12 & 15 == interrupt::LEVEL;
        let destination = u64::from(control.destination);
        self.apics.signal_msi(MsiMessage {
            address: 0xfee0_0000
                | (destination & 0xff) << 12
                | (destination & !0xff) << 32
                | u64::from(logical) << 2,
            // A level is asserted.
            data: control.vector & 0xff | (kind as u32) << 8 | (u32::from(level) * (3 << 14)),
        });
        Ok(())
    }
}
