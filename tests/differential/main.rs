//! The software CPU against the host's own processor, instruction form by instruction form.
//!
//! A case is one instruction with random registers, flags and memory. It is executed by the processor in this
//! process and by the interpreter at privilege level 3, and what it leaves behind is compared: registers,
//! defined flags, the x87 and SSE state, memory, and the exception with its error code and address.
//!
//! `DIFFERENTIAL_SEED` repeats a run, `DIFFERENTIAL_CASES` is the number of cases of a form (thousands make a
//! long run), `DIFFERENTIAL_FORM` a part of the name of the forms to try.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cases;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod compare;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod forms;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod interpreter;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod machine;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod random;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod verdict;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[test]
#[ignore = "compares with an x86-64 processor under Linux, which this host is not"]
fn every_form_as_the_processor() {}
