//! Each row of the table of exit statuses in `docs/architecture.md`, on each backend: the status, the one
//! line on stderr, and stdout with the guest's output and nothing else.
//!
//! A guest whose end must be noticed spins or sleeps and has a time limit of its own (status 124): any
//! other status means that the end was seen.

mod support;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::{ExitCode, Stdio};

use support::{Backend, Code, Run, Trials, end_of, gzip, run_flat, tiny, vm_accel};

const PANIC: &str = "Kernel panic - not syncing: x\n";
const PANIC_END: &str = "---[ end Kernel panic - not syncing: x ]---\n";
/// Ends a guest whose fate is not noticed.
const LIMIT: &[&str] = &["--timeout", "30s"];

fn main() -> ExitCode {
    let mut trials = Trials::new();
    add_ends_of_the_guests_choice(&mut trials);
    add_panics(&mut trials);
    add_hangs_and_faults(&mut trials);
    add_signals(&mut trials);
    for backend in trials.backends() {
        let name = format!("{}::sse_in_kernel_mode", backend.kind);
        if backend.kernel_sse() {
            trials.ignored(name, "SSE works in kernel mode here, and no other instruction is known to fail");
        } else {
            trials.add(name, move || instruction_that_cannot_be_emulated(&backend));
        }
    }
    trials.run()
}

/// Runs `code` and checks status, line on stderr and stdout.
fn fate(backend: &Backend, code: &Code, args: &[&str], status: i32, words: &str, stdout: &str) {
    let ended = end_of(&mut run_flat(backend, &code.file(), args));
    ended.expect(status, &[words, &backend.kind, &format!("status {status}")]).printed(stdout);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

fn add_ends_of_the_guests_choice(trials: &mut Trials) {
    for (name, file, words) in [
        ("power_off_by_acpi", "poweroff-acpi.bin", "powered off"),
        ("reset_by_i8042", "reset-i8042.bin", "reset"),
        ("reset_by_cf9", "reset-cf9.bin", "reset"),
    ] {
        trials.add_each(name, move |backend| {
            let ended = end_of(&mut run_flat(backend, &tiny(file), LIMIT));
            ended.expect(0, &[words, "status 0"]).printed("");
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        });
    }
    trials.add_each("of_a_compressed_kernel", |backend| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let kernel = std::fs::read(tiny("multiboot.elf")).expect("a kernel");
        std::fs::write(file.path(), gzip(&kernel)).expect("it is written");
        let path = file.path().to_str().expect("UTF-8");
        let args =
            ["run", "--accel", &backend.kind, "--timeout", "30s", "--cmdline", "hello multiboot", path];
        end_of(&mut vm_accel(args)).expect(0, &["status 0"]).printed("OK\n");
    });
    trials.add_each("reset_by_the_firmwares_entry", |backend| {
        // ljmp 0xf000, 0xfff0
        let code = Code::new().bytes(&[0xea, 0xf0, 0xff, 0x00, 0xf0]);
        fate(backend, &code, LIMIT, 0, "reset", "");
    });
    for (value, args, status) in [
        (0, &[][..], 0),
        (42, &[], 42),
        (119, &[], 119),
        (120, &[], 119),
        (0x1234, &[], 119),
        (0, &["--debug-exit", "qemu"], 1),
        (16, &["--debug-exit", "qemu"], 33),
        (200, &["--debug-exit", "qemu"], 145),
    ] {
        let meaning = if args.is_empty() { "raw" } else { "qemu" };
        trials.add_each(&format!("debug_exit_{meaning}_{value}"), move |backend| {
            let words = format!("ended with {value} ");
            fate(backend, &Code::new().print("out").exit(value), args, status, &words, "out");
        });
    }
    // Nothing on the terminal but what the guest says: no port is on it.
    trials.add_each("silent_without_a_port_on_stdio", |backend| {
        fate(backend, &Code::new().print("lost").exit(7), &["--serial", "null"], 7, "ended with 7", "");
    });
}

fn add_panics(trials: &mut Trials) {
    trials.add_each("panic_by_pvpanic", |backend| {
        // mov dx, 0x505; mov al, 1; out dx, al
        let code = Code::new().bytes(&[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee]).spin();
        fate(backend, &code, LIMIT, 120, "panicked", "");
    });
    let both = format!("{PANIC}stack\n{PANIC_END}");
    let panicked = |text: &str| Code::new().print(text);
    for (name, code, text) in [
        ("panic_text_then_spin", panicked(&both).spin(), both.clone()),
        ("panic_text_then_halt", panicked(&both).hang(), both.clone()),
        ("panic_text_then_reset", panicked(&both).reset(), both.clone()),
        ("panic_text_without_its_end_then_spin", panicked(PANIC).spin(), PANIC.to_owned()),
        ("panic_text_without_its_end_then_reset", panicked(PANIC).reset(), PANIC.to_owned()),
    ] {
        trials.add_each(name, move |backend| fate(backend, &code, LIMIT, 120, "panicked", &text));
    }
    trials.add_each("text_like_a_panic_is_none", |backend| {
        let text = "no Kernel panic\nnot syncing\n";
        fate(backend, &Code::new().print(text).exit(3), LIMIT, 3, "ended with 3", text);
    });
}

fn add_hangs_and_faults(trials: &mut Trials) {
    trials.add_each("triple_fault", |backend| {
        let args = ["run", "--accel", &backend.kind, "--memory", "16M", "--flat", "0x100000:long"];
        let mut command = vm_accel(args);
        let ended = end_of(command.args(LIMIT).arg(tiny("triple-fault.bin")));
        ended.expect(121, &["triple fault on vCPU 0", "rip 0x", "status 121"]);
    });
    for cpus in ["1", "2"] {
        // With two, the second is never started.
        trials.add_each(&format!("cli_hlt_with_{cpus}_cpus"), move |backend| {
            let args = [LIMIT, &["--cpus", cpus]].concat();
            fate(backend, &Code::new().print("bye").hang(), &args, 122, "vCPU 0 at 0x1", "bye");
        });
    }
    trials.add_each("idle_is_no_hang", |backend| {
        fate(backend, &Code::new().idle(), &["--timeout", "2s"], 124, "2s", "");
    });
    trials.add_each("spin_and_timeout", |backend| {
        fate(backend, &Code::new().print("a").spin(), &["--timeout", "500ms"], 124, "500ms", "a");
    });
    trials.add_each("no_kernel", |backend| {
        let ended = end_of(&mut vm_accel(["run", "--accel", &backend.kind, "no/such/kernel"]));
        ended.expect(125, &["no/such/kernel"]).printed("");
    });
}

/// `pxor xmm0, xmm0` at a known address.
fn instruction_that_cannot_be_emulated(backend: &Backend) {
    let code = Code::new().bytes(&[0x66, 0x0f, 0xef, 0xc0]).exit(0).file();
    let mut command = vm_accel(["run", "--accel", &backend.kind, "--flat", "0x100000:long"]);
    let ended = end_of(command.args(LIMIT).arg(&*code));
    ended.expect(126, &["instruction at 0x100000", "66 0f ef c0", "status 126"]).printed("");
}

fn add_signals(trials: &mut Trials) {
    for (name, signal) in [("sigint", libc::SIGINT), ("sigterm", libc::SIGTERM), ("sighup", libc::SIGHUP)] {
        for (guest, code) in
            [("spins", Code::new().print("go").spin()), ("sleeps", Code::new().print("go").idle())]
        {
            trials.add_each(&format!("{name}_while_the_guest_{guest}"), move |backend| {
                let file = code.file();
                let mut run = Run::start(&mut run_flat(backend, &file, LIMIT));
                run.wait_for("go");
                run.signal(signal);
                run.end().expect(128 + signal, &[&format!("signal {signal}")]).printed("go");
            });
        }
    }
    for (name, signal) in [("sigint", libc::SIGINT), ("sigterm", libc::SIGTERM)] {
        trials.add_each(&format!("{name}_while_nobody_reads_stdout"), move |backend| {
            let (mut reader, writer) = std::io::pipe().expect("a pipe");
            // mov dx, 0x3f8; mov al, 'x'; 1: out dx, al; jmp 1b
            let file = Code::new().bytes(&[0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd]).file();
            let mut command = run_flat(backend, &file, LIMIT);
            let spare = writer.try_clone().expect("a second writer");
            let mut run = Run::start(command.stdout(Stdio::from(writer)));
            drop(command);
            run.wait_until("full pipe", |_| {
                let mut poll = libc::pollfd { fd: spare.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: one struct, for the length of the call.
                unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
            });
            drop(spare);
            run.signal(signal);
            run.end().expect(128 + signal, &[&format!("signal {signal}")]);
            let mut output = Vec::new();
            reader.read_to_end(&mut output).expect("the pipe's rest");
            assert!(output.iter().all(|byte| *byte == b'x'));
        });
    }
}
