//! Processes that this one starts: a console's keys do not reach them, and they end when asked.

use std::os::windows::process::CommandExt;
use std::process::{Child, Command};

use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
use windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP;

/// Prepares `command` so that its process is in a group of its own, where Ctrl-C does not come by itself.
pub fn prepare(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// Asks the process to end, as Ctrl-Break does. It must not have been waited for.
pub fn terminate(child: &Child) {
    // SAFETY: the call touches no memory; the handle in `child` keeps the number the process's own.
    unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, child.id()) };
}
