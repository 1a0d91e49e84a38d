//! The binary and a user who is wrong: every mistake ends with status 125, nothing on stdout, and words
//! on stderr that name it. What is asked for goes to stdout with status 0. No test here starts a guest.

use std::fs::{self, OpenOptions};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin_cmd;

fn vm_accel(args: &[&str]) -> Output {
    cargo_bin_cmd!("vm-accel").args(args).env_remove("RUST_LOG").output().unwrap()
}

/// What a failing command line says on stderr.
fn refusal(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = vm_accel(args);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(125), "{args:?}: {stderr}");
    assert!(stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&stdout));
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    stderr
}

#[test]
fn help_and_version_go_to_stdout() {
    for (args, words) in [
        (&["--version"][..], env!("CARGO_PKG_VERSION")),
        (&["--help"], "Exit status"),
        (&["run", "--help"], "Ctrl-A x"),
        (&["exec", "--help"], "Examples:"),
        (&["test", "--help"], "expect_status"),
        (&["probe", "--help"], "Examples:"),
        (&["inspect", "--help"], "Examples:"),
        (&["completions", "--help"], "Examples:"),
        (&["completions", "bash"], "vm-accel"),
    ] {
        let Output { status, stdout, stderr } = vm_accel(args);
        assert_eq!(status.code(), Some(0), "{args:?}");
        assert!(String::from_utf8(stdout).unwrap().contains(words), "{args:?}");
        assert!(stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn usage_errors() {
    for (args, words) in [
        (&[][..], "Usage"),
        (&["launch"], "launch"),
        (&["run", "--memroy", "1G"], "--memory"),
        (&["run", "--memory"], "--memory"),
        (&["run", "one", "two"], "two"),
        (&["probe", "--accel", "xen"], "soft"),
        (&["inspect"], "<FILE>"),
        (&["completions", "cmd"], "bash"),
    ] {
        let message = refusal(args);
        assert!(message.contains(words), "{args:?}: {message}");
    }
}

#[test]
fn a_kernel_for_another_architecture_is_refused_with_the_reason() {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/images/tiny-arm64/ok-image.img");
    let message = refusal(&["run", "--accel", "soft", image]);
    assert!(
        message.contains("ok-image.img: soft here runs x86-64 guests") && message.contains("AArch64"),
        "{message}"
    );
}

#[test]
fn a_forgotten_run_is_suggested() {
    let file = file!();
    assert!(refusal(&[file]).contains(&format!("vm-accel run {file}")));
}

#[test]
fn wrong_values_name_flag_value_and_remedy_on_one_line() {
    for (args, words) in [
        (&["--cpus", "0"][..], &["`--cpus 0`", "1 to 255"][..]),
        (&["--cpus", "2000"], &["`--cpus 2000`", "1 to 255"]),
        (&["--cpus", "-1"], &["`--cpus -1`", "1 to 255"]),
        (&["--memory", "0"], &["`--memory 0`", "512M"]),
        (&["--memory", "lots"], &["`--memory lots`", "512M"]),
        (&["--memory", "99999999T"], &["`--memory 99999999T`", "1023 GiB"]),
        (&["--timeout", "0"], &["`--timeout 0`", "30s"]),
        (&["--timeout", "later"], &["`--timeout later`", "30s"]),
        (&["--accel", "xen"], &["`--accel xen`", "`soft`"]),
        (&["--flat", "here", "k"], &["`--flat here`", "0x7c00"]),
        (&["--flat", "4294967296:long", "k"], &["0x100000000", "512 MiB"]),
        (&["--serial", "tty"], &["`--serial tty`", "file:PATH"]),
        (&["--module", ",x", "k"], &["`--module ,x`", "PATH"]),
        (&["--debug-exit", "bochs"], &["`--debug-exit bochs`", "`qemu`"]),
        (&["--initrd", "i"], &["`initrd`", "KERNEL"]),
        (&["a", "--kernel", "b"], &["two kernels", "a", "b"]),
        (&["no/such.toml"], &["no/such.toml", "No such file"]),
    ] {
        let args: Vec<&str> = ["run"].iter().chain(args).copied().collect();
        let message = refusal(&args);
        assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{args:?}: {message}");
        }
    }
}

#[test]
fn a_wrong_configuration_file_names_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.toml");
    for (text, words) in [
        ("kernel = 'k'\n\nmemroy = '1G'", "line 3; did you mean `memory`?"),
        ("kernel = 'k'\ncpus = 2000", "`cpus = 2000` in"),
        ("kernel = 'k'\ncpus = = 2", "line 2 is not valid TOML"),
        ("cpus = 2\ncpus = 3", "line 2"),
        ("[vm]\ncpus = 2", "unknown key `vm`"),
        ("kernel = 5", "Put it in quotes"),
    ] {
        fs::write(&file, text).unwrap();
        let message = refusal(&["run", file.to_str().unwrap()]);
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains(words) && message.contains("vm.toml"), "{message}");
    }
    fs::write(&file, b"kernel = '\xFF'").unwrap();
    assert_eq!(refusal(&["run", file.to_str().unwrap()]).lines().count(), 1);
    let folder = folder.path().join("folder.toml");
    fs::create_dir(&folder).unwrap();
    assert_eq!(refusal(&["run", folder.to_str().unwrap()]).lines().count(), 1);
}

#[test]
fn lost_output_is_a_failure() {
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
        use std::io::Write;
        // Not eprintln: the test harness would hide it.
        let _ = std::io::stderr().write_all(b"SKIPPED: lost_output_is_a_failure: there is no /dev/full\n");
        return;
    };
    for args in [&["--help"][..], &["--version"], &["completions", "zsh"]] {
        let binary = assert_cmd::cargo::cargo_bin!("vm-accel");
        let status = Command::new(binary).args(args).stdout(full.try_clone().unwrap()).status().unwrap();
        assert_eq!(status.code(), Some(125), "{args:?}");
    }
}

/// What differs between hosts is in `src/accel`; everything else is written once for all of them.
#[test]
fn no_host_is_special_outside_of_accel() {
    const WORDS: [&str; 10] = [
        "target_os",
        "target_arch",
        "target_family",
        "target_env",
        "target_vendor",
        "target_pointer_width",
        "cfg(unix",
        "cfg(windows",
        "cfg!(unix",
        "cfg!(windows",
    ];
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![source.clone()];
    let (mut files, mut found) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path != source.join("accel") {
                    folders.push(path);
                }
                continue;
            }
            // Beside the code there are kernels for its tests.
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            files += 1;
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let line = line.trim();
                let is_code = !line.starts_with("//");
                let of_one_host = ["std::os::unix", "std::os::windows", "std::os::linux", "std::os::fd"];
                if is_code && WORDS.iter().chain(&of_one_host).any(|word| line.contains(word)) {
                    found.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(files > 50, "only {files} files were looked at");
    assert!(found.is_empty(), "{found:#?}");
}
