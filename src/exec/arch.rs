//! What depends on the guest's architecture: its first process, and the words that its kernel is given.
#![forbid(unsafe_code)]

use crate::accel::GuestArch;

/// Words of every kernel's command line. A panic ends the run at once; the kernel's tests of its ciphers and
/// the wait for randomness are spared.
const CMDLINE: &str = "console=ttyS0 panic=-1 rdinit=/.vm-accel/init cryptomgr.notests=1 random.trust_cpu=on";

/// The guest's first process; its sources are in `images/exec-init`.
#[must_use]
pub fn init(guest: GuestArch) -> &'static [u8] {
    match guest {
        GuestArch::X86_64 => include_bytes!("../../images/exec-init/init.elf"),
        GuestArch::Aarch64 => include_bytes!("../../images/exec-init/init-arm64.elf"),
    }
}

/// The kernel command line.
#[must_use]
pub fn cmdline(guest: GuestArch) -> String {
    match guest {
        // The test of the timer is spared, too.
        GuestArch::X86_64 => format!("{CMDLINE} no_timer_check"),
        GuestArch::Aarch64 => CMDLINE.to_owned(),
    }
}
