//! Tests of local APICs on their bus.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::accel::{MsiMessage, MsiSink};
use crate::devices::timer::TestClock;

/// Remembers the EOIs.
#[derive(Default)]
struct Eois(Mutex<Vec<u8>>);

impl InterruptController for Eois {
    fn extint_pending(&self) -> bool {
        false
    }

    fn extint_acknowledge(&self) -> Option<u8> {
        None
    }

    fn eoi(&self, vector: u8) {
        lock(&self.0).push(vector);
    }
}

struct Rig {
    bus: Arc<ApicBus>,
    clock: Arc<TestClock>,
    eois: Arc<Eois>,
    wakes: Arc<AtomicUsize>,
    lapics: Vec<Arc<Lapic>>,
}

impl Rig {
    /// `count` APICs that are software-enabled.
    fn new(count: u32) -> Self {
        let rig = Self::after_reset(count);
        for lapic in &rig.lapics {
            lapic.mmio_write(0xF0, 0x1FF);
        }
        rig
    }

    fn after_reset(count: u32) -> Self {
        let (bus, clock, eois) = (ApicBus::new(), TestClock::new(), Arc::new(Eois::default()));
        let wakes = Arc::new(AtomicUsize::new(0));
        let start = clock.now();
        let lapics = (0..count)
            .map(|id| {
                let wakes = wakes.clone();
                bus.add(LapicSetup {
                    id,
                    is_bsp: id == 0,
                    clock: clock.clone(),
                    tsc: Arc::new(move |tsc| start.checked_add(Duration::from_nanos(tsc))),
                    interrupts: eois.clone(),
                    wake: Arc::new(move || {
                        wakes.fetch_add(1, Ordering::Relaxed);
                    }),
                    timer_changed: Arc::new(|| {}),
                })
            })
            .collect();
        Self { bus, clock, eois, wakes, lapics }
    }

    fn msi(&self, address: u64, data: u32) {
        self.bus.signal_msi(MsiMessage { address: 0xFEE0_0000 | address, data });
    }

    fn ipi(&self, from: usize, destination: u32, low: u32) {
        self.lapics[from].mmio_write(0x310, destination << 24);
        self.lapics[from].mmio_write(0x300, low);
    }

    /// Which APICs have an interrupt; it is taken and ended.
    fn receivers(&self) -> Vec<u32> {
        let mut receivers = Vec::new();
        for lapic in &self.lapics {
            if lapic.acknowledge().is_some() {
                receivers.push(lapic.id());
                if lapic.page().is_some() {
                    lapic.mmio_write(0xB0, 0);
                } else {
                    lapic.msr_write(0x80B, 0).unwrap();
                }
            }
        }
        receivers
    }

    fn to_x2apic(&self) {
        for lapic in &self.lapics {
            lapic.msr_write(MSR_APIC_BASE, lapic.base() | BASE_X2APIC).unwrap();
        }
    }
}

#[test]
fn the_state_after_reset_is_a_virtual_wire() {
    let rig = Rig::after_reset(2);
    let [bsp, ap] = &rig.lapics[..] else { panic!() };
    assert_eq!((bsp.base(), ap.base()), (0xFEE0_0900, 0xFEE0_0800));
    assert_eq!((bsp.mmio_read(0x20), ap.mmio_read(0x20)), (0, 1 << 24));
    assert_eq!(bsp.mmio_read(0x30), 0x0005_0014);
    assert_eq!(bsp.mmio_read(0xF0), 0xFF);
    assert_eq!((bsp.mmio_read(0x350), bsp.mmio_read(0x360)), (0x700, 0x400));
    assert_eq!((ap.mmio_read(0x350), ap.mmio_read(0x360)), (0x1_0000, 0x1_0000));
    assert_eq!(bsp.mmio_read(0xE0), u32::MAX);
    assert!(bsp.accepts_extint());
    assert!(!ap.accepts_extint());
    rig.msi(0, 0x40);
    assert!(!bsp.has_interrupt(), "software-disabled");
}

#[test]
fn priorities_follow_tpr_and_isr() {
    let rig = Rig::new(1);
    let lapic = &rig.lapics[0];
    rig.msi(0, 0x51);
    assert!(lapic.has_interrupt());
    assert_eq!(rig.wakes.load(Ordering::Relaxed), 1);
    rig.msi(0, 0x61);
    assert_eq!(rig.wakes.load(Ordering::Relaxed), 1, "it is awake already");
    lapic.set_cr8(6);
    assert!(!lapic.has_interrupt());
    assert_eq!((lapic.mmio_read(0x80), lapic.mmio_read(0xA0)), (0x60, 0x60));
    lapic.set_cr8(5);
    assert_eq!(lapic.acknowledge(), Some(0x61));
    assert_eq!(lapic.mmio_read(0xA0), 0x60);
    assert_eq!(lapic.mmio_read(0x130), 2);
    assert_eq!(lapic.mmio_read(0x220), 1 << 17);
    lapic.mmio_write(0x80, 0);
    assert!(!lapic.has_interrupt(), "0x51 is below 0x61");
    rig.msi(0, 0x6F);
    assert!(!lapic.has_interrupt(), "the same class");
    rig.msi(0, 0x71);
    assert_eq!(lapic.acknowledge(), Some(0x71));
    for expected in [Some(0x6F), Some(0x51), None] {
        lapic.mmio_write(0xB0, 0);
        while lapic.mmio_read(0x130) != 0 {
            lapic.mmio_write(0xB0, 0);
        }
        assert_eq!(lapic.acknowledge(), expected);
    }
    assert!(lock(&rig.eois.0).is_empty(), "edges have no EOI broadcast");
}

#[test]
fn the_eoi_of_a_level_is_broadcast() {
    let rig = Rig::new(1);
    let lapic = &rig.lapics[0];
    rig.msi(0, 0xC050);
    assert_eq!(lapic.mmio_read(0x1A0), 1 << 16);
    rig.msi(0, 0x8055);
    assert_eq!(lapic.acknowledge(), Some(0x50));
    lapic.mmio_write(0xB0, 0);
    assert_eq!(*lock(&rig.eois.0), [0x50]);
    assert_eq!(lapic.acknowledge(), None, "a level's de-assertion is no interrupt");
    rig.msi(0, 0x50);
    assert_eq!(lapic.mmio_read(0x1A0), 0, "the same vector by an edge");
}

#[test]
fn timer_interrupts() {
    let rig = Rig::new(1);
    let lapic = &rig.lapics[0];
    lapic.mmio_write(0x3E0, 0xB);
    lapic.mmio_write(0x320, 0x2_0040);
    lapic.mmio_write(0x380, 1_000_000);
    for _ in 0..3 {
        let deadline = lapic.timer_deadline().unwrap();
        rig.clock.advance(deadline - rig.clock.now());
        lapic.timer_expire(rig.clock.now());
        assert_eq!(lapic.acknowledge(), Some(0x40));
        lapic.mmio_write(0xB0, 0);
    }
    assert_eq!(rig.clock.utc(), Duration::from_millis(3));
    rig.clock.advance(Duration::from_micros(250));
    assert_eq!(lapic.mmio_read(0x390), 750_000);
    lapic.mmio_write(0x320, 0x3_0040);
    rig.clock.advance(Duration::from_secs(1));
    lapic.timer_expire(rig.clock.now());
    assert!(!lapic.has_interrupt(), "masked");
}

#[test]
fn tsc_deadline_timer() {
    let rig = Rig::new(1);
    let lapic = &rig.lapics[0];
    lapic.msr_write(MSR_TSC_DEADLINE, 5).unwrap();
    assert_eq!(lapic.msr_read(MSR_TSC_DEADLINE), Ok(0), "not in that mode");
    lapic.mmio_write(0x320, 0x4_0041);
    lapic.msr_write(MSR_TSC_DEADLINE, 5_000).unwrap();
    assert_eq!(lapic.msr_read(MSR_TSC_DEADLINE), Ok(5_000));
    rig.clock.advance(Duration::from_micros(5));
    lapic.timer_expire(rig.clock.now());
    assert_eq!(lapic.acknowledge(), Some(0x41));
    assert_eq!(lapic.msr_read(MSR_TSC_DEADLINE), Ok(0));
    lapic.mmio_write(0xB0, 0);
    lapic.msr_write(MSR_TSC_DEADLINE, 1).unwrap();
    assert_eq!(lapic.acknowledge(), Some(0x41), "a deadline in the past fires at once");
    lapic.msr_write(MSR_TSC_DEADLINE, u64::MAX).unwrap();
}

#[test]
fn physical_destinations_and_shorthands() {
    let rig = Rig::new(4);
    rig.ipi(0, 2, 0x40);
    assert_eq!(rig.receivers(), [2]);
    rig.ipi(0, 9, 0x40);
    assert!(rig.receivers().is_empty());
    rig.ipi(0, 0xFF, 0x40);
    assert_eq!(rig.receivers(), [0, 1, 2, 3]);
    rig.ipi(1, 0, 0x4_0040);
    assert_eq!(rig.receivers(), [1]);
    rig.ipi(1, 0, 0x8_0040);
    assert_eq!(rig.receivers(), [0, 1, 2, 3]);
    rig.ipi(1, 0, 0xC_0040);
    assert_eq!(rig.receivers(), [0, 2, 3]);
    rig.msi(3 << 12, 0x40);
    assert_eq!(rig.receivers(), [3]);
    rig.msi(0xFF << 12, 0x40);
    assert_eq!(rig.receivers(), [0, 1, 2, 3]);
    rig.msi(1 << 40 | 3 << 12, 0x40);
    assert!(rig.receivers().is_empty(), "id 259");
}

#[test]
fn logical_destinations() {
    let rig = Rig::new(4);
    for (lapic, bits) in rig.lapics.iter().zip([1, 2, 4, 8]) {
        lapic.mmio_write(0xD0, bits << 24);
    }
    rig.msi(0b1010 << 12 | 4, 0x40);
    assert_eq!(rig.receivers(), [1, 3]);
    rig.ipi(0, 0b0101, 0x840);
    assert_eq!(rig.receivers(), [0, 2]);
    for (lapic, id) in rig.lapics.iter().zip([0x11, 0x12, 0x21, 0x22]) {
        lapic.mmio_write(0xE0, 0x0FFF_FFFF);
        lapic.mmio_write(0xD0, id << 24);
    }
    rig.msi(0x23 << 12 | 4, 0x40);
    assert_eq!(rig.receivers(), [2, 3]);
    rig.msi(0x12 << 12 | 4, 0x40);
    assert_eq!(rig.receivers(), [1]);
}

#[test]
fn x2apic_destinations() {
    let rig = Rig::new(18);
    rig.to_x2apic();
    assert_eq!(rig.lapics[17].msr_read(0x80D), Ok(1 << 16 | 2));
    let send = |icr: u64| rig.lapics[0].msr_write(0x830, icr).unwrap();
    send(17 << 32 | 0x40);
    assert_eq!(rig.receivers(), [17]);
    send(0x0001_0003 << 32 | 0x840);
    assert_eq!(rig.receivers(), [16, 17]);
    send(0xFFFF_FFFF << 32 | 0x40);
    assert_eq!(rig.receivers().len(), 18);
    send(0xFF << 32 | 0x40);
    assert!(rig.receivers().is_empty(), "255 is an id like others");
    rig.lapics[5].msr_write(0x83F, 0x77).unwrap();
    assert_eq!(rig.receivers(), [5]);
    assert_eq!(rig.lapics[0].msr_read(0x830), Ok(0xFF << 32 | 0x40));
}

#[test]
fn lowest_priority_goes_to_one_and_takes_turns() {
    let rig = Rig::new(3);
    for lapic in &rig.lapics {
        lapic.mmio_write(0xD0, 0xFF << 24);
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        rig.msi(0x07 << 12 | 4, 0x140);
        let receivers = rig.receivers();
        assert_eq!(receivers.len(), 1);
        seen.extend(receivers);
    }
    assert_eq!(seen.len(), 3);
    rig.lapics[0].set_tpr(0x20);
    rig.lapics[2].set_tpr(0x20);
    for _ in 0..3 {
        rig.msi(0x07 << 12 | 4, 0x140);
        assert_eq!(rig.receivers(), [1]);
    }
}

#[test]
fn a_processor_is_started_by_init_and_sipi() {
    let rig = Rig::after_reset(2);
    let ap = &rig.lapics[1];
    rig.ipi(0, 1, 0xC500);
    rig.ipi(0, 1, 0x8500);
    assert!(ap.take_init());
    assert!(!ap.take_init(), "the de-assertion is ignored");
    rig.ipi(0, 1, 0x69F);
    ap.init();
    rig.ipi(0, 1, 0x6AA);
    assert_eq!(ap.take_sipi(), Some(0x9F));
    assert_eq!(ap.take_sipi(), None);
    rig.ipi(0, 1, 0x611);
    rig.ipi(0, 1, 0x500);
    assert_eq!((ap.take_init(), ap.take_sipi()), (true, None), "INIT voids an older start-up IPI");
}

#[test]
fn nmi_extint_and_smi() {
    let rig = Rig::after_reset(2);
    let ap = &rig.lapics[1];
    rig.msi(1 << 12, 0x400);
    assert!(ap.take_nmi());
    rig.msi(1 << 12, 0x200);
    assert_eq!(ap.events(), 0);
    rig.msi(1 << 12, 0x700);
    assert!(ap.accepts_extint());
    ap.extint_taken();
    assert!(!ap.accepts_extint());
}

#[test]
fn illegal_vectors_and_registers_are_errors() {
    let rig = Rig::new(2);
    let lapic = &rig.lapics[0];
    lapic.mmio_write(0x370, 0xFE);
    rig.ipi(0, 1, 0x0F);
    assert_eq!(rig.receivers(), [0]);
    assert_eq!(lapic.mmio_read(0x280), 0);
    lapic.mmio_write(0x280, 0);
    assert_eq!(lapic.mmio_read(0x280), 0x20);
    rig.msi(0, 0x05);
    let _ = lapic.mmio_read(0x40);
    lapic.mmio_write(0x280, 0);
    assert_eq!(lapic.mmio_read(0x280), 0xC0);
    lapic.mmio_write(0x280, 0);
    assert_eq!(lapic.mmio_read(0x280), 0);
    lapic.mmio_write(0x370, 0x05);
    rig.msi(0, 0x05);
    assert_eq!(lapic.mmio_read(0x210), 0, "no error about the error");
}

#[test]
fn software_disabling_masks_all_local_vectors() {
    let rig = Rig::new(1);
    let lapic = &rig.lapics[0];
    rig.msi(0, 0x40);
    lapic.mmio_write(0xF0, 0xFF);
    assert!(lapic.has_interrupt(), "what waits stays");
    for offset in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
        assert_ne!(lapic.mmio_read(offset) & LVT_MASKED, 0);
        lapic.mmio_write(offset, 0x40);
        assert_ne!(lapic.mmio_read(offset) & LVT_MASKED, 0);
    }
    assert!(!lapic.accepts_extint());
}

#[test]
fn transitions_of_the_mode() {
    let rig = Rig::new(1);
    let lapic = &rig.lapics[0];
    let set = |value: u64| lapic.msr_write(MSR_APIC_BASE, value);
    let (off, xapic, x2apic) = (0xFEE0_0000, 0xFEE0_0800, 0xFEE0_0C00);
    assert_eq!(lapic.msr_read(0x802), Err(GeneralProtection));
    assert_eq!(set(0xFEE0_0400), Err(GeneralProtection));
    assert_eq!(set(xapic | 1), Err(GeneralProtection));
    assert_eq!(set(xapic | 1 << 52), Err(GeneralProtection));
    set(0xFED0_0800).unwrap();
    assert_eq!(lapic.page(), Some(0xFED0_0000));
    set(x2apic).unwrap();
    assert_eq!(lapic.page(), None);
    assert_eq!(lapic.mmio_read(0x30), u32::MAX);
    assert_eq!(lapic.msr_read(0x80F), Ok(0x1FF), "the state is kept");
    assert_eq!(set(xapic), Err(GeneralProtection));
    set(off).unwrap();
    assert_eq!((lapic.page(), lapic.accepts_extint()), (None, true));
    assert_eq!(set(x2apic), Err(GeneralProtection));
    rig.msi(0, 0x40);
    set(xapic).unwrap();
    assert!(!lapic.has_interrupt());
    assert_eq!(lapic.mmio_read(0xF0), 0xFF);
    assert_eq!(lapic.base(), xapic | BASE_BSP);
}

#[test]
fn x2apic_faults() {
    let rig = Rig::new(1);
    rig.to_x2apic();
    let lapic = &rig.lapics[0];
    for msr in [0x800, 0x809, 0x80B, 0x80C, 0x80E, 0x831, 0x83F, 0x840, 0x8FF] {
        assert_eq!(lapic.msr_read(msr), Err(GeneralProtection), "read {msr:#x}");
    }
    for msr in [0x802, 0x803, 0x80A, 0x80D, 0x80E, 0x810, 0x820, 0x831, 0x839, 0x840] {
        assert_eq!(lapic.msr_write(msr, 0), Err(GeneralProtection), "write {msr:#x}");
    }
    for (msr, value) in [
        (0x80B, 1),
        (0x828, 1),
        (0x808, 0x100),
        (0x838, 1 << 32),
        (0x832, 1 << 20),
        (0x83E, 4),
        (0x83F, 0x100),
    ] {
        assert_eq!(lapic.msr_write(msr, value), Err(GeneralProtection), "write {value:#x} to {msr:#x}");
    }
    for (msr, value) in [(0x80B, 0), (0x828, 0), (0x808, 0xFF), (0x838, 7), (0x832, 0x7_00FF), (0x83E, 0xB)] {
        lapic.msr_write(msr, value).unwrap();
    }
}

#[test]
fn a_machine_is_freed() {
    let rig = Rig::new(2);
    let weak = Arc::downgrade(&rig.lapics[0]);
    drop(rig);
    assert!(weak.upgrade().is_none());
}

#[test]
fn the_page_takes_any_size() {
    let rig = Rig::new(2);
    let lapic = &rig.lapics[1];
    let mut data = [0xEE; 8];
    lapic.mmio_read_bytes(0x22, &mut data);
    assert_eq!(data, [0, 1, 0, 0, 0, 0, 0, 0]);
    lapic.mmio_write_bytes(0x80, &[0x30]);
    lapic.mmio_write_bytes(0x81, &[0x30; 4]);
    assert_eq!(lapic.mmio_read(0x80), 0);
    lapic.mmio_write_bytes(0x80, &[0x30, 0, 0, 0]);
    assert_eq!(lapic.mmio_read(0x80), 0x30);
}

proptest! {
    #[test]
    fn nothing_panics(
        operations in prop::collection::vec((any::<u8>(), any::<u16>(), any::<u64>()), 1..200),
    ) {
        let rig = Rig::new(3);
        for (operation, address, value) in operations {
            let lapic = &rig.lapics[usize::from(address) % 3];
            let low = value as u32;
            match operation % 10 {
                0 | 1 => lapic.mmio_write(u64::from(address % 0x44) * 16, low),
                2 => lapic.mmio_read_bytes(u64::from(address), &mut [0; 16]),
                3 => _ = lapic.msr_write(0x800 + u32::from(address % 0x100), value & 0xFFFF_FFFF),
                4 => _ = lapic.msr_write(0x800 + u32::from(address % 0x100), value),
                5 => _ = lapic.msr_write(MSR_APIC_BASE, value & 0xFFFF_FF00),
                6 => _ = lapic.msr_write(MSR_TSC_DEADLINE, value),
                7 => rig.bus.signal_msi(MsiMessage { address: value, data: low }),
                8 => {
                    rig.clock.advance(Duration::from_micros(u64::from(address)));
                    lapic.timer_expire(rig.clock.now());
                }
                _ => {
                    if lapic.has_interrupt() {
                        prop_assert!(lapic.acknowledge().is_some_and(|vector| vector >= 16));
                    }
                    if lapic.take_init() {
                        lapic.init();
                    }
                }
            }
        }
    }
}

#[test]
fn two_nmis_at_once_are_two_and_more_while_blocked_are_one() {
    let rig = Rig::new(2);
    let take = || rig.lapics[1].take_nmi();
    for _ in 0..3 {
        rig.ipi(0, 1, 0x400);
    }
    assert_eq!([take(), take(), take()], [true, true, false]);
    for _ in 0..3 {
        rig.ipi(0, 1, 0x400);
    }
    rig.lapics[1].merge_nmis();
    assert_eq!([take(), take()], [true, false]);
}

#[test]
fn an_nmi_that_comes_while_another_is_taken_is_not_lost() {
    let rig = Rig::new(2);
    let (rounds, sent, taken) = (5000, AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                // Two at a time, so that none may be dropped.
                rig.ipi(0, 1, 0x400);
                rig.ipi(0, 1, 0x400);
                sent.store(2 * round, Ordering::Release);
                while taken.load(Ordering::Acquire) < 2 * round {
                    std::thread::yield_now();
                }
            }
        });
        for round in 1..=rounds {
            while taken.load(Ordering::Relaxed) < 2 * round {
                let all_sent = sent.load(Ordering::Acquire) == 2 * round;
                if rig.lapics[1].take_nmi() {
                    taken.fetch_add(1, Ordering::Release);
                } else if all_sent {
                    // Lets the sender end.
                    taken.store(usize::MAX / 2, Ordering::Release);
                    panic!("an NMI of round {round} was lost");
                }
            }
        }
    });
}

#[test]
fn a_count_that_has_ended_stays_ended_in_another_mode() {
    let rig = Rig::new(1);
    let lapic = &rig.lapics[0];
    lapic.mmio_write(0x320, 0x50);
    lapic.mmio_write(0x3E0, 0xB);
    lapic.mmio_write(0x380, 1000);
    rig.clock.advance(Duration::from_nanos(2000));
    lapic.mmio_write(0x320, 0x2_0051);
    assert_eq!(lapic.acknowledge(), Some(0x50));
    assert_eq!(lapic.mmio_read(0x390), 0);
    rig.clock.advance(Duration::from_millis(10));
    lapic.timer_expire(rig.clock.now());
    assert_eq!(lapic.acknowledge(), None);
}
