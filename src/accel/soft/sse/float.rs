//! Which form and function each floating-point instruction has.
#![forbid(unsafe_code)]

use iced_x86::Code;

use super::Form;

/// How `code` is executed, or `None` when it is not a floating-point instruction.
pub fn lookup(_code: Code, _memory: bool) -> Option<Form> {
    None
}
