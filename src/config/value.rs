//! The values that flags and the TOML file share: sizes, durations, addresses, serial backends.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::error::ValueError;
use super::{DebugExit, Flat, FlatMode, Module, SerialBackend};
use crate::accel::AccelKind;

/// Most vCPUs of a machine. APIC ids are 8 bits wide in xAPIC mode and 255 is the broadcast address,
/// which leaves the ids 0 to 254.
pub const MAX_CPUS: u32 = 255;
/// Least RAM of a machine in bytes: the BIOS areas below 1 MiB must exist.
pub const MIN_MEMORY: u64 = 1 << 20;
/// Most RAM of a machine in bytes: with the MMIO hole below 4 GiB it ends at 1 TiB, the 40 bits of
/// physical address that every x86-64 processor has.
pub const MAX_MEMORY: u64 = 1023 << 30;
/// Longest timeout: a year. A longer one means none.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// First address that real mode cannot start at through `segment:0`.
pub const REAL_MODE_END: u64 = 1 << 20;

/// Parses a memory size: a number of MiB, or a number with `K`, `M`, `G` or `T` and optionally `B` or
/// `iB` behind it. All of them are powers of 1024.
///
/// # Errors
/// When it is no size, or one that a machine cannot have.
pub fn parse_memory(text: &str) -> Result<u64, ValueError> {
    const REMEDY: &str = "Write a size as `512M`, `2G`, `2GiB`, or a plain number of MiB";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 20,
        "k" | "kb" | "kib" => 10,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(ValueError::new("not a memory size", REMEDY)),
    };
    if number.is_empty() {
        return Err(ValueError::new("not a memory size", REMEDY));
    }
    // What does not fit in 128 bits is too large in any case.
    let bytes = number.parse::<u128>().ok().and_then(|n| n.checked_mul(1 << shift)).unwrap_or(u128::MAX);
    if bytes < u128::from(MIN_MEMORY) {
        return Err(ValueError::new("a machine needs 1 MiB of RAM at least", "Give it more, such as `512M`"));
    }
    if bytes > u128::from(MAX_MEMORY) {
        let remedy = match unit {
            "" => "Give it less; a plain number counts MiB, so bytes or KiB need a unit: `524288K`",
            _ => "Give it less, such as `512M`",
        };
        return Err(ValueError::new("a machine can have 1023 GiB of RAM at most", remedy));
    }
    let bytes = u64::try_from(bytes).unwrap_or(MAX_MEMORY);
    if bytes % crate::memory::PAGE_SIZE != 0 {
        return Err(ValueError::new("not a multiple of 4 KiB", "Round it to full pages, such as `1028K`"));
    }
    Ok(bytes)
}

/// Parses an exit status.
///
/// # Errors
/// When it is no number from 0 to 255.
pub fn parse_status(text: &str) -> Result<u8, ValueError> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        ValueError::new("not an exit status", "Write a number from 0 to 255, such as 120 for a panic")
    })
}

/// Parses a number of vCPUs.
///
/// # Errors
/// When it is no number, 0, or above [`MAX_CPUS`].
pub fn parse_cpus(text: &str) -> Result<u32, ValueError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ValueError::new("not a number of CPUs", format!("Write a number from 1 to {MAX_CPUS}")));
    }
    match text.parse::<u32>() {
        Ok(0) => {
            Err(ValueError::new("a machine needs a CPU", format!("Write a number from 1 to {MAX_CPUS}")))
        }
        Ok(cpus) if cpus <= MAX_CPUS => Ok(cpus),
        _ => Err(ValueError::new(
            format!("a machine can have {MAX_CPUS} CPUs at most"),
            format!("Write a number from 1 to {MAX_CPUS}"),
        )),
    }
}

/// Parses a duration: a number of seconds, or a number with `ms`, `s`, `m` or `h` behind it. The number
/// may have a fraction.
///
/// # Errors
/// When it is no duration, 0, or above a year.
pub fn parse_timeout(text: &str) -> Result<Duration, ValueError> {
    const REMEDY: &str = "Write a time as `30s`, `500ms`, `2m`, `1h`, or a plain number of seconds";
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_seconds = match unit.trim_start() {
        "" | "s" | "sec" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(ValueError::new("not a time", REMEDY)),
    };
    let seconds = match number.parse::<f64>() {
        Ok(number) => number * unit_seconds,
        Err(_) => return Err(ValueError::new("not a time", REMEDY)),
    };
    if seconds > MAX_TIMEOUT.as_secs_f64() {
        return Err(ValueError::new("longer than a year", "Leave `timeout` out for no limit"));
    }
    let timeout = Duration::try_from_secs_f64(seconds).map_err(|_| ValueError::new("not a time", REMEDY))?;
    if timeout.is_zero() {
        return Err(ValueError::new("no time at all", "Leave `timeout` out for no limit, or write `30s`"));
    }
    Ok(timeout)
}

/// Parses `ADDRESS[:real|:long]`. Without a mode, an address below 1 MiB means real mode and any other
/// long mode.
///
/// # Errors
/// When it is no address, or one that the mode cannot start at.
pub fn parse_flat(text: &str) -> Result<Flat, ValueError> {
    const REMEDY: &str = "Write an address and a mode as `0x7c00`, `0x7c00:real` or `0x100000:long`";
    let (number, mode) = match text.split_once(':') {
        Some((number, mode)) => (number, Some(mode)),
        None => (text, None),
    };
    let address = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
        Some(hex) => parse_digits(hex, 16),
        None => parse_digits(number, 10),
    }
    .ok_or_else(|| ValueError::new("not a load address", REMEDY))?;
    let mode = match mode {
        None if address < REAL_MODE_END => FlatMode::Real,
        None | Some("long") => FlatMode::Long,
        Some("real") => FlatMode::Real,
        Some(_) => return Err(ValueError::new("not a processor mode", REMEDY)),
    };
    if mode == FlatMode::Real && address >= REAL_MODE_END {
        return Err(ValueError::new(
            "real mode starts below 1 MiB",
            "Write a lower address, or `:long` for long mode",
        ));
    }
    if mode == FlatMode::Real && address % 16 != 0 && address > 0xFFFF {
        return Err(ValueError::new(
            "real mode can start above 64 KiB only at a multiple of 16",
            "Write an address such as `0x10000`",
        ));
    }
    Ok(Flat { address, mode })
}

/// `from_str_radix` without the sign that it accepts.
fn parse_digits(digits: &str, radix: u32) -> Option<u64> {
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Parses what a serial port is connected to: `stdio`, `null`, `file:PATH`, `unix:PATH`, `pty`, or `none`
/// for no port.
///
/// # Errors
/// When it is none of these.
pub fn parse_serial(text: &str) -> Result<Option<SerialBackend>, ValueError> {
    let (kind, path) = text.split_once(':').map_or((text, None), |(kind, path)| (kind, Some(path)));
    match (kind, path) {
        ("stdio", None) => Ok(Some(SerialBackend::Stdio)),
        ("null", None) => Ok(Some(SerialBackend::Null)),
        ("pty", None) => Ok(Some(SerialBackend::Pty)),
        ("none", None) => Ok(None),
        ("file" | "unix", Some("")) => Err(ValueError::new(
            "no file name",
            format!("Write a path, such as `{kind}:serial.{}`", if kind == "file" { "log" } else { "sock" }),
        )),
        ("file", Some(path)) => Ok(Some(SerialBackend::File(PathBuf::from(path)))),
        ("unix", Some(path)) => Ok(Some(SerialBackend::Unix(PathBuf::from(path)))),
        _ => Err(ValueError::new(
            "not a serial backend",
            "Write `stdio`, `null`, `file:PATH`, `unix:PATH`, `pty`, or `none` for no port",
        )),
    }
}

/// Parses `PATH[,COMMAND LINE]`.
///
/// # Errors
/// When there is no path.
pub fn parse_module(text: &str) -> Result<Module, ValueError> {
    let (path, cmdline) = text.split_once(',').unwrap_or((text, ""));
    if path.is_empty() {
        return Err(ValueError::new("no file name", "Write `PATH` or `PATH,COMMAND LINE`"));
    }
    Ok(Module { path: PathBuf::from(path), cmdline: cmdline.to_owned() })
}

/// Parses a backend's name.
///
/// # Errors
/// When there is none of that name.
pub fn parse_accel(text: &str) -> Result<AccelKind, ValueError> {
    AccelKind::from_str(text, true)
        .map_err(|_| ValueError::new("no such backend", format!("Write {}", names::<AccelKind>())))
}

/// Parses the meaning of the debug exit port.
///
/// # Errors
/// When there is none of that name.
pub fn parse_debug_exit(text: &str) -> Result<DebugExit, ValueError> {
    DebugExit::from_str(text, true)
        .map_err(|_| ValueError::new("no such meaning", format!("Write {}", names::<DebugExit>())))
}

/// The names of an enum's values: "`a`, `b` or `c`".
fn names<T: ValueEnum>() -> String {
    let names: Vec<String> = T::value_variants()
        .iter()
        .filter_map(|variant| variant.to_possible_value())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_sizes() {
        for (text, bytes) in [
            ("512", 512 << 20),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("512 MiB", 512 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("1gb", 1 << 30),
            ("1024K", 1 << 20),
            ("1", 1 << 20),
            ("1023G", 1023 << 30),
        ] {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn impossible_memory_sizes_are_refused_with_a_remedy() {
        for text in [
            "",
            "0",
            "0G",
            "1023K",
            "1025K",
            "1T",
            "-1",
            "+5M",
            "M",
            "1.5G",
            "1Q",
            "0x100",
            "99999999999999999999999999999999999999999999G",
            "536870912",
        ] {
            let error = parse_memory(text).expect_err(text);
            assert!(!error.remedy.is_empty(), "{text}");
        }
        assert!(parse_memory("536870912").unwrap_err().remedy.contains("counts MiB"));
    }

    #[test]
    fn cpu_counts() {
        assert_eq!(parse_cpus("1"), Ok(1));
        assert_eq!(parse_cpus("255"), Ok(255));
        for text in ["0", "256", "2000", "-1", "+1", "", "two", "99999999999999999999"] {
            assert!(parse_cpus(text).unwrap_err().remedy.contains("1 to 255"), "{text}");
        }
    }

    #[test]
    fn timeouts() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("5", 5000),
            ("0.5", 500),
            ("1.5 s", 1500),
        ] {
            assert_eq!(parse_timeout(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "0", "0ms", "-1", "s", "5x", "1..2", "inf", "nan", "1e9", "400000000", "9999999h"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flat_addresses() {
        let real = |address| Ok(Flat { address, mode: FlatMode::Real });
        let long = |address| Ok(Flat { address, mode: FlatMode::Long });
        assert_eq!(parse_flat("0x7c00"), real(0x7c00));
        assert_eq!(parse_flat("31744:real"), real(0x7c00));
        assert_eq!(parse_flat("0x7c00:long"), long(0x7c00));
        assert_eq!(parse_flat("0x100000"), long(0x10_0000));
        assert_eq!(parse_flat("0x100000:long"), long(0x10_0000));
        for text in
            ["", "0x", "7c00", "0x100000:real", "0x7c00:", "0x7c00:protected", "-1", "0x+1", "0x10001"]
        {
            assert!(parse_flat(text).is_err(), "{text}");
        }
    }

    #[test]
    fn serial_backends_and_modules() {
        assert_eq!(parse_serial("stdio"), Ok(Some(SerialBackend::Stdio)));
        assert_eq!(parse_serial("null"), Ok(Some(SerialBackend::Null)));
        assert_eq!(parse_serial("none"), Ok(None));
        assert_eq!(parse_serial("file:a:b"), Ok(Some(SerialBackend::File("a:b".into()))));
        assert_eq!(parse_serial("unix:/run/a"), Ok(Some(SerialBackend::Unix("/run/a".into()))));
        assert_eq!(parse_serial("pty"), Ok(Some(SerialBackend::Pty)));
        for text in ["", "file:", "file", "unix:", "unix", "pty:", "pty:x", "stdio:", "none:", "tty"] {
            assert!(parse_serial(text).is_err(), "{text}");
        }
        assert_eq!(parse_module("m"), Ok(Module { path: "m".into(), cmdline: String::new() }));
        assert_eq!(parse_module("m,a,b c"), Ok(Module { path: "m".into(), cmdline: "a,b c".into() }));
        assert!(parse_module(",a").is_err());
    }

    #[test]
    fn names_are_listed_in_words() {
        let error = parse_accel("xen").unwrap_err();
        assert!(error.remedy.contains("`kvm`") && error.remedy.contains(" or `soft`"), "{error}");
        assert_eq!(parse_accel("KVM"), Ok(AccelKind::Kvm));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            let _ = parse_memory(&text);
            let _ = parse_cpus(&text);
            let _ = parse_timeout(&text);
            let _ = parse_flat(&text);
            let _ = parse_serial(&text);
            let _ = parse_module(&text);
        }

        #[test]
        fn digits_with_any_unit_never_panic(text in "[0-9]{0,45}\\.?[0-9]{0,4}[ ]?(|K|M|G|T|s|ms|h)") {
            let _ = parse_memory(&text);
            let _ = parse_timeout(&text);
        }
    }
}
