//! Raw mode of the console, and its way back on every way out.

use std::io::{self, IsTerminal};
use std::os::windows::io::{AsRawHandle, RawHandle};
use std::panic;
use std::ptr;
use std::sync::{Mutex, Once};

use windows_sys::Win32::Globalization::CP_UTF8;
use windows_sys::Win32::System::Console::{
    ENABLE_ECHO_INPUT, ENABLE_LINE_INPUT, ENABLE_PROCESSED_INPUT, ENABLE_PROCESSED_OUTPUT,
    ENABLE_VIRTUAL_TERMINAL_INPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING, GetConsoleMode, GetConsoleOutputCP,
    SetConsoleMode, SetConsoleOutputCP,
};

use super::lock;

/// The console's old modes while it is raw.
static COOKED: Mutex<Option<Modes>> = Mutex::new(None);

#[derive(Debug, Clone, Copy)]
struct Modes {
    input: u32,
    /// Where stdout is a console too.
    output: Option<u32>,
    code_page: u32,
}

/// The console is in raw mode as long as this lives: each key goes to the guest, Ctrl-C too. What the
/// guest writes is taken for a VT terminal's text in UTF-8.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts stdin's console into raw mode. `None` where there is nothing to do: stdin is no console.
    ///
    /// # Errors
    /// When the console refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let Some(input) = mode(stdin.as_raw_handle()).filter(|_| stdin.is_terminal()) else {
            return Ok(None);
        };
        let output = mode(stdout.as_raw_handle());
        // SAFETY: the call touches no memory.
        let code_page = unsafe { GetConsoleOutputCP() };
        // The way back comes before the way in.
        install_way_back();
        *lock(&COOKED) = Some(Modes { input, output, code_page });
        let raw = input & !(ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT | ENABLE_PROCESSED_INPUT);
        // An old console has no VT input; its arrow keys are lost then, and nothing else.
        if !set_mode(stdin.as_raw_handle(), raw | ENABLE_VIRTUAL_TERMINAL_INPUT)
            && !set_mode(stdin.as_raw_handle(), raw)
        {
            let error = io::Error::last_os_error();
            restore();
            return Err(error);
        }
        if let Some(output) = output {
            let vt = ENABLE_PROCESSED_OUTPUT | ENABLE_VIRTUAL_TERMINAL_PROCESSING;
            set_mode(stdout.as_raw_handle(), output | vt);
            // SAFETY: the call touches no memory.
            unsafe { SetConsoleOutputCP(CP_UTF8) };
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the console its old modes back, once.
pub(super) fn restore() {
    let Some(modes) = lock(&COOKED).take() else { return };
    set_mode(io::stdin().as_raw_handle(), modes.input);
    if let Some(output) = modes.output {
        set_mode(io::stdout().as_raw_handle(), output);
        // SAFETY: the call touches no memory.
        unsafe { SetConsoleOutputCP(modes.code_page) };
    }
}

/// Restores at a panic, once a process.
fn install_way_back() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            others(info);
        }));
    });
}

/// The mode of a console; `None` if `handle` is none.
fn mode(handle: RawHandle) -> Option<u32> {
    let mut mode = 0;
    // SAFETY: `mode` is valid for the answer; a handle that is no console's gives an error.
    (unsafe { GetConsoleMode(handle, ptr::from_mut(&mut mode)) } != 0).then_some(mode)
}

fn set_mode(handle: RawHandle, mode: u32) -> bool {
    // SAFETY: the call touches no memory; a handle that is no console's gives an error.
    unsafe { SetConsoleMode(handle, mode) != 0 }
}
