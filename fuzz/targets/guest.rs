//! Bytes as a guest of the software CPU: mode, registers and code, for a bounded number of instructions.
//!
//! `cargo +nightly fuzz run guest`. What it finds, `RANDOM_GUESTS_INPUT=FILE cargo test --test random_guests`
//! runs again.
#![no_main]

#[path = "../../tests/random_guests/guest.rs"]
mod guest;
#[path = "../../tests/random_guests/source.rs"]
mod source;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(text) = guest::run(source::Source::of_bytes(bytes)) {
        panic!("{text}");
    }
});
