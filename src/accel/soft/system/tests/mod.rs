//! Tests of the system side: instructions and events on small machines.

mod delivery;
mod far;
mod hostile;
pub mod machine;
mod privileged;
mod protection_keys;
mod segments;
mod tasks;
mod traps;
