//! Serial ports on sockets and ptys, with real clients, by the real binary on the software CPU.
#![cfg(unix)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Code, Guest, Run, end_of, vm_accel};

/// Long enough for a loaded machine; a test that passes does not wait for it.
const PATIENCE: Duration = Duration::from_secs(40);
const COM: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];

fn run(guest: &Guest, args: &[&str]) -> Command {
    let mut command = vm_accel(["run", "--accel", "soft", "--memory", "16M", "--flat", "0x1000:real"]);
    command.args(["--timeout", "50s"]).args(args).arg(&**guest);
    command
}

/// Sends back each byte of the port; `q` ends it with status 0.
fn echo(port: u16) -> Code {
    let ([low, high], [status, _]) = (port.to_le_bytes(), (port + 5).to_le_bytes());
    Code::new().bytes(&[
        0xba, status, high, 0xec, 0xa8, 0x01, 0x74,
        0xfb, // mov dx, port+5; 1: in al, dx; test al, 1; jz 1b
        0xba, low, high, 0xec, 0xee, // mov dx, port; in al, dx; out dx, al
        0x3c, b'q', 0x75, 0xef, // cmp al, 'q'; jne start
    ])
}

/// A client of the socket, as soon as somebody listens there.
#[track_caller]
fn connect(path: &Path) -> UnixStream {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(client) => {
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                return client;
            }
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads until `text` has come.
#[track_caller]
fn hears(stream: &mut impl Read, text: &str) {
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

#[test]
fn a_socket_s_clients_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com2");
    // A dead socket is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let guest = Code::new().print_to(COM[1], "early\n");
    let guest = guest.bytes(&fs::read(&*echo(COM[1]).exit(0).file()).unwrap()).file();
    let serial = format!("unix:{}", path.display());
    let vm = Run::start(&mut run(&guest, &["--serial", "stdio", "--serial", &serial]));
    let mut first = connect(&path);
    hears(&mut first, "early\n");
    first.write_all(b"one").unwrap();
    hears(&mut first, "one");
    // The second waits until the first has gone.
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"two").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut byte = [0];
    assert_eq!(second.read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(first);
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    hears(&mut second, "two");
    drop(second);
    let mut third = connect(&path);
    third.write_all(b"q").unwrap();
    hears(&mut third, "q");
    vm.end().expect(0, &["ended with 0"]).printed("");
    assert_eq!(third.read(&mut byte).unwrap(), 0, "the end of the run is the end of the connection");
    assert!(!path.exists());
}

#[test]
fn a_socket_that_cannot_be_is_an_error_and_a_signal_removes_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com1");
    let serial = format!("unix:{}", path.display());
    let guest = Code::new().print_to(COM[1], "up").idle().file();
    let args = ["--serial", serial.as_str(), "--serial", "stdio"];
    let vm = {
        let mut vm = Run::start(&mut run(&guest, &args));
        vm.wait_for("up");
        vm
    };
    end_of(&mut run(&guest, &args)).expect(125, &["another process", "unix:PATH"]).printed("");
    vm.signal(libc::SIGTERM);
    vm.end().expect(143, &["signal 15"]);
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    end_of(&mut run(&guest, &args)).expect(125, &["no socket"]).printed("");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    end_of(&mut run(&guest, &["--serial", "unix:/no/such/folder/x"])).expect(125, &["/no/such/folder/x"]);
    end_of(&mut run(&guest, &["--serial", "unix:"])).expect(125, &["no file name"]);
}

/// What a guest writes for nobody is bounded, and its end is there for who comes.
#[test]
fn output_for_nobody_does_not_hold_up_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com2");
    let [low, high] = COM[1].to_le_bytes();
    let code = Code::new().bytes(&[
        0xbb, 0x40, 0x00, // mov bx, 64
        0xba, low, high, 0xb0, b'x', // mov dx, port; mov al, 'x'
        0xb9, 0x00, 0x10, // 1: mov cx, 4096
        0xee, 0xe2, 0xfd, // 2: out dx, al; loop 2b
        0x4b, 0x75, 0xf7, // dec bx; jnz 1b
    ]);
    let guest = code.print_to(COM[1], "last").print("done").wait_for_byte().exit(0).file();
    let serial = format!("unix:{}", path.display());
    let mut vm = Run::start(run(&guest, &["--serial", "stdio", "--serial", &serial]).stdin(Stdio::piped()));
    vm.wait_for("done");
    let mut client = connect(&path);
    hears(&mut client, &format!("{}last", "x".repeat((64 << 10) - 4)));
    vm.stdin().write_all(b"q").unwrap();
    vm.end().expect(0, &[]).printed("done");
}

#[test]
fn a_script_and_a_client_share_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com1");
    let guest = echo(COM[0]).exit(0).file();
    let serial = format!("unix:{}", path.display());
    let steps = ["--expect", "hello", "--send", "world", "--expect", "world"];
    let vm = Run::start(&mut run(&guest, &[&["--serial", serial.as_str()], &steps[..]].concat()));
    let mut client = connect(&path);
    client.write_all(b"hello").unwrap();
    hears(&mut client, "helloworld");
    vm.end().expect(0, &["all 2 steps"]).printed("");
}

/// The name of the pty that stderr tells, opened.
fn open_pty(vm: &mut Run, port: &str) -> (String, File) {
    vm.wait_for_stderr(&format!("{port} is /dev/"));
    vm.wait_for_stderr("\n");
    let said = vm.stderr_so_far();
    let (_, rest) = said.split_once(&format!("{port} is ")).unwrap();
    let name = rest.lines().next().unwrap().to_owned();
    let user = OpenOptions::new().read(true).write(true).open(&name).unwrap();
    (name, user)
}

#[test]
fn a_pty_s_users_come_and_go() {
    let guest = echo(COM[1]).exit(0).file();
    let mut vm = Run::start(&mut run(&guest, &["--serial", "stdio", "--serial", "pty"]));
    let (name, mut user) = open_pty(&mut vm, "COM2");
    // Raw: keys that a terminal would act on are bytes like others, and nothing is echoed twice.
    user.write_all(b"a\x03\r\n\x04").unwrap();
    hears(&mut user, "a\x03\r\n\x04");
    drop(user);
    let mut user = OpenOptions::new().read(true).write(true).open(&name).unwrap();
    user.write_all(b"bq").unwrap();
    hears(&mut user, "bq");
    vm.end().expect(0, &["ended with 0"]).printed("");
}

#[test]
fn a_pty_or_socket_that_was_left_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com3");
    let serial = format!("unix:{}", path.display());
    let guest = Code::new().print_to(COM[1], "two").print_to(COM[2], "three").idle().file();
    let args = ["--serial", "null", "--serial", "pty", "--serial", &serial];
    let mut vm = Run::start(&mut run(&guest, &args));
    let (_, mut user) = open_pty(&mut vm, "COM2");
    hears(&mut user, "two");
    let mut client = connect(&path);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    user.write_all(b"nobody reads this").unwrap();
    drop(user);
    let before = vm.cpu_ms();
    std::thread::sleep(Duration::from_secs(1));
    let used = vm.cpu_ms() - before;
    assert!(used < 200, "an idle guest used {used} ms of CPU time in a second");
    drop(client.read(&mut [0; 5]));
    drop(client);
    vm.signal(libc::SIGINT);
    vm.end().expect(130, &[]);
}

#[test]
fn four_ports() {
    let folder = tempfile::tempdir().unwrap();
    let (file, socket) = (folder.path().join("file"), folder.path().join("socket"));
    let mut code = Code::new();
    for (port, text) in COM.into_iter().zip(["first", "second", "third", "fourth"]) {
        code = code.print_to(port, text);
    }
    let guest = code.wait_for_byte().exit(0).file();
    let (file_arg, socket_arg) = (format!("file:{}", file.display()), format!("unix:{}", socket.display()));
    let args = ["--serial", "stdio", "--serial", &file_arg, "--serial", &socket_arg, "--serial", "pty"];
    let mut vm = Run::start(run(&guest, &args).stdin(Stdio::piped()));
    vm.wait_for("first");
    let (_, mut user) = open_pty(&mut vm, "COM4");
    hears(&mut user, "fourth");
    hears(&mut connect(&socket), "third");
    vm.stdin().write_all(b".").unwrap();
    vm.end().expect(0, &[]).printed("first");
    assert_eq!(fs::read_to_string(file).unwrap(), "second");
    let args = ["--serial", "stdio", "--serial", "stdio"];
    end_of(&mut run(&guest, &args)).expect(125, &["COM2"]);
    end_of(&mut run(&guest, &["--serial", &socket_arg, "--serial", &socket_arg])).expect(125, &["COM2"]);
}

/// The last output reaches a user who reads slowly.
#[test]
fn the_last_output_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com2");
    let serial = format!("unix:{}", path.display());
    let guest = Code::new().wait_for_byte().print_to(COM[1], "last words").print_to(COM[2], "last words");
    let guest = guest.exit(0).file();
    let args = ["--serial", "stdio", "--serial", &serial, "--serial", "pty"];
    let mut vm = Run::start(run(&guest, &args).stdin(Stdio::piped()));
    let (_, mut user) = open_pty(&mut vm, "COM3");
    let mut client = connect(&path);
    // The far end looks for a pty's user now and then.
    std::thread::sleep(Duration::from_millis(500));
    vm.stdin().write_all(b".").unwrap();
    hears(&mut user, "last words");
    vm.end().expect(0, &[]);
    hears(&mut client, "last words");
}

/// Stdin and a script type at the same port.
#[test]
fn stdin_and_a_script_share_a_port() {
    let guest = Code::new().print("up\n").bytes(&fs::read(&*echo(COM[0]).exit(0).file()).unwrap()).file();
    let args = ["--expect", "up", "--send", "script", "--expect", r"script(.|\n)*stdin|stdin(.|\n)*script"];
    let mut vm = Run::start(run(&guest, &args).stdin(Stdio::piped()));
    vm.wait_for("script");
    vm.stdin().write_all(b"stdin").unwrap();
    vm.end().expect(0, &["all 2 steps"]).printed("up\nscriptstdin");
}

/// A guest that knows the power button powers off when it is asked to.
#[test]
fn grace_lets_the_guest_power_off() {
    let guest = Code::new().print("up").bytes(&[
        0xba, 0x02, 0x06, 0xec, 0xa8, 0x01, 0x74, 0xfb, // mov dx, 0x602; 1: in al, dx; test al, 1; jz 1b
    ]);
    let guest = guest.print(" bye").bytes(&[0xba, 0x00, 0x06, 0xb0, 0x34, 0xee]).spin().file();
    let mut vm = Run::start(&mut run(&guest, &["--grace", "45s"]));
    vm.wait_for("up");
    let begin = Instant::now();
    vm.signal(libc::SIGINT);
    vm.end().expect(0, &["powered off"]).printed("up bye");
    assert!(begin.elapsed() < PATIENCE);
}
