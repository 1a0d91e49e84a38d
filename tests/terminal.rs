//! stdin and stdout: a terminal's mode during a run and after it, the escape key, input that reaches the
//! guest by polling and by interrupt, output that comes whole and in order.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use support::{Code, Ended, Run, Trials, end_of, run_flat, vm_accel};

/// Ends a guest that nothing else ends.
const LIMIT: &[&str] = &["--timeout", "30s"];

fn main() -> ExitCode {
    let mut trials = Trials::new();
    add_terminals(&mut trials);
    add_inputs(&mut trials);
    add_outputs(&mut trials);
    trials.run()
}

/// A terminal of our own: what the user's end is, and what the child's is.
struct Terminal {
    user: File,
    child: File,
    before: libc::termios,
}

impl Terminal {
    fn open() -> Self {
        let (mut user, mut child) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: two ints are written; no name, mode or size is given.
        let result = unsafe {
            libc::openpty(&raw mut user, &raw mut child, null, null.cast::<libc::termios>(), null.cast())
        };
        assert_eq!(result, 0, "openpty: {}", std::io::Error::last_os_error());
        // Other children must not keep this terminal open.
        for descriptor in [user, child] {
            // SAFETY: plain system call on our own descriptor.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        // SAFETY: both descriptors are new and nobody else's.
        let (user, child) = unsafe { (File::from_raw_fd(user), File::from_raw_fd(child)) };
        let before = mode(&child);
        assert_eq!(before.c_lflag & LINE_MODE, LINE_MODE, "a new terminal is in line mode");
        Self { user, child, before }
    }

    /// Starts `command` as the leader of a session on this terminal, with its stdin there.
    fn start(&self, command: &mut Command) -> Run {
        let child = self.child.try_clone().expect("the child's end");
        command.stdin(Stdio::from(child));
        // SAFETY: setsid and the ioctl are async-signal-safe; descriptor 0 is the terminal by then.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Run::start(command)
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.user.write_all(keys).expect("the terminal takes keys");
    }

    /// The next `count` bytes that the user sees.
    fn shown(&mut self, count: usize) -> Vec<u8> {
        let mut seen = vec![0; count];
        for byte in &mut seen {
            let mut poll = libc::pollfd { fd: self.user.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one struct, for the length of the call.
            assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 30_000) }, 1, "the terminal shows nothing");
            self.user.read_exact(std::slice::from_mut(byte)).expect("the terminal shows it");
        }
        seen
    }

    fn is_raw(&self) -> bool {
        mode(&self.child).c_lflag & LINE_MODE == 0
    }

    #[track_caller]
    fn is_as_before(&self) {
        let now = mode(&self.child);
        let flags =
            |mode: &libc::termios| (mode.c_iflag, mode.c_oflag, mode.c_cflag, mode.c_lflag, mode.c_cc);
        assert_eq!(flags(&now), flags(&self.before), "the terminal's mode after the run");
    }
}

/// Line editing, echo and signal keys.
const LINE_MODE: libc::tcflag_t = libc::ICANON | libc::ECHO | libc::ISIG;

fn mode(terminal: &File) -> libc::termios {
    let mut mode = MaybeUninit::uninit();
    // SAFETY: the call writes one struct.
    assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()) }, 0);
    // SAFETY: it has been written.
    unsafe { mode.assume_init() }
}

/// Prints `ready`, and then sends each byte back; `q` ends it.
fn echo_by_polling() -> Code {
    let code = Code::new().print("ready\n");
    // 1: wait; mov dx, 0x3f8; out dx, al; cmp al, 'q'; jne 1b
    code.wait_for_byte().bytes(&[0xba, 0xf8, 0x03, 0xee, 0x3c, b'q', 0x75, 0xec]).exit(0)
}

/// The same by the interrupt of COM1 (IRQ 4), asleep in between; without `ready`.
fn echo_by_interrupt() -> Code {
    Code::new().bytes(&[
        0xfa, // cli
        0xea, 0x06, 0x10, 0x00, 0x00, // ljmp 0, 0x1006
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xd0, // mov ss, ax
        0xbc, 0x00, 0xf0, // mov sp, 0xf000
        0xc7, 0x06, 0x90, 0x00, 0x3c, 0x10, // mov word ptr [0x24 * 4], isr
        0xa3, 0x92, 0x00, // mov [0x24 * 4 + 2], ax
        0xb0, 0x11, 0xe6, 0x20, // mov al, 0x11; out 0x20, al: ICW1
        0xb0, 0x20, 0xe6, 0x21, // mov al, 0x20; out 0x21, al: vectors from 0x20
        0xb0, 0x04, 0xe6, 0x21, // mov al, 4; out 0x21, al
        0xb0, 0x01, 0xe6, 0x21, // mov al, 1; out 0x21, al
        0xb0, 0xef, 0xe6, 0x21, // mov al, 0xef; out 0x21, al: IRQ 4 only
        0xba, 0xfc, 0x03, 0xb0, 0x0b, 0xee, // mov dx, 0x3fc; mov al, 0xb; out dx, al: OUT2
        0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee, // mov dx, 0x3f9; mov al, 1; out dx, al: data interrupt
        0xfb, 0xf4, 0xeb, 0xfc, // 1: sti; hlt; jmp 1b
        0xba, 0xfd, 0x03, 0xec, // isr: mov dx, 0x3fd; in al, dx
        0xa8, 0x01, 0x74, 0x0d, // test al, 1; jz 3f
        0xba, 0xf8, 0x03, 0xec, 0xee, // mov dx, 0x3f8; in al, dx; out dx, al
        0x3c, b'q', 0x75, 0xef, // cmp al, 'q'; jne isr
        0x31, 0xc0, 0xe7, 0xf4, // xor ax, ax; out 0xf4, ax
        0xb0, 0x20, 0xe6, 0x20, 0xcf, // 3: mov al, 0x20; out 0x20, al; iret
    ])
}

fn add_terminals(trials: &mut Trials) {
    type Act = fn(&mut Terminal, &Run);
    let fates: [(&str, &[&str], Act, i32); 8] = [
        ("end", &[], |terminal, _| terminal.type_keys(b"q"), 0),
        ("sigint", &[], |_, run| run.signal(libc::SIGINT), 130),
        ("sigterm", &[], |_, run| run.signal(libc::SIGTERM), 143),
        ("sighup", &[], |_, run| run.signal(libc::SIGHUP), 129),
        ("escape_key", &[], |terminal, _| terminal.type_keys(b"\x01x"), 130),
        ("escape_key_upper_case", &[], |terminal, _| terminal.type_keys(b"\x01X"), 130),
        ("timeout", &["--timeout", "1s"], |_, _| {}, 124),
        (
            "error",
            &["--serial", "stdio", "--serial", "file:/dev/full"],
            |terminal, _| terminal.type_keys(b"q"),
            125,
        ),
    ];
    for (name, args, act, status) in fates {
        trials.add_each(&format!("terminal_is_restored_after_{name}"), move |backend| {
            let mut terminal = Terminal::open();
            // Before its end it writes a line to COM2.
            let guest = Code::new().print("ready\n").wait_for_byte().print_to(0x2f8, "bye\n").exit(0).file();
            let mut run = terminal.start(&mut run_flat(backend, &guest, args));
            run.wait_for("ready\n");
            assert!(terminal.is_raw(), "raw while the guest runs");
            act(&mut terminal, &run);
            run.end().expect(status, &[]).printed("ready\n");
            terminal.is_as_before();
        });
    }
    trials.add_each("terminal_is_untouched_when_no_port_is_on_it", |backend| {
        let terminal = Terminal::open();
        let guest = Code::new().print("unheard").idle().file();
        let args = ["--serial", "file:/dev/null", "--timeout", "300ms"];
        let mut run = terminal.start(&mut run_flat(backend, &guest, &args));
        run.wait_until("line mode all the time", |_| !terminal.is_raw());
        run.end().expect(124, &[]).printed("");
        terminal.is_as_before();
    });
    trials.add_each("terminal_is_untouched_by_a_refusal", |backend| {
        let terminal = Terminal::open();
        let mut command = vm_accel(["run", "--accel", &backend.kind, "no/such/kernel"]);
        terminal.start(&mut command).end().expect(125, &["no/such/kernel"]);
        terminal.is_as_before();
    });
    trials.add_each("keys_reach_the_guest", |backend| {
        let mut terminal = Terminal::open();
        let guest = echo_by_polling().file();
        let mut run = terminal.start(&mut run_flat(backend, &guest, LIMIT));
        run.wait_for("ready\n");
        // Signal keys are the guest's too, and a doubled Ctrl-A is one.
        terminal.type_keys(b"a\x03\x04\r\x01\x01q");
        run.end().expect(0, &[]).printed("ready\na\x03\x04\r\x01q");
        terminal.is_as_before();
    });
    trials.add_each("help_key", |backend| {
        let mut terminal = Terminal::open();
        let guest = echo_by_polling().file();
        let mut run = terminal.start(&mut run_flat(backend, &guest, LIMIT));
        run.wait_for("ready\n");
        terminal.type_keys(b"\x01h");
        run.wait_for_stderr("Ctrl-A x");
        terminal.type_keys(b"q");
        run.end().expect(0, &[]).printed("ready\nq");
    });
    trials.add_each("output_to_the_terminal", |backend| {
        let mut terminal = Terminal::open();
        let guest = Code::new().print("ready\n").wait_for_byte().exit(0).file();
        let mut command = run_flat(backend, &guest, LIMIT);
        command.stdout(Stdio::from(terminal.child.try_clone().expect("the child's end")));
        let run = terminal.start(&mut command);
        // The terminal still adds the carriage return.
        let seen = terminal.shown(b"ready\r\n".len());
        assert_eq!(seen, b"ready\r\n");
        terminal.type_keys(b".");
        run.end().expect(0, &[]);
        terminal.is_as_before();
    });
    trials.add_each("hangup_of_the_terminal", |backend| {
        let terminal = Terminal::open();
        let guest = Code::new().print("ready\n").idle().file();
        let mut run = terminal.start(&mut run_flat(backend, &guest, LIMIT));
        run.wait_for("ready\n");
        drop(terminal);
        run.end().expect(129, &["signal 1"]);
    });
}

/// Feeds `input` by a pipe and closes it.
fn fed(command: &mut Command, input: &[u8]) -> Ended {
    let mut run = Run::start(command.stdin(Stdio::piped()));
    run.stdin().write_all(input).expect("the pipe takes the input");
    run.end()
}

fn add_inputs(trials: &mut Trials) {
    trials.add_each("pipe_to_a_polling_guest", |backend| {
        let guest = echo_by_polling().file();
        // Nothing is an escape key in a pipe.
        let ended = fed(&mut run_flat(backend, &guest, LIMIT), b"hello\x01x\x00\xff\nq");
        ended.expect(0, &[]);
        assert_eq!(ended.stdout, b"ready\nhello\x01x\x00\xff\nq");
    });
    trials.add_each("pipe_to_an_interrupted_guest", |backend| {
        let guest = echo_by_interrupt().file();
        let text = "The quick brown fox jumps over the lazy dog; ".replace('q', "k").repeat(8) + "q";
        fed(&mut run_flat(backend, &guest, LIMIT), text.as_bytes()).expect(0, &[]).printed(&text);
    });
    trials.add_each("input_that_comes_late", |backend| {
        let guest = echo_by_interrupt().file();
        let mut run = Run::start(run_flat(backend, &guest, LIMIT).stdin(Stdio::piped()));
        let mut stdin = run.stdin();
        for word in ["one", "two", "q"] {
            stdin.write_all(word.as_bytes()).expect("the pipe takes the input");
            run.wait_for(word);
        }
        run.end().expect(0, &[]).printed("onetwoq");
    });
    let sleeper = || Code::new().print("ready\n").idle().file();
    let second: &[&str] = &["--timeout", "1s"];
    trials.add_each("stdin_closed", move |backend| {
        let guest = sleeper();
        let mut command = run_flat(backend, &guest, second);
        // SAFETY: close is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::close(0);
                Ok(())
            });
        }
        end_of(&mut command).expect(124, &["1s"]).printed("ready\n");
    });
    trials.add_each("stdin_is_a_directory", move |backend| {
        let guest = sleeper();
        let folder = File::open("/").expect("the root directory");
        end_of(run_flat(backend, &guest, second).stdin(folder)).expect(124, &["1s"]).printed("ready\n");
    });
    for (name, silent) in [("null", false), ("a_silent_pipe", true)] {
        trials.add_each(&format!("idle_costs_nothing_with_{name}"), move |backend| {
            let guest = sleeper();
            let mut command = run_flat(backend, &guest, LIMIT);
            let mut run = Run::start(if silent { command.stdin(Stdio::piped()) } else { &mut command });
            let stdin = silent.then(|| run.stdin());
            run.wait_for("ready\n");
            let before = run.cpu_ms();
            std::thread::sleep(Duration::from_secs(1));
            let used = run.cpu_ms() - before;
            assert!(used < 200, "an idle guest used {used} ms of CPU time in a second");
            run.signal(libc::SIGTERM);
            run.end().expect(143, &[]);
            drop(stdin);
        });
    }
}

fn add_outputs(trials: &mut Trials) {
    trials.add_each("prompt_without_newline", |backend| {
        let guest = Code::new().print("login: ").wait_for_byte().exit(0).file();
        let mut run = Run::start(run_flat(backend, &guest, LIMIT).stdin(Stdio::piped()));
        let mut stdin = run.stdin();
        run.wait_for("login: ");
        stdin.write_all(b"x").expect("the pipe takes the input");
        run.end().expect(0, &[]).printed("login: ");
    });
    trials.add_each("a_mebibyte_comes_whole_and_in_order", |backend| {
        // 256 blocks of 4 KiB, each with its number in front.
        let mut bytes = vec![
            0xfc, // cld
            0xea, 0x06, 0x10, 0x00, 0x00, // ljmp 0, 0x1006
            0x31, 0xc0, // xor ax, ax
            0x8e, 0xd8, // mov ds, ax
            0xbb, 0x00, 0x01, // mov bx, 256
            0xba, 0xf8, 0x03, // mov dx, 0x3f8
            0xbe, 0x00, 0x20, // 1: mov si, 0x2000
            0xb9, 0x00, 0x10, // mov cx, 4096
            0xf3, 0x6e, // rep outsb
            0xfe, 0x06, 0x00, 0x20, // inc byte ptr [0x2000]
            0x4b, // dec bx
            0x75, 0xf1, // jnz 1b
            0x31, 0xc0, 0xe7, 0xf4, // xor ax, ax; out 0xf4, ax
        ];
        bytes.resize(0x1000, 0xf4);
        let block: Vec<u8> = (0..4096_u32).map(|at| ((at * 31) >> 3) as u8).collect();
        bytes.extend(&block);
        let ended = end_of(&mut run_flat(backend, &Code::new().bytes(&bytes).file(), LIMIT));
        ended.expect(0, &[]);
        assert_eq!(ended.stdout.len(), 1 << 20);
        for (number, got) in ended.stdout.chunks(4096).enumerate() {
            assert_eq!(got[0], number as u8, "the number of block {number}");
            assert!(got[1..] == block[1..], "block {number}");
        }
    });
}
