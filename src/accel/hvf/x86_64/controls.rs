//! The VM-execution, entry and exit controls (Intel SDM vol. 3, 25.6 to 25.8), as far as the processor has
//! them.

#![forbid(unsafe_code)]

use super::cpu::Cpu;
use super::vmcs::{
    CTRL_CPU_BASED, CTRL_CPU_BASED2, CTRL_ENTRY, CTRL_EXCEPTION_BITMAP, CTRL_EXIT, CTRL_PIN_BASED, Field,
};
use crate::accel::ffi::hvf::HV_UNSUPPORTED;
use crate::accel::ffi::hvf::x86_64::{
    HV_VMX_CAP_ENTRY, HV_VMX_CAP_EXIT, HV_VMX_CAP_PINBASED, HV_VMX_CAP_PROCBASED, HV_VMX_CAP_PROCBASED2,
};
use crate::accel::hvf::error::{HvError, HvResult};

/// Primary: exit when the guest can take an interrupt.
pub const INTERRUPT_WINDOW: u64 = 1 << 2;
/// Entry: the guest is in IA-32e mode.
pub const ENTRY_IA32E: u64 = 1 << 9;

/// Pin-based: interrupts and NMIs of the host's exit.
const PIN_REQUIRED: u64 = 1 | 1 << 3;
/// Primary: exits of HLT and of CR8's loads and stores, and the secondary controls.
const PRIMARY_REQUIRED: u64 = 1 << 7 | 1 << 19 | 1 << 20 | 1 << 31;
/// Primary: exits of MWAIT, RDPMC, every port and MONITOR; a TSC of its own.
const PRIMARY_WANTED: u64 = 1 << 3 | 1 << 10 | 1 << 11 | 1 << 24 | 1 << 29;
/// Secondary: real mode and unpaged protected mode as they are.
const SECONDARY_REQUIRED: u64 = UNRESTRICTED_GUEST;
const UNRESTRICTED_GUEST: u64 = 1 << 7;
/// Secondary: EPT, RDTSCP, INVPCID.
const SECONDARY_WANTED: u64 = 1 << 1 | 1 << 3 | 1 << 12;
/// Exit: a 64-bit host.
const EXIT_REQUIRED: u64 = 1 << 9;
/// Exit: PAT and EFER are saved and loaded.
const EXIT_WANTED: u64 = 0b1111 << 18;
/// Entry: PAT and EFER are loaded.
const ENTRY_WANTED: u64 = 0b11 << 14;

/// A set of controls.
struct Set {
    name: &'static str,
    capability: u32,
    field: Field,
    required: u64,
    wanted: u64,
}

const SETS: [Set; 5] = [
    Set {
        name: "VMX pin-based controls",
        capability: HV_VMX_CAP_PINBASED,
        field: CTRL_PIN_BASED,
        required: PIN_REQUIRED,
        wanted: 0,
    },
    Set {
        name: "VMX processor-based controls",
        capability: HV_VMX_CAP_PROCBASED,
        field: CTRL_CPU_BASED,
        required: PRIMARY_REQUIRED,
        wanted: PRIMARY_WANTED,
    },
    Set {
        name: "VMX secondary controls (unrestricted guest)",
        capability: HV_VMX_CAP_PROCBASED2,
        field: CTRL_CPU_BASED2,
        required: SECONDARY_REQUIRED,
        wanted: SECONDARY_WANTED,
    },
    Set {
        name: "VMX exit controls",
        capability: HV_VMX_CAP_EXIT,
        field: CTRL_EXIT,
        required: EXIT_REQUIRED,
        wanted: EXIT_WANTED,
    },
    Set {
        name: "VMX entry controls",
        capability: HV_VMX_CAP_ENTRY,
        field: CTRL_ENTRY,
        required: 0,
        wanted: ENTRY_WANTED,
    },
];

/// The value of a set of controls: what is required, what is wanted where it may be 1, and what must be 1.
/// `None` where something required must be 0. `capability` has the bits that must be 1 in its lower half and
/// those that may be 1 in its upper half (appendix A.3).
#[must_use]
pub fn adjust(capability: u64, required: u64, wanted: u64) -> Option<u64> {
    let (must, may) = (capability & 0xffff_ffff, capability >> 32);
    (required & !may == 0).then_some((required | wanted) & may | must)
}

/// Sets all controls of a new vCPU.
///
/// # Errors
/// When the framework refuses, or the processor lacks something.
pub fn set_up(cpu: &mut impl Cpu) -> HvResult<()> {
    for set in SETS {
        let capability = cpu.capability(set.capability)?;
        let value = adjust(capability, set.required, set.wanted)
            .ok_or(HvError { operation: set.name, code: HV_UNSUPPORTED })?;
        cpu.set_vmcs(set.field, value)?;
    }
    cpu.set_vmcs(CTRL_EXCEPTION_BITMAP, 0)
}

#[cfg(test)]
mod tests {
    use super::super::testing::ScriptedCpu;
    use super::*;

    #[test]
    fn controls_follow_the_capabilities() {
        // IA32_VMX_PINBASED_CTLS of a Skylake: bits 1, 2 and 4 must be 1; 0, 3, 5, 6 and 7 may be.
        assert_eq!(adjust(0x0000_00ff_0000_0016, PIN_REQUIRED, 0), Some(0x1f));
        // IA32_VMX_PROCBASED_CTLS: 0x0401e172 must be 1.
        let primary = adjust(0xfff9_fffe_0401_e172, PRIMARY_REQUIRED, PRIMARY_WANTED).unwrap();
        assert_eq!(primary & PRIMARY_REQUIRED, PRIMARY_REQUIRED);
        assert_eq!(primary & 0x0401_e172, 0x0401_e172);
        assert_eq!(primary & INTERRUPT_WINDOW, 0);
        // What may not be 1 is left out if it is only wanted, and an end if it is required.
        assert_eq!(adjust(1 << 32, 0, 3), Some(1));
        assert_eq!(adjust(1 << 32, 2, 0), None);
    }

    #[test]
    fn a_processor_without_unrestricted_guest_is_named() {
        let mut cpu = ScriptedCpu::default();
        set_up(&mut cpu).unwrap();
        assert_eq!(cpu.vmcs(CTRL_CPU_BASED2).unwrap() & UNRESTRICTED_GUEST, UNRESTRICTED_GUEST);
        cpu.capabilities.insert(HV_VMX_CAP_PROCBASED2, 0x0000_0002_0000_0000);
        let error = set_up(&mut cpu).unwrap_err().to_string();
        assert!(error.contains("unrestricted guest"), "{error}");
    }
}
