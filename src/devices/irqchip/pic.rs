//! The two cascaded 8259A interrupt controllers, with the edge/level control registers of the EISA PIC.

#![forbid(unsafe_code)]

/// The slave is wired to this input of the master.
const CASCADE: u8 = 2;

/// What the next write to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// OCW1, the interrupt mask: initialised.
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Debug)]
struct Chip {
    is_master: bool,
    lines: u8,
    /// Edges seen and not yet acknowledged.
    edges: u8,
    imr: u8,
    isr: u8,
    elcr: u8,
    elcr_writable: u8,
    /// LTIM of ICW1: all inputs are level-triggered.
    all_level: bool,
    base: u8,
    expect: Expect,
    wants_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
    /// The input with the highest priority.
    highest: u8,
}

impl Chip {
    /// As a PC's firmware leaves it: initialised, all masked.
    fn new(is_master: bool) -> Self {
        Self {
            is_master,
            lines: 0,
            edges: 0,
            imr: if is_master { !(1 << CASCADE) } else { 0xFF },
            isr: 0,
            elcr: 0,
            elcr_writable: if is_master { 0xF8 } else { 0xDE },
            all_level: false,
            base: if is_master { 0x08 } else { 0x70 },
            expect: Expect::Mask,
            wants_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            read_isr: false,
            poll: false,
            highest: 0,
        }
    }

    /// The inputs that are level-triggered. The cascade follows the slave's INT, too.
    fn level_inputs(&self) -> u8 {
        let cascade = if self.is_master { 1 << CASCADE } else { 0 };
        if self.all_level { 0xFF } else { self.elcr | cascade }
    }

    fn irr(&self) -> u8 {
        let level = self.level_inputs();
        self.lines & level | self.edges & !level
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << (input & 7);
        if level {
            self.edges |= bit & !self.lines;
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// The input of the highest priority in `mask`, and how many priorities are above it.
    fn first(&self, mask: u8) -> Option<(u8, u32)> {
        (mask != 0).then(|| {
            let rank = mask.rotate_right(u32::from(self.highest)).trailing_zeros();
            // `rank` is at most 7.
            ((self.highest + rank as u8) & 7, rank)
        })
    }

    /// The request that INT stands for.
    fn request(&self) -> Option<u8> {
        if self.expect != Expect::Mask {
            return None;
        }
        let (input, rank) = self.first(self.irr() & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested && self.is_master {
            in_service &= !(1 << CASCADE);
        }
        let blocked = self.first(in_service).is_some_and(|(_, service)| service <= rank);
        (!blocked).then_some(input)
    }

    /// Acknowledges `input`.
    fn acknowledge(&mut self, input: u8) {
        self.edges &= !(1 << input);
        if !self.auto_eoi {
            self.isr |= 1 << input;
        } else if self.rotate_on_auto_eoi {
            self.highest = (input + 1) & 7;
        }
    }

    fn read_command(&mut self) -> u8 {
        if self.poll {
            return self.poll_answer();
        }
        if self.read_isr { self.isr } else { self.irr() }
    }

    fn read_data(&mut self) -> u8 {
        if self.poll { self.poll_answer() } else { self.imr }
    }

    fn poll_answer(&mut self) -> u8 {
        self.poll = false;
        let Some(input) = self.request() else { return 0 };
        self.acknowledge(input);
        0x80 | input
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.icw1(value);
        } else if value & 0x08 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    fn icw1(&mut self, value: u8) {
        // The edge detectors start anew: an input must fall before it can request again.
        self.edges = 0;
        self.imr = 0;
        self.isr = 0;
        self.highest = 0;
        self.special_mask = false;
        self.read_isr = false;
        self.poll = false;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_fully_nested = false;
        self.wants_icw4 = value & 1 != 0;
        self.single = value & 2 != 0;
        self.all_level = value & 8 != 0;
        self.expect = Expect::Icw2;
    }

    fn ocw3(&mut self, value: u8) {
        if value & 4 != 0 {
            self.poll = true;
        }
        if value & 2 != 0 {
            self.read_isr = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    fn ocw2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            command @ (1 | 5) => {
                let mut in_service = self.isr;
                if self.special_mask {
                    in_service &= !self.imr;
                }
                if let Some((input, _)) = self.first(in_service) {
                    self.isr &= !(1 << input);
                    if command == 5 {
                        self.highest = (input + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << input),
            6 => self.highest = (input + 1) & 7,
            7 => {
                self.isr &= !(1 << input);
                self.highest = (input + 1) & 7;
            }
            // 2: no operation.
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expect = match self.expect {
            Expect::Mask => {
                self.imr = value;
                Expect::Mask
            }
            Expect::Icw2 => {
                self.base = value & 0xF8;
                if !self.single {
                    Expect::Icw3
                } else if self.wants_icw4 {
                    Expect::Icw4
                } else {
                    Expect::Mask
                }
            }
            // The wiring of the cascade is what it is.
            Expect::Icw3 if self.wants_icw4 => Expect::Icw4,
            Expect::Icw3 => Expect::Mask,
            Expect::Icw4 => {
                self.auto_eoi = value & 2 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                Expect::Mask
            }
        };
    }
}

/// A register of the pair, by its I/O port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PicPort {
    /// 0x20 or 0xA0.
    Command,
    /// 0x21 or 0xA1.
    Data,
    /// 0x4D0 or 0x4D1.
    EdgeLevel,
}

/// The master and the slave.
#[derive(Debug)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self { master: Chip::new(true), slave: Chip::new(false) }
    }
}

impl PicPair {
    /// Drives ISA interrupt `irq`, 0 to 15. IRQ 2 is the cascade and no device's.
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        match irq {
            0..8 if irq != CASCADE => self.master.set_line(irq, level),
            8..16 => self.slave.set_line(irq - 8, level),
            _ => {}
        }
        self.cascade();
    }

    /// The level of INTR.
    #[must_use]
    pub fn intr(&self) -> bool {
        self.master.request().is_some()
    }

    /// The INTA cycle. Without a request it gives the spurious vector, as the hardware does.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.request() else { return self.master.base | 7 };
        self.master.acknowledge(input);
        let vector = if input != CASCADE {
            self.master.base | input
        } else if let Some(input) = self.slave.request() {
            self.slave.acknowledge(input);
            self.slave.base | input
        } else {
            self.slave.base | 7
        };
        self.cascade();
        vector
    }

    /// Reads a register of the master or the slave.
    pub fn read(&mut self, slave: bool, port: PicPort) -> u8 {
        let chip = self.chip(slave);
        let value = match port {
            PicPort::Command => chip.read_command(),
            PicPort::Data => chip.read_data(),
            PicPort::EdgeLevel => chip.elcr,
        };
        self.cascade();
        value
    }

    /// Writes a register of the master or the slave.
    pub fn write(&mut self, slave: bool, port: PicPort, value: u8) {
        let chip = self.chip(slave);
        match port {
            PicPort::Command => chip.write_command(value),
            PicPort::Data => chip.write_data(value),
            PicPort::EdgeLevel => chip.elcr = value & chip.elcr_writable,
        }
        self.cascade();
    }

    fn chip(&mut self, slave: bool) -> &mut Chip {
        if slave { &mut self.slave } else { &mut self.master }
    }

    fn cascade(&mut self) {
        let int = self.slave.request().is_some();
        self.master.set_line(CASCADE, int);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair as Linux sets it up: vectors 0x30 and 0x38, nothing masked.
    fn pair() -> PicPair {
        pair_with(1, 1)
    }

    fn pair_with(master_icw4: u8, slave_icw4: u8) -> PicPair {
        let mut pic = PicPair::default();
        for (slave, icw2, icw3, icw4) in [(false, 0x30, 4, master_icw4), (true, 0x38, 2, slave_icw4)] {
            pic.write(slave, PicPort::Command, 0x11);
            pic.write(slave, PicPort::Data, icw2);
            pic.write(slave, PicPort::Data, icw3);
            pic.write(slave, PicPort::Data, icw4);
            pic.write(slave, PicPort::Data, 0);
        }
        pic
    }

    fn pulse(pic: &mut PicPair, irq: u8) {
        pic.set_irq(irq, true);
        pic.set_irq(irq, false);
    }

    fn command(pic: &mut PicPair, value: u8) {
        pic.write(false, PicPort::Command, value);
    }

    #[test]
    fn the_state_after_reset_is_quiet_but_latches() {
        let mut pic = PicPair::default();
        pulse(&mut pic, 0);
        assert!(!pic.intr());
        assert_eq!(pic.read(false, PicPort::Command), 1, "Linux looks at the IRR of a masked input");
        assert_eq!(pic.read(false, PicPort::Data), 0xFB);
        assert_eq!(pic.read(true, PicPort::Data), 0xFF);
    }

    #[test]
    fn priorities_and_eoi() {
        let mut pic = pair();
        pulse(&mut pic, 4);
        pulse(&mut pic, 6);
        assert!(pic.intr());
        assert_eq!(pic.acknowledge(), 0x34);
        assert!(!pic.intr(), "6 is below 4");
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), 0x31);
        command(&mut pic, 0x0B);
        assert_eq!(pic.read(false, PicPort::Command), 0b1_0010);
        command(&mut pic, 0x20);
        command(&mut pic, 0x20);
        assert!(pic.intr());
        assert_eq!(pic.acknowledge(), 0x36);
        command(&mut pic, 0x66);
        assert_eq!(pic.read(false, PicPort::Command), 0);
    }

    #[test]
    fn the_slave_goes_through_the_cascade() {
        let mut pic = pair();
        pulse(&mut pic, 12);
        pulse(&mut pic, 8);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(true, PicPort::Command, 0x20);
        assert!(!pic.intr(), "the master still serves the cascade");
        command(&mut pic, 0x20);
        assert_eq!(pic.acknowledge(), 0x3C);
        pulse(&mut pic, 3);
        assert!(!pic.intr(), "3 is below 2");
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_nest() {
        let mut pic = pair_with(0x11, 1);
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), 0x3C);
        pulse(&mut pic, 9);
        assert!(pic.intr());
        assert_eq!(pic.acknowledge(), 0x39);
        pulse(&mut pic, 13);
        assert!(!pic.intr());
    }

    #[test]
    fn level_inputs_follow_the_line() {
        let mut pic = pair();
        pic.write(false, PicPort::EdgeLevel, 0xFF);
        assert_eq!(pic.read(false, PicPort::EdgeLevel), 0xF8);
        pic.write(true, PicPort::EdgeLevel, 0xFF);
        assert_eq!(pic.read(true, PicPort::EdgeLevel), 0xDE);
        pic.set_irq(5, true);
        assert_eq!(pic.acknowledge(), 0x35);
        command(&mut pic, 0x20);
        assert!(pic.intr(), "still asserted");
        pic.set_irq(5, false);
        assert!(!pic.intr());
        assert_eq!(pic.acknowledge(), 0x37, "spurious");
        assert_eq!(pic.read(false, PicPort::Command), 0);
    }

    #[test]
    fn an_edge_requests_once() {
        let mut pic = pair();
        pic.set_irq(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
        command(&mut pic, 0x20);
        assert!(!pic.intr());
        pic.set_irq(4, false);
        pic.set_irq(4, true);
        assert!(pic.intr());
    }

    #[test]
    fn rotation_and_set_priority() {
        let mut pic = pair();
        for irq in [0, 1, 3] {
            pulse(&mut pic, irq);
        }
        assert_eq!(pic.acknowledge(), 0x30);
        command(&mut pic, 0xA0);
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x31, "0 became the lowest");
        command(&mut pic, 0xE1);
        assert_eq!(pic.acknowledge(), 0x33);
        command(&mut pic, 0x63);
        command(&mut pic, 0xC7);
        pulse(&mut pic, 7);
        assert_eq!(pic.acknowledge(), 0x30);
    }

    #[test]
    fn automatic_eoi_with_rotation() {
        let mut pic = pair_with(3, 1);
        command(&mut pic, 0x80);
        pulse(&mut pic, 3);
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), 0x33);
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), 0x34);
        assert_eq!(pic.acknowledge(), 0x33);
        assert!(!pic.intr());
    }

    #[test]
    fn special_mask_mode_lets_lower_requests_through() {
        let mut pic = pair();
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), 0x33);
        pulse(&mut pic, 6);
        assert!(!pic.intr());
        pic.write(false, PicPort::Data, 1 << 3);
        command(&mut pic, 0x68);
        assert_eq!(pic.acknowledge(), 0x36);
        command(&mut pic, 0x20);
        command(&mut pic, 0x0B);
        assert_eq!(pic.read(false, PicPort::Command), 1 << 3, "a masked input has no non-specific EOI");
        command(&mut pic, 0x48);
        command(&mut pic, 0x20);
        assert_eq!(pic.read(false, PicPort::Command), 0);
    }

    #[test]
    fn poll_acknowledges() {
        let mut pic = pair();
        command(&mut pic, 0x0C);
        assert_eq!(pic.read(false, PicPort::Command), 0);
        pulse(&mut pic, 4);
        command(&mut pic, 0x0C);
        assert_eq!(pic.read(false, PicPort::Command), 0x84);
        assert!(!pic.intr());
        command(&mut pic, 0x0B);
        assert_eq!(pic.read(false, PicPort::Command), 1 << 4);
    }

    #[test]
    fn nothing_is_requested_in_the_middle_of_the_initialisation() {
        let mut pic = pair();
        command(&mut pic, 0x11);
        pulse(&mut pic, 1);
        assert!(!pic.intr());
        for icw in [0x40, 4, 1] {
            pic.write(false, PicPort::Data, icw);
        }
        assert_eq!(pic.acknowledge(), 0x41);
        command(&mut pic, 0x12);
        pic.write(false, PicPort::Data, 0x50);
        pic.write(false, PicPort::Data, 0xAA);
        assert_eq!(pic.read(false, PicPort::Data), 0xAA, "single, without ICW4");
    }
}
