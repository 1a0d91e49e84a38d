//! Start-up, exit rate and memory of `vm-accel` against a bare sequence of ioctls that does the same.
//!
//! `cargo bench --bench startup` runs both interleaved and prints medians and ratios. The baseline is
//! this very program, started again with `--bare-ok` or `--bare-exits`: open, create, map, run, print.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Interleaved runs of each side.
const RUNS: usize = 30;
/// Port I/O exits of the exit benchmark.
const EXITS: u32 = 50_000;
/// Guest RAM of both sides, in MiB.
const MEMORY_MIB: u32 = 128;

/// `O`, `K`, newline to COM1, then 0 to the debug exit port; 16-bit code.
const OK_GUEST: &[u8] =
    &[0xba, 0xf8, 0x03, 0xb0, b'O', 0xee, 0xb0, b'K', 0xee, 0xb0, b'\n', 0xee, 0x31, 0xc0, 0xe7, 0xf4, 0xf4];

/// `mov ecx, EXITS; 1: out 0x80, al; dec ecx; jnz 1b; xor ax, ax; out 0xf4, ax`; 16-bit code.
fn exits_guest() -> Vec<u8> {
    let mut code = vec![0x66, 0xb9];
    code.extend(EXITS.to_le_bytes());
    code.extend([0xe6, 0x80, 0x66, 0x49, 0x75, 0xfa, 0x31, 0xc0, 0xe7, 0xf4, 0xf4]);
    code
}

/// Median and peak of one side's runs.
struct Side {
    times: Vec<Duration>,
    peak_rss_kib: i64,
}

impl Side {
    fn new() -> Self {
        Self { times: Vec::new(), peak_rss_kib: 0 }
    }

    fn median_ms(&mut self) -> f64 {
        self.times.sort();
        self.times[self.times.len() / 2].as_secs_f64() * 1e3
    }

    /// Starts `command` and waits for it; its status must be 0.
    fn run(&mut self, command: &mut Command) {
        let start = Instant::now();
        #[expect(clippy::zombie_processes, reason = "wait4 below waits for it, and gives its memory use")]
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        let mut status = 0;
        // SAFETY: all-zero is a valid `rusage`.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the process is our child and nobody else waits for it; both pointers are valid.
        unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) };
        self.times.push(start.elapsed());
        assert_eq!(status, 0, "{command:?} ended with wait status {status:#x}");
        self.peak_rss_kib = self.peak_rss_kib.max(usage.ru_maxrss);
    }
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--bare-ok") => bare(OK_GUEST),
        Some("--bare-exits") => bare(&exits_guest()),
        _ => compare(),
    }
}

fn compare() -> ExitCode {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: cannot open /dev/kvm: {error}");
        return ExitCode::SUCCESS;
    }
    // Cargo has built the program with what the tests want of its dependencies; here it counts as it is.
    let built = Command::new(env!("CARGO")).args(["build", "--release", "--quiet"]).status();
    assert!(built.is_ok_and(|status| status.success()), "cargo build --release failed");
    let this = std::env::current_exe().expect("the program's own path");
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, mode, guest) in
        [("start to end", "--bare-ok", OK_GUEST.to_vec()), ("port I/O exits", "--bare-exits", exits_guest())]
    {
        let image = directory.path().join(name.replace([' ', '/'], "-"));
        std::fs::write(&image, guest).expect("the guest is written");
        let (mut bare, mut ours) = (Side::new(), Side::new());
        let runs = if mode == "--bare-ok" { RUNS } else { RUNS / 6 };
        for _ in 0..runs {
            bare.run(Command::new(&this).arg(mode));
            ours.run(
                Command::new(env!("CARGO_BIN_EXE_vm-accel"))
                    .args(["run", "--accel", "kvm", "--flat", "0x1000:real", "--memory"])
                    .arg(format!("{MEMORY_MIB}M"))
                    .arg(&image),
            );
        }
        let (bare_ms, ours_ms) = (bare.median_ms(), ours.median_ms());
        println!("{name}: bare {bare_ms:.2} ms, vm-accel {ours_ms:.2} ms, ratio {:.2}", ours_ms / bare_ms);
        if mode == "--bare-exits" {
            let rate = |ms: f64| f64::from(EXITS) / ms;
            println!(
                "{name} a second: bare {:.0} k, vm-accel {:.0} k, ratio {:.3}",
                rate(bare_ms),
                rate(ours_ms),
                bare_ms / ours_ms
            );
        }
        println!(
            "{name}, peak RSS: bare {} KiB, vm-accel {} KiB ({RUNS} runs at most, guest memory {MEMORY_MIB} MiB)",
            bare.peak_rss_kib, ours.peak_rss_kib
        );
    }
    ExitCode::SUCCESS
}

/// The least that a program must do to run `guest` in real mode on KVM.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn bare(guest: &[u8]) -> ExitCode {
    use kvm_bindings::{
        KVM_CAP_SPLIT_IRQCHIP, KVM_EXIT_IO, kvm_cpuid_entry2, kvm_cpuid2, kvm_enable_cap, kvm_regs, kvm_run,
        kvm_sregs, kvm_userspace_memory_region,
    };
    use std::io::Write;

    const CREATE_VM: libc::c_ulong = 0xae01;
    const GET_VCPU_MMAP_SIZE: libc::c_ulong = 0xae04;
    const GET_SUPPORTED_CPUID: libc::c_ulong = 0xc008_ae05;
    const CREATE_VCPU: libc::c_ulong = 0xae41;
    const SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_ae46;
    const ENABLE_CAP: libc::c_ulong = 0x4068_aea3;
    const RUN: libc::c_ulong = 0xae80;
    const SET_REGS: libc::c_ulong = 0x4090_ae82;
    const GET_SREGS: libc::c_ulong = 0x8138_ae83;
    const SET_SREGS: libc::c_ulong = 0x4138_ae84;
    const SET_CPUID2: libc::c_ulong = 0x4008_ae90;

    #[repr(C)]
    struct Cpuid {
        head: kvm_cpuid2,
        entries: [kvm_cpuid_entry2; 256],
    }

    /// Calls an ioctl with a pointer argument and checks its result.
    fn call<T>(fd: libc::c_int, request: libc::c_ulong, argument: *mut T) -> libc::c_int {
        // SAFETY: every caller passes the struct that the request reads or writes, or null.
        let result = unsafe { libc::ioctl(fd, request, argument) };
        assert!(result >= 0, "ioctl {request:#x}: {}", std::io::Error::last_os_error());
        result
    }
    fn map(bytes: usize, flags: libc::c_int, fd: libc::c_int) -> *mut u8 {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)
        };
        assert_ne!(address, libc::MAP_FAILED);
        address.cast()
    }
    let none = std::ptr::null_mut::<u8>();

    // SAFETY: a constant C string.
    let kvm = unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    assert!(kvm >= 0);
    let vm = call(kvm, CREATE_VM, none);
    let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [24, 0, 0, 0], ..Default::default() };
    call(vm, ENABLE_CAP, &raw mut split);
    let bytes = (MEMORY_MIB as usize) << 20;
    let memory = map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1);
    let mut region = kvm_userspace_memory_region {
        memory_size: bytes as u64,
        userspace_addr: memory as u64,
        ..Default::default()
    };
    call(vm, SET_USER_MEMORY_REGION, &raw mut region);
    // SAFETY: the guest is smaller than the mapping behind 0x1000.
    unsafe { std::ptr::copy_nonoverlapping(guest.as_ptr(), memory.add(0x1000), guest.len()) };
    let vcpu = call(vm, CREATE_VCPU, none);
    // SAFETY: all-zero is a valid value of these C structs.
    let mut cpuid: Cpuid = unsafe { std::mem::zeroed() };
    cpuid.head.nent = 256;
    call(kvm, GET_SUPPORTED_CPUID, &raw mut cpuid);
    call(vcpu, SET_CPUID2, &raw mut cpuid);
    let size = call(kvm, GET_VCPU_MMAP_SIZE, none) as usize;
    let run = map(size, libc::MAP_SHARED, vcpu).cast::<kvm_run>();
    let mut sregs = kvm_sregs::default();
    call(vcpu, GET_SREGS, &raw mut sregs);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    call(vcpu, SET_SREGS, &raw mut sregs);
    let mut regs = kvm_regs { rip: 0x1000, rflags: 2, ..Default::default() };
    call(vcpu, SET_REGS, &raw mut regs);
    let mut output = Vec::new();
    loop {
        call(vcpu, RUN, none);
        // SAFETY: `kvm_run` is mapped, and KVM fills the member that the exit reason names.
        let (reason, io) = unsafe { ((*run).exit_reason, (*run).__bindgen_anon_1.io) };
        assert_eq!(reason, KVM_EXIT_IO);
        match io.port {
            // SAFETY: the data of the exit lies inside the mapping.
            0x3f8 => output.push(unsafe { *run.cast::<u8>().add(io.data_offset as usize) }),
            0xf4 => break,
            _ => {}
        }
    }
    std::io::stdout().write_all(&output).expect("stdout takes the output");
    ExitCode::SUCCESS
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn bare(_guest: &[u8]) -> ExitCode {
    println!("skipped: KVM on x86-64 is not on this platform");
    ExitCode::FAILURE
}
