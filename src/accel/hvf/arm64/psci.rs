//! PSCI 1.1 as the backend answers it (Arm DEN 0022): Hypervisor.framework has none of its own.

#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use crate::accel::SystemEvent;
use crate::accel::arm64::affinity;

/// Function identifiers. The 64-bit calling convention's have bit 30 set.
mod function {
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    pub const VERSION: u32 = 0x8400_0000;
    pub const CPU_OFF: u32 = 0x8400_0002;
    pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    pub const FEATURES: u32 = 0x8400_000a;
    pub const SYSTEM_RESET2_32: u32 = 0x8400_0012;
    pub const CPU_SUSPEND_32: u32 = 0x8400_0001;
    pub const CPU_ON_32: u32 = 0x8400_0003;
    pub const CPU_SUSPEND_64: u32 = 0xc400_0001;
    pub const CPU_ON_64: u32 = 0xc400_0003;
    pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
    pub const SYSTEM_RESET2_64: u32 = 0xc400_0012;
}

/// PSCI's version, major and minor.
const PSCI_1_1: u64 = 1 << 16 | 1;
/// The SMC calling convention's version.
const SMCCC_1_1: u64 = 1 << 16 | 1;
/// The answers that are errors.
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
/// MIGRATE_INFO_TYPE: there is no trusted OS to migrate.
const NO_TRUSTED_OS: u64 = 2;
/// The affinity fields of an MPIDR.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// What a call wants of the vCPU that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Go on with this in X0.
    Return(u64),
    /// Go on with 0 in X0, after the next interrupt.
    Suspend,
    /// Stop until another vCPU starts this one.
    Off,
    /// End the machine.
    System(SystemEvent),
}

/// Where a vCPU is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its program counter.
    pub entry: u64,
    /// Its X0.
    pub context: u64,
}

/// A vCPU as PSCI sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Off,
    Pending(Start),
}

/// The power states of a machine's vCPUs.
#[derive(Debug)]
pub struct Psci {
    power: Mutex<Vec<Power>>,
}

impl Psci {
    /// A machine with `cpus` vCPUs, of which the first is on.
    #[must_use]
    pub fn new(cpus: u32) -> Self {
        let mut power = vec![Power::Off; cpus as usize];
        if let Some(first) = power.first_mut() {
            *first = Power::On;
        }
        Self { power: Mutex::new(power) }
    }

    /// Whether vCPU `id` is on.
    #[must_use]
    pub fn is_on(&self, id: u32) -> bool {
        self.with(id, |power| *power == Power::On).unwrap_or(false)
    }

    /// Takes the order to start vCPU `id`, if there is one; the vCPU is on from then on.
    pub fn take_start(&self, id: u32) -> Option<Start> {
        self.with(id, |power| match *power {
            Power::Pending(start) => {
                *power = Power::On;
                Some(start)
            }
            Power::On | Power::Off => None,
        })
        .flatten()
    }

    fn with<T>(&self, id: u32, act: impl FnOnce(&mut Power) -> T) -> Option<T> {
        let mut power = self.power.lock().unwrap_or_else(PoisonError::into_inner);
        power.get_mut(id as usize).map(act)
    }

    /// The call of vCPU `id` with `args` in X0 to X3. `wake` is called with the number of a vCPU that has an
    /// order to start.
    pub fn call(&self, id: u32, args: [u64; 4], wake: impl FnOnce(u32)) -> Answer {
        let [function, x1, x2, x3] = args;
        // The identifier is W0.
        let function = function as u32;
        // The 32-bit convention's arguments are W registers.
        let wide = function & 1 << 30 != 0;
        let arg = |x: u64| if wide { x } else { x & 0xffff_ffff };
        match function {
            function::VERSION => Answer::Return(PSCI_1_1),
            function::SMCCC_VERSION => Answer::Return(SMCCC_1_1),
            function::FEATURES => Answer::Return(features(x1 as u32)),
            function::MIGRATE_INFO_TYPE => Answer::Return(NO_TRUSTED_OS),
            function::CPU_ON_32 | function::CPU_ON_64 => {
                let start = Start { entry: arg(x2), context: arg(x3) };
                Answer::Return(self.cpu_on(arg(x1), start, wake))
            }
            function::CPU_OFF => {
                self.with(id, |power| *power = Power::Off);
                Answer::Off
            }
            // A suspended vCPU keeps its state here, which a power-down state may do, too.
            function::CPU_SUSPEND_32 | function::CPU_SUSPEND_64 => Answer::Suspend,
            function::AFFINITY_INFO_32 | function::AFFINITY_INFO_64 => {
                Answer::Return(self.affinity_info(arg(x1), arg(x2)))
            }
            function::SYSTEM_OFF => Answer::System(SystemEvent::PowerOff),
            function::SYSTEM_RESET | function::SYSTEM_RESET2_32 | function::SYSTEM_RESET2_64 => {
                Answer::System(SystemEvent::Reset)
            }
            _ => Answer::Return(NOT_SUPPORTED.cast_unsigned()),
        }
    }

    /// The vCPU with this MPIDR.
    fn target(&self, mpidr: u64) -> Option<u32> {
        let cpus = self.power.lock().unwrap_or_else(PoisonError::into_inner).len();
        (0..u32::try_from(cpus).unwrap_or(u32::MAX)).find(|id| affinity(*id) == mpidr & AFFINITY)
    }

    fn cpu_on(&self, mpidr: u64, start: Start, wake: impl FnOnce(u32)) -> u64 {
        let target = if mpidr & !AFFINITY == 0 { self.target(mpidr) } else { None };
        let Some(target) = target else { return INVALID_PARAMETERS.cast_unsigned() };
        let answer = self.with(target, |power| match power {
            Power::On => ALREADY_ON,
            Power::Pending(_) => ON_PENDING,
            Power::Off => {
                *power = Power::Pending(start);
                0
            }
        });
        let answer = answer.unwrap_or(INVALID_PARAMETERS);
        if answer == 0 {
            wake(target);
        }
        answer.cast_unsigned()
    }

    /// 0 for on, 1 for off, 2 for on its way. Only level 0, a vCPU, is known.
    fn affinity_info(&self, mpidr: u64, level: u64) -> u64 {
        let target = if level == 0 && mpidr & !AFFINITY == 0 { self.target(mpidr) } else { None };
        let state = target.and_then(|target| {
            self.with(target, |power| match power {
                Power::On => 0,
                Power::Off => 1,
                Power::Pending(_) => 2,
            })
        });
        state.unwrap_or(INVALID_PARAMETERS.cast_unsigned())
    }
}

/// PSCI_FEATURES: 0 for what there is.
fn features(function: u32) -> u64 {
    match function {
        function::VERSION
        | function::SMCCC_VERSION
        | function::FEATURES
        | function::MIGRATE_INFO_TYPE
        | function::CPU_OFF
        | function::CPU_ON_32
        | function::CPU_ON_64
        | function::CPU_SUSPEND_32
        | function::CPU_SUSPEND_64
        | function::AFFINITY_INFO_32
        | function::AFFINITY_INFO_64
        | function::SYSTEM_OFF
        | function::SYSTEM_RESET
        | function::SYSTEM_RESET2_32
        | function::SYSTEM_RESET2_64 => 0,
        _ => NOT_SUPPORTED.cast_unsigned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call of vCPU 0 that must wake nobody.
    fn call(psci: &Psci, function: u32, args: [u64; 3]) -> Answer {
        psci.call(0, [function.into(), args[0], args[1], args[2]], |id| panic!("vCPU {id} is woken"))
    }

    fn error(code: i64) -> Answer {
        Answer::Return(code as u64)
    }

    #[test]
    fn versions_and_features() {
        let psci = Psci::new(1);
        assert_eq!(call(&psci, 0x8400_0000, [0; 3]), Answer::Return(0x1_0001));
        assert_eq!(call(&psci, 0x8000_0000, [0; 3]), Answer::Return(0x1_0001));
        assert_eq!(call(&psci, 0x8400_0006, [0; 3]), Answer::Return(2));
        for present in [0x8400_0000, 0xc400_0003, 0x8400_0008, 0x8400_0009, 0x8000_0000] {
            assert_eq!(call(&psci, 0x8400_000a, [present, 0, 0]), Answer::Return(0), "{present:#x}");
        }
        // SYSTEM_SUSPEND, and a function that nobody has defined.
        for absent in [0xc400_000e, 0x8400_0fff] {
            assert_eq!(call(&psci, 0x8400_000a, [absent, 0, 0]), error(-1), "{absent:#x}");
        }
        assert_eq!(call(&psci, 0x8000_0001, [0x8000_8000, 0, 0]), error(-1));
    }

    #[test]
    fn a_machine_ends_by_off_and_reset() {
        let psci = Psci::new(1);
        assert_eq!(call(&psci, 0x8400_0008, [0; 3]), Answer::System(SystemEvent::PowerOff));
        for reset in [0x8400_0009, 0x8400_0012, 0xc400_0012] {
            assert_eq!(call(&psci, reset, [0; 3]), Answer::System(SystemEvent::Reset));
        }
    }

    #[test]
    fn a_vcpu_is_started_once_and_where_it_is_told() {
        let psci = Psci::new(18);
        assert_eq!((psci.is_on(0), psci.is_on(1)), (true, false));
        assert_eq!(call(&psci, 0xc400_0004, [1, 0, 0]), Answer::Return(1));
        let mut woken = None;
        // MPIDR 0x101 is vCPU 17: 16 vCPUs share the fields above the lowest one.
        let args = [0xc400_0003, 0x101, 0x4020_0000_0000, 0x1234_5678_9abc];
        assert_eq!(psci.call(0, args, |id| woken = Some(id)), Answer::Return(0));
        assert_eq!(woken, Some(17));
        assert_eq!(call(&psci, 0xc400_0003, [0x101, 0, 0]), error(-5));
        assert_eq!(call(&psci, 0xc400_0004, [0x101, 0, 0]), Answer::Return(2));
        let start = Start { entry: 0x4020_0000_0000, context: 0x1234_5678_9abc };
        assert_eq!(psci.take_start(17), Some(start));
        assert_eq!(psci.take_start(17), None);
        assert_eq!(call(&psci, 0xc400_0003, [0x101, 0, 0]), error(-4));
        assert_eq!(call(&psci, 0xc400_0004, [0x101, 0, 0]), Answer::Return(0));
        // Off by its own wish, and on again.
        assert_eq!(psci.call(17, [0x8400_0002, 0, 0, 0], |_| {}), Answer::Off);
        assert!(!psci.is_on(17));
        assert_eq!(psci.call(0, args, |_| {}), Answer::Return(0));
    }

    #[test]
    fn the_32_bit_convention_has_32_bit_arguments() {
        let psci = Psci::new(2);
        let args = [0xffff_ffff_8400_0003, 0xdead_0000_0001, 0xdead_4000_0000, 0xdead_0000_0007];
        assert_eq!(psci.call(0, args, |_| {}), Answer::Return(0));
        assert_eq!(psci.take_start(1), Some(Start { entry: 0x4000_0000, context: 7 }));
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let psci = Psci::new(2);
        for mpidr in [2, 0x8000_0001, u64::MAX] {
            assert_eq!(call(&psci, 0xc400_0003, [mpidr, 0, 0]), error(-2), "{mpidr:#x}");
        }
        assert_eq!(call(&psci, 0xc400_0004, [1, 1, 0]), error(-2));
        assert_eq!(call(&psci, 0x8400_0005, [0; 3]), error(-1));
        assert_eq!(call(&psci, u32::MAX, [u64::MAX; 3]), error(-1));
        assert_eq!(call(&psci, 0xc400_0001, [0; 3]), Answer::Suspend);
    }
}
