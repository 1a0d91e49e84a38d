//! Random code in random modes on the software CPU, for a bounded number of instructions: whatever a guest
//! executes, from whatever state, the process neither panics nor hangs nor grows.
//!
//! `RANDOM_GUESTS_SEED` repeats a run, `RANDOM_GUESTS` is the number of guests; many thousands make a long run.
//! `RANDOM_GUESTS_INPUT` names a file whose bytes make one guest: what `fuzz/` has found.

mod guest;
mod source;

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use source::Source;

/// After which a guest is taken to hang: it executes for milliseconds.
const HANG: Duration = Duration::from_secs(60);
/// Guests after which the process has the memory that it needs.
const WARM_UP: u64 = 20;
/// How much more it may have at the end, in bytes: a guest has 4 MiB of RAM and up to 40 MiB of decoded code.
const GROWTH: u64 = 64 << 20;

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// The process's resident memory in bytes, where the host tells.
fn resident() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Ends the process if a guest takes too long; a guest that begins is told by its name.
fn watch(guests: &mpsc::Receiver<String>) {
    let mut current = String::new();
    loop {
        match guests.recv_timeout(HANG) {
            Ok(name) => current = name,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("the guest of {current} hangs");
                std::process::abort();
            }
        }
    }
}

#[test]
fn no_guest_harms_its_host() {
    let (begins, guests_that_begin) = mpsc::channel();
    let watching = std::thread::spawn(move || watch(&guests_that_begin));
    let mut failures = Vec::new();
    let mut sum = guest::Report { instructions: 0, exits: 0 };
    let mut run = |name: String, source: Source| {
        begins.send(name.clone()).unwrap();
        match std::panic::catch_unwind(|| guest::run(source)) {
            Ok(Ok(report)) => {
                sum.instructions += report.instructions;
                sum.exits += report.exits;
            }
            Ok(Err(text)) => failures.push(format!("{name}: {text}")),
            Err(_) => failures.push(format!("{name}: panic")),
        }
    };
    if let Some(path) = std::env::var_os("RANDOM_GUESTS_INPUT") {
        let bytes = std::fs::read(&path).unwrap();
        run(format!("RANDOM_GUESTS_INPUT={}", path.display()), Source::of_bytes(&bytes));
    } else {
        let guests: u64 = setting("RANDOM_GUESTS").unwrap_or(300);
        let first: u64 = setting("RANDOM_GUESTS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("RANDOM_GUESTS_SEED={first}");
        let mut before = None;
        for number in 0..guests {
            if number == WARM_UP {
                before = resident();
            }
            let seed = first.wrapping_add(number);
            run(format!("RANDOM_GUESTS_SEED={seed} RANDOM_GUESTS=1"), Source::of_seed(seed));
        }
        match (before, resident()) {
            (Some(before), Some(after)) => {
                println!("{before} bytes of memory after {WARM_UP} guests, {after} at the end");
                assert!(after < before + GROWTH, "memory grows from {before} to {after} bytes");
            }
            _ => println!("not asked whether memory grows: too few guests, or the host does not tell"),
        }
    }
    drop(begins);
    watching.join().unwrap();
    println!("{} instructions, {} exits", sum.instructions, sum.exits);
    assert!(failures.is_empty(), "{} guests fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn bytes_say_what_a_guest_executes() {
    // Choices of 0 make real mode with everything at address 0; what is left of the bytes is the code.
    let executed = |nops| {
        let mut input = vec![0; 600];
        input.extend(vec![0x90; nops]);
        input.push(0xf4);
        guest::run(Source::of_bytes(&input)).unwrap().instructions
    };
    assert_eq!(executed(51), executed(50) + 1);
}
