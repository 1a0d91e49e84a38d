//! A GICv3 (Arm IHI 0069) with one security state: distributor, redistributors, and CPU interfaces in system
//! registers. For hypervisors that have none of their own.
//!
//! Interrupts are SGIs, PPIs and SPIs; there are no LPIs and no ITS. Priorities have five bits.

#![forbid(unsafe_code)]

mod cpu_interface;
mod interrupts;
mod registers;

use std::sync::{Mutex, OnceLock};

use crate::devices::lock;
pub use cpu_interface::Signals;
use cpu_interface::{CpuInterface, SystemRegister};
use interrupts::{Bank, PRIVATE};

/// Called with the number of a vCPU that has a new interrupt; with the GIC unlocked.
pub type Wake = Box<dyn Fn(u32) + Send + Sync>;

/// The interrupt controller of a whole machine.
pub struct GicV3 {
    state: Mutex<State>,
    wake: OnceLock<Wake>,
}

/// One vCPU's part.
struct Cpu {
    /// The affinity fields of its MPIDR.
    affinity: u64,
    interface: CpuInterface,
    /// SGIs and PPIs.
    private: Bank,
    /// GICR_WAKER.ProcessorSleep.
    asleep: bool,
    /// What was signalled last.
    signals: Signals,
}

/// The registers.
struct State {
    /// GICD_CTLR's enables of group 0 and 1.
    enabled: [bool; 2],
    shared: Bank,
    cpus: Vec<Cpu>,
}

impl GicV3 {
    /// A GIC for vCPUs with these affinities (the affinity fields of their MPIDRs), with `spis` shared
    /// interrupts, rounded up to a multiple of 32.
    #[must_use]
    pub fn new(affinities: &[u64], spis: u32) -> Self {
        let cpu = |affinity: &u64| Cpu {
            affinity: *affinity,
            interface: CpuInterface::default(),
            private: Bank::private(),
            asleep: true,
            signals: Signals::default(),
        };
        let cpus = affinities.iter().map(cpu).collect();
        let state = State { enabled: [false; 2], shared: Bank::shared(spis), cpus };
        Self { state: Mutex::new(state), wake: OnceLock::new() }
    }

    /// Says whom to call when a vCPU has an interrupt. The first call counts.
    pub fn set_wake(&self, wake: Wake) {
        let _ = self.wake.set(wake);
    }

    /// How many vCPUs it has, and so how many redistributors.
    #[must_use]
    pub fn cpus(&self) -> u64 {
        lock(&self.state).cpus.len() as u64
    }

    /// What vCPU `cpu` is signalled now.
    #[must_use]
    pub fn signals(&self, cpu: u32) -> Signals {
        lock(&self.state).signals(cpu as usize)
    }

    /// Drives shared interrupt `spi` (its INTID is 32 higher).
    pub fn set_spi(&self, spi: u32, level: bool) {
        self.change(|state| state.shared.set_line(spi, level));
    }

    /// Drives private interrupt `intid` (16 to 31) of vCPU `cpu`.
    pub fn set_ppi(&self, cpu: u32, intid: u32, level: bool) {
        self.change(|state| {
            if let Some(cpu) = state.cpus.get_mut(cpu as usize) {
                cpu.private.set_line(intid, level);
            }
        });
    }

    /// A load from the distributor.
    pub fn read_distributor(&self, offset: u64, data: &mut [u8]) {
        registers::read(data, offset, |word| lock(&self.state).read_distributor(word));
    }

    /// A store to the distributor.
    pub fn write_distributor(&self, offset: u64, data: &[u8]) {
        self.change(|state| registers::write(data, offset, |word| state.write_distributor(word)));
    }

    /// A load from the redistributors, which lie behind each other.
    pub fn read_redistributor(&self, offset: u64, data: &mut [u8]) {
        registers::read(data, offset, |word| lock(&self.state).read_redistributor(word));
    }

    /// A store to the redistributors.
    pub fn write_redistributor(&self, offset: u64, data: &[u8]) {
        self.change(|state| registers::write(data, offset, |word| state.write_redistributor(word)));
    }

    /// vCPU `cpu` reads a system register, by its encoding: op0, op1, CRn, CRm and op2 packed as in the
    /// instruction. `None` for one that is not the GIC's, or cannot be read.
    pub fn read_system(&self, cpu: u32, encoding: u16) -> Option<u64> {
        let register = SystemRegister::decode(encoding)?;
        self.change(|state| state.read_system(cpu as usize, register))
    }

    /// vCPU `cpu` writes a system register. `None` for one that is not the GIC's, or cannot be written.
    pub fn write_system(&self, cpu: u32, encoding: u16, value: u64) -> Option<()> {
        let register = SystemRegister::decode(encoding)?;
        self.change(|state| state.write_system(cpu as usize, register, value))
    }

    /// Changes the state, and tells the vCPUs that are signalled something new.
    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let answer = act(&mut state);
        let risen = state.refresh();
        drop(state);
        if let Some(wake) = self.wake.get() {
            risen.into_iter().for_each(wake);
        }
        answer
    }
}

impl State {
    /// Notes what every vCPU is signalled now, and gives those to which something new came.
    fn refresh(&mut self) -> Vec<u32> {
        let mut risen = Vec::new();
        for index in 0..self.cpus.len() {
            let now = self.signals(index);
            let Some(cpu) = self.cpus.get_mut(index) else { continue };
            let new = now.irq && !cpu.signals.irq || now.fiq && !cpu.signals.fiq;
            cpu.signals = now;
            if new {
                risen.extend(u32::try_from(index));
            }
        }
        risen
    }

    fn signals(&self, index: usize) -> Signals {
        let Some(cpu) = self.cpus.get(index) else { return Signals::default() };
        let signalled = |group: usize| {
            self.highest(index, group).is_some_and(|(_, priority)| cpu.interface.admits(group, priority))
        };
        Signals { fiq: signalled(0), irq: signalled(1) }
    }

    /// The pending interrupt of the highest priority that a vCPU has in a group: INTID and priority.
    fn highest(&self, index: usize, group: usize) -> Option<(u32, u8)> {
        if !self.enabled.get(group).copied().unwrap_or(false) {
            return None;
        }
        let cpu = self.cpus.get(index)?;
        let target = u32::try_from(index).ok()?;
        let private = cpu.private.highest(group, None);
        let shared = self.shared.highest(group, Some(target)).map(|(n, priority)| (n + PRIVATE, priority));
        // A lower number is a higher priority, and among equals the lower INTID wins.
        private.into_iter().chain(shared).min_by_key(|(intid, priority)| (*priority, *intid))
    }

    /// The bank of an INTID and the number in it.
    fn bank(&mut self, index: usize, intid: u32) -> Option<(&mut Bank, u32)> {
        if intid < PRIVATE {
            self.cpus.get_mut(index).map(|cpu| (&mut cpu.private, intid))
        } else {
            Some((&mut self.shared, intid - PRIVATE))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Encodings of system registers.
    const PMR: u16 = encoding(4, 6, 0);
    const IAR1: u16 = encoding(12, 12, 0);
    const EOIR1: u16 = encoding(12, 12, 1);
    const HPPIR1: u16 = encoding(12, 12, 2);
    const CTLR: u16 = encoding(12, 12, 4);
    const SRE: u16 = encoding(12, 12, 5);
    const IGRPEN0: u16 = encoding(12, 12, 6);
    const IGRPEN1: u16 = encoding(12, 12, 7);
    const IAR0: u16 = encoding(12, 8, 0);
    const DIR: u16 = encoding(12, 11, 1);
    const RPR: u16 = encoding(12, 11, 3);
    const SGI1R: u16 = encoding(12, 11, 5);
    const SPURIOUS: u64 = 1023;

    const fn encoding(crn: u16, crm: u16, op2: u16) -> u16 {
        3 << 14 | crn << 7 | crm << 3 | op2
    }

    /// Two vCPUs, set up as Linux does: all interrupts in group 1, priority 0xa0, PMR 0xf0.
    fn gic() -> GicV3 {
        let gic = GicV3::new(&[0, 1], 96);
        write(&gic, 0x0, 0x12);
        for word in 0..3 {
            write(&gic, 0x84 + 4 * word, u32::MAX);
        }
        for byte in 32..128 {
            gic.write_distributor(0x400 + byte, &[0xa0]);
        }
        for cpu in 0..2_u32 {
            let frame = u64::from(cpu) * 0x2_0000;
            gic.write_redistributor(frame + 0x14, &0_u32.to_le_bytes());
            gic.write_redistributor(frame + 0x1_0080, &u32::MAX.to_le_bytes());
            for word in 0..8 {
                gic.write_redistributor(frame + 0x1_0400 + 4 * word, &0xa0a0_a0a0_u32.to_le_bytes());
            }
            gic.write_redistributor(frame + 0x1_0100, &u32::MAX.to_le_bytes());
            gic.write_system(cpu, PMR, 0xf0).unwrap();
            gic.write_system(cpu, IGRPEN1, 1).unwrap();
        }
        gic
    }

    fn write(gic: &GicV3, offset: u64, value: u32) {
        gic.write_distributor(offset, &value.to_le_bytes());
    }

    fn read(gic: &GicV3, offset: u64) -> u32 {
        let mut data = [0; 4];
        gic.read_distributor(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn redistributor(gic: &GicV3, offset: u64) -> u64 {
        let mut data = [0; 8];
        gic.read_redistributor(offset, &mut data);
        u64::from_le_bytes(data)
    }

    fn irq(gic: &GicV3, cpu: u32) -> bool {
        gic.signals(cpu).irq
    }

    #[test]
    fn it_says_what_it_is() {
        let gic = gic();
        // ITLinesNumber 3: 128 interrupts; ten bits of INTID; no routing to one of many.
        assert_eq!(read(&gic, 0x4), 3 | 9 << 19 | 1 << 25);
        assert_eq!(read(&gic, 0xffe8) & 0xf0, 0x30);
        assert_eq!(read(&gic, 0x0), 0x52);
        assert_eq!(redistributor(&gic, 0x8), 0);
        assert_eq!(redistributor(&gic, 0x2_0008), 1 << 32 | 1 << 8 | 1 << 4);
        assert_eq!(gic.read_system(0, SRE), Some(7));
        assert_eq!(gic.read_system(0, CTLR), Some(4 << 8));
        // Another register is not its own; IAR cannot be written.
        assert_eq!(gic.read_system(0, encoding(1, 0, 0)), None);
        assert_eq!(gic.write_system(0, IAR1, 0), None);
    }

    #[test]
    fn a_level_interrupt_stays_until_its_line_falls() {
        let gic = gic();
        write(&gic, 0x104, 1 << 3);
        gic.set_spi(3, true);
        assert!(irq(&gic, 0) && !irq(&gic, 1));
        assert_eq!(gic.read_system(0, HPPIR1), Some(35));
        assert_eq!(gic.read_system(0, IAR1), Some(35));
        assert_eq!(gic.read_system(0, RPR), Some(0xa0));
        assert!(!irq(&gic, 0));
        assert_eq!(gic.read_system(0, IAR1), Some(SPURIOUS));
        gic.write_system(0, EOIR1, 35).unwrap();
        assert!(irq(&gic, 0), "the line is still high");
        gic.set_spi(3, false);
        assert!(!irq(&gic, 0));
        assert_eq!(gic.read_system(0, RPR), Some(0xff));
    }

    #[test]
    fn an_edge_interrupt_is_taken_once() {
        let gic = gic();
        write(&gic, 0xc08, 2 << 6);
        write(&gic, 0x104, 1 << 3);
        gic.set_spi(3, true);
        assert_eq!(gic.read_system(0, IAR1), Some(35));
        gic.write_system(0, EOIR1, 35).unwrap();
        assert!(!irq(&gic, 0));
        gic.set_spi(3, false);
        assert!(!irq(&gic, 0));
        gic.set_spi(3, true);
        assert!(irq(&gic, 0));
    }

    #[test]
    fn a_higher_priority_preempts_and_the_lower_waits() {
        let gic = gic();
        write(&gic, 0x104, 0b110);
        gic.write_distributor(0x400 + 34, &[0x40]);
        gic.set_spi(1, true);
        assert_eq!(gic.read_system(0, IAR1), Some(33));
        gic.set_spi(2, true);
        assert!(irq(&gic, 0));
        assert_eq!(gic.read_system(0, IAR1), Some(34));
        assert_eq!(gic.read_system(0, RPR), Some(0x40));
        gic.set_spi(2, false);
        gic.write_system(0, EOIR1, 34).unwrap();
        assert_eq!(gic.read_system(0, RPR), Some(0xa0));
        // The mask keeps out what is not more urgent than it.
        gic.set_spi(1, false);
        gic.write_system(0, EOIR1, 33).unwrap();
        gic.set_spi(1, true);
        gic.write_system(0, PMR, 0xa0).unwrap();
        assert!(!irq(&gic, 0));
    }

    #[test]
    fn an_interrupt_goes_where_it_is_routed() {
        let gic = gic();
        write(&gic, 0x104, 1);
        gic.write_distributor(0x6000 + 8 * 32, &1_u64.to_le_bytes());
        gic.set_spi(0, true);
        assert!(!irq(&gic, 0) && irq(&gic, 1));
        let mut route = [0; 8];
        gic.read_distributor(0x6000 + 8 * 32, &mut route);
        assert_eq!(u64::from_le_bytes(route), 1);
        // To a vCPU that there is not: it waits.
        gic.write_distributor(0x6000 + 8 * 32, &7_u64.to_le_bytes());
        assert!(!irq(&gic, 0) && !irq(&gic, 1));
    }

    #[test]
    fn software_interrupts_reach_their_targets_and_wake_them() {
        let gic = gic();
        let woken = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&woken);
        gic.set_wake(Box::new(move |cpu| {
            seen.fetch_or(1 << cpu, Ordering::SeqCst);
        }));
        // SGI 5 to the vCPU with affinity 0.0.0.1.
        gic.write_system(0, SGI1R, 5 << 24 | 1 << 1).unwrap();
        assert_eq!(woken.swap(0, Ordering::SeqCst), 0b10);
        assert_eq!(gic.read_system(1, IAR1), Some(5));
        gic.write_system(1, EOIR1, 5).unwrap();
        // To all but oneself.
        gic.write_system(1, SGI1R, 1 << 40 | 2 << 24).unwrap();
        assert_eq!(woken.swap(0, Ordering::SeqCst), 0b01);
        assert!(irq(&gic, 0) && !irq(&gic, 1));
        // Another cluster.
        gic.write_system(0, SGI1R, 3 << 24 | 1 << 16 | 1 << 1).unwrap();
        assert!(!irq(&gic, 1));
    }

    #[test]
    fn a_timer_is_private_to_its_vcpu() {
        let gic = gic();
        gic.set_ppi(1, 27, true);
        assert!(!irq(&gic, 0) && irq(&gic, 1));
        assert_eq!(gic.read_system(1, IAR1), Some(27));
        gic.set_ppi(1, 27, false);
        gic.write_system(1, EOIR1, 27).unwrap();
        assert!(!irq(&gic, 1));
    }

    #[test]
    fn with_eoi_mode_an_interrupt_stays_active_until_it_is_deactivated() {
        let gic = gic();
        gic.write_system(0, CTLR, 2).unwrap();
        gic.write_system(0, SGI1R, 1 << 24 | 1).unwrap();
        assert_eq!(gic.read_system(0, IAR1), Some(1));
        gic.write_system(0, EOIR1, 1).unwrap();
        gic.write_system(0, SGI1R, 1 << 24 | 1).unwrap();
        assert!(!irq(&gic, 0), "still active");
        gic.write_system(0, DIR, 1).unwrap();
        assert!(irq(&gic, 0));
    }

    #[test]
    fn group_0_is_signalled_by_fiq() {
        let gic = gic();
        write(&gic, 0x0, 0x13);
        write(&gic, 0x84, 0);
        write(&gic, 0x104, 1);
        gic.set_spi(0, true);
        assert_eq!(gic.signals(0), Signals::default());
        gic.write_system(0, IGRPEN0, 1).unwrap();
        assert_eq!(gic.signals(0), Signals { fiq: true, irq: false });
        assert_eq!(gic.read_system(0, IAR1), Some(SPURIOUS));
        assert_eq!(gic.read_system(0, IAR0), Some(32));
    }

    #[test]
    fn pending_and_active_can_be_set_and_cleared_by_software() {
        let gic = gic();
        write(&gic, 0x104, 1 << 8);
        write(&gic, 0x204, 1 << 8);
        assert!(irq(&gic, 0));
        assert_eq!(read(&gic, 0x204), 1 << 8);
        write(&gic, 0x284, 1 << 8);
        assert!(!irq(&gic, 0));
        write(&gic, 0x304, 1 << 8);
        write(&gic, 0x204, 1 << 8);
        assert!(!irq(&gic, 0), "active");
        assert_eq!(read(&gic, 0x304), 1 << 8);
        write(&gic, 0x384, 1 << 8);
        assert!(irq(&gic, 0));
        write(&gic, 0x184, 1 << 8);
        assert!(!irq(&gic, 0));
    }

    #[test]
    fn no_access_panics() {
        let gic = gic();
        for offset in (0..0x1_0000).step_by(2).chain([u64::MAX, 1 << 40]) {
            for size in [1, 2, 4, 8] {
                let mut data = vec![0xff; size];
                gic.write_distributor(offset, &data);
                gic.read_distributor(offset, &mut data);
                gic.write_redistributor(offset.wrapping_add(0x1_0000), &data);
                gic.read_redistributor(offset.wrapping_add(0x3_0000), &mut data);
            }
        }
        for encoding in 0..=u16::MAX {
            for cpu in [0, 1, 2] {
                for value in [0, 35, u64::MAX] {
                    let _ = gic.write_system(cpu, encoding, value);
                    let _ = gic.read_system(cpu, encoding);
                }
            }
        }
    }
}
