//! Processes that this one starts: they end with it, and a terminal's keys do not reach them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Prepares `command` so that its process is in a group of its own, where the terminal's signals do not
/// come by themselves, and gets SIGTERM when the thread that starts it ends (on Linux).
pub fn prepare(command: &mut Command) {
    command.process_group(0);
    let parent = std::process::id();
    // SAFETY: the closure makes system calls that are async-signal-safe, and nothing else.
    unsafe { command.pre_exec(move || end_with(parent)) };
}

/// Asks the process to end. It must not have been waited for.
pub fn terminate(child: &Child) {
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // A process that has ended is a zombie until it is waited for, so the number is still its own.
        // SAFETY: `kill` touches no memory.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// In the new process: asks for SIGTERM at the end of `parent`'s thread, which may be over already.
#[cfg(target_os = "linux")]
fn end_with(parent: u32) -> io::Result<()> {
    let none: libc::c_ulong = 0;
    let signal = libc::SIGTERM as libc::c_ulong;
    // SAFETY: neither call touches memory.
    let (result, now) =
        unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal, none, none, none), libc::getppid()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if u32::try_from(now) == Ok(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

#[cfg(not(target_os = "linux"))]
fn end_with(_parent: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_process_has_a_group_of_its_own_and_ends_when_asked() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        // SAFETY: neither call touches memory.
        let (group, own) = unsafe { (libc::getpgid(pid), libc::getpgrp()) };
        assert_eq!(group, pid);
        assert_ne!(group, own);
        terminate(&child);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut command = Command::new("sleep");
            command.arg("1000");
            prepare(&mut command);
            command.spawn().unwrap()
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
}
