//! The host's terminal: raw mode and its way back, signals, the escape key, stdin and stdout.
//!
//! How it is used by the thread that owns the machine: make a [`Doorbell`] and [`Signals`]; enter
//! [`RawMode`] if a serial port is on stdio; start a [`StdinPump`] and make a [`GuestOutput`]; then
//! sleep in [`Doorbell::wait`] with the earliest deadline, and after every wake-up ask
//! [`GuestOutput::flush_if_due`] and [`Signals::pending`]. Everything else rings the bell.

mod escape;
mod input;
mod output;
mod say;
mod socket_error;

pub use crate::accel::host::child;
pub use crate::accel::host::{Doorbell, FarEnd, Input, OutputFile, RawMode, ResourceUsage, Signals};
pub use input::{RoomBell, StdinPump};
pub use output::{GuestOutput, OutputError, Sink, Waker};
pub use say::say;
pub use socket_error::SocketError;
