//! The logger: vm-accel's own words on stderr.

use std::io::Write;

use env_logger::{Builder, Env, Target};
use log::LevelFilter;

use super::Verbosity;

/// Starts the logger; a second call does nothing.
pub(super) fn start(verbosity: Verbosity) {
    let env = match std::env::var_os("VM_ACCEL_LOG") {
        Some(_) => Env::new().filter("VM_ACCEL_LOG"),
        None => Env::new().filter("RUST_LOG"),
    };
    let mut builder = Builder::new();
    builder.filter_level(LevelFilter::Warn).parse_env(env);
    if let Some(level) = level(verbosity) {
        builder.filter_level(level);
    }
    builder.target(Target::Stderr).format(|line, record| {
        let level = record.level().as_str().to_ascii_lowercase();
        writeln!(line, "vm-accel: {level}: {}", record.args())
    });
    // A logger that is there already is as good.
    let _ = builder.try_init();
}

/// The level that the flags ask for; `None` leaves it to the environment.
fn level(verbosity: Verbosity) -> Option<LevelFilter> {
    match i16::from(verbosity.verbose) - i16::from(verbosity.quiet) {
        0 => None,
        1 => Some(LevelFilter::Info),
        2 => Some(LevelFilter::Debug),
        3.. => Some(LevelFilter::Trace),
        -1 => Some(LevelFilter::Error),
        _ => Some(LevelFilter::Off),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_choose_the_level() {
        let level = |verbose, quiet| level(Verbosity { verbose, quiet });
        assert_eq!(level(0, 0), None);
        assert_eq!(level(1, 0), Some(LevelFilter::Info));
        assert_eq!(level(255, 0), Some(LevelFilter::Trace));
        assert_eq!(level(0, 1), Some(LevelFilter::Error));
        assert_eq!(level(0, 255), Some(LevelFilter::Off));
        assert_eq!(level(1, 1), None);
    }
}
