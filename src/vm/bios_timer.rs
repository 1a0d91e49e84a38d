//! The tick that a BIOS leaves running: counter 0 of the 8254 at its slowest, 18.2 times a second, and its
//! interrupt open. A kernel that halts in real mode waits for it.
#![forbid(unsafe_code)]

use crate::devices::Bus;

/// Mode 3, low byte then high byte, of counter 0.
const CONTROL: (u64, u8) = (0x43, 0x36);
/// A count of 0 is 65536.
const COUNT: (u64, u8) = (0x40, 0);
/// The mask of the first 8259: its inputs 0, the timer, and 2, the second 8259, are open.
const MASK: (u64, u8) = (0x21, !0b101);

/// Programs the timer and its interrupt controller as a BIOS does.
pub(super) fn start(ports: &Bus) {
    for (port, value) in [CONTROL, COUNT, COUNT, MASK] {
        ports.write(port, &[value]);
    }
}
