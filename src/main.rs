//! The `vm-accel` binary: logging and the exit status, nothing else.

fn main() {
    let _ = vm_accel::VERSION;
}
