//! The host's processor: one instruction in this process.
//!
//! Registers are loaded, a jump leads to the instruction, and a signal's frame has the state afterwards:
//! what follows the instruction is INT3. The handler sends the thread back to where it came from.

use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::ptr;

use crate::machine::{CODE, CODE_PAGES, DATA, DATA_BYTES, DATA_PAGES, Fx, GS_BASE, Input, Outcome, PAGE};

/// Linux's selectors of user code.
const CODE_32: u64 = 0x23;
const CODE_64: i64 = 0x33;

/// What the assembly and the signal handler share; the assembly knows the offsets.
#[repr(C, align(64))]
struct Gate {
    host_rsp: u64,
    rflags: u64,
    gpr: [u64; 16],
    fx: Fx,
    target: u64,
    running: bool,
    signals: u32,
    vector: u64,
    error: u64,
    cr2: u64,
    rip: u64,
}

#[repr(transparent)]
struct Shared(UnsafeCell<Gate>);

// SAFETY: only the one thread that holds a `Native` uses the gate, and its signal handler.
unsafe impl Sync for Shared {}

static GATE: Shared = Shared(UnsafeCell::new(Gate {
    host_rsp: 0,
    rflags: 0,
    gpr: [0; 16],
    fx: Fx([0; 512]),
    target: 0,
    running: false,
    signals: 0,
    vector: 0,
    error: 0,
    cr2: 0,
    rip: 0,
}));

global_asm!(
    ".global differential_enter",
    "differential_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "lea rdi, [rip + {gate}]",
    "mov [rdi], rsp",
    "fxrstor64 [rdi + 144]",
    "push qword ptr [rdi + 8]",
    "popfq",
    "mov rax, [rdi + 16]",
    "mov rcx, [rdi + 24]",
    "mov rdx, [rdi + 32]",
    "mov rbx, [rdi + 40]",
    "mov rsp, [rdi + 48]",
    "mov rbp, [rdi + 56]",
    "mov rsi, [rdi + 64]",
    "mov r8, [rdi + 80]",
    "mov r9, [rdi + 88]",
    "mov r10, [rdi + 96]",
    "mov r11, [rdi + 104]",
    "mov r12, [rdi + 112]",
    "mov r13, [rdi + 120]",
    "mov r14, [rdi + 128]",
    "mov r15, [rdi + 136]",
    "mov rdi, [rdi + 72]",
    "jmp qword ptr [rip + {gate} + 656]",
    ".global differential_enter_32",
    "differential_enter_32:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "lea rdi, [rip + {gate}]",
    "mov [rdi], rsp",
    "fxrstor64 [rdi + 144]",
    "push qword ptr [rdi + 8]",
    "popfq",
    "mov eax, 0x2b",
    "mov ds, eax",
    "mov es, eax",
    "mov rax, [rdi + 16]",
    "mov rcx, [rdi + 24]",
    "mov rdx, [rdi + 32]",
    "mov rbx, [rdi + 40]",
    "mov rsp, [rdi + 48]",
    "mov rbp, [rdi + 56]",
    "mov rsi, [rdi + 64]",
    "mov r8, [rdi + 80]",
    "mov r9, [rdi + 88]",
    "mov r10, [rdi + 96]",
    "mov r11, [rdi + 104]",
    "mov r12, [rdi + 112]",
    "mov r13, [rdi + 120]",
    "mov r14, [rdi + 128]",
    "mov r15, [rdi + 136]",
    "mov rdi, [rdi + 72]",
    "jmp fword ptr [rip + {gate} + 656]",
    ".global differential_leave",
    "differential_leave:",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    gate = sym GATE,
);

unsafe extern "C" {
    fn differential_enter();
    fn differential_enter_32();
    fn differential_leave();
}

/// Where the registers, in the order of their encoding, are in a signal's frame.
const PLACES: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context; the gate is this thread's while it runs.
    unsafe {
        let gate = &mut *GATE.0.get();
        if !gate.running {
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        gate.running = false;
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let registers = &mut machine.gregs;
        for (to, from) in gate.gpr.iter_mut().zip(PLACES) {
            *to = registers[from as usize] as u64;
        }
        gate.rip = registers[libc::REG_RIP as usize] as u64;
        gate.rflags = registers[libc::REG_EFL as usize] as u64;
        gate.vector = registers[libc::REG_TRAPNO as usize] as u64;
        gate.error = registers[libc::REG_ERR as usize] as u64;
        gate.cr2 = registers[libc::REG_CR2 as usize] as u64;
        if signal == libc::SIGALRM {
            gate.vector = 0xff;
        }
        let image = machine.fpregs.cast::<u8>();
        ptr::copy_nonoverlapping(image, gate.fx.0.as_mut_ptr(), 512);
        ptr::copy_nonoverlapping(Fx::new().0.as_ptr(), image, 28);
        registers[libc::REG_RIP as usize] = differential_leave as *const () as i64;
        registers[libc::REG_RSP as usize] = gate.host_rsp as i64;
        registers[libc::REG_EFL as usize] = 0x202;
        registers[libc::REG_CSGSFS as usize] = registers[libc::REG_CSGSFS as usize] & !0xffff | CODE_64;
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: our own mappings, to which nothing refers any more; the alternate stack is no longer used.
        unsafe {
            for (at, pages) in
                [(CODE, CODE_PAGES), (DATA, DATA_PAGES), (self.alias.addr() as u64, CODE_PAGES + DATA_PAGES)]
            {
                libc::munmap(ptr::without_provenance_mut(at as usize), pages * PAGE);
            }
            let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            libc::sigaltstack(&raw const none, ptr::null_mut());
        }
    }
}

/// The mappings, and the handler's stack.
pub struct Native {
    /// Code and data, writable.
    alias: *mut u8,
    _stack: Vec<u8>,
}

impl Native {
    /// There can be only one at a time.
    pub fn new() -> Self {
        let mut stack = vec![0u8; 256 << 10];
        // SAFETY: the addresses are free in a process of this kind (MAP_FIXED_NOREPLACE fails where they
        // are not); the handler touches only the frame and the gate; GS is not used by user code on Linux.
        let alias = unsafe {
            let file = libc::memfd_create(c"differential".as_ptr(), 0);
            assert!(file >= 0, "no memfd");
            let size = (CODE_PAGES + DATA_PAGES) * PAGE;
            assert_eq!(libc::ftruncate(file, size as i64), 0);
            let map = |at: u64, pages: usize, page: usize, protection: i32| {
                let flags = libc::MAP_SHARED | if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
                let offset = (page * PAGE) as i64;
                let at = ptr::without_provenance_mut(at as usize);
                let got = libc::mmap(at, pages * PAGE, protection, flags, file, offset);
                assert_ne!(got, libc::MAP_FAILED, "cannot map at {at:?}");
                got.cast::<u8>()
            };
            let (r, w, x) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
            map(CODE, CODE_PAGES, 0, r | x);
            map(DATA, DATA_PAGES - 1, CODE_PAGES, r | w);
            map(DATA + ((DATA_PAGES - 1) * PAGE) as u64, 1, CODE_PAGES + DATA_PAGES - 1, r);
            let alias = map(0, CODE_PAGES + DATA_PAGES, 0, r | w);
            libc::close(file);
            ptr::write_bytes(alias, 0xcc, CODE_PAGES * PAGE);
            let alternate =
                libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
            assert_eq!(libc::sigaltstack(&raw const alternate, ptr::null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in
                [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGTRAP, libc::SIGALRM]
            {
                assert_eq!(libc::sigaction(signal, &raw const action, ptr::null_mut()), 0);
            }
            const ARCH_SET_GS: i64 = 0x1001;
            assert_eq!(libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, GS_BASE), 0);
            alias
        };
        Self { alias, _stack: stack }
    }

    /// Executes the instruction.
    pub fn run(&mut self, input: &Input) -> Outcome {
        let offset = (input.rip - CODE) as usize;
        let room = CODE_PAGES * PAGE - offset;
        let len = input.code.len().min(room);
        // SAFETY: the bytes are inside the mappings; the assembly keeps what the ABI wants kept, and the
        // instruction has been chosen to touch nothing but what is reset or saved around it.
        unsafe {
            ptr::copy_nonoverlapping(input.code.as_ptr(), self.alias.add(offset), len);
            let data = self.alias.add(CODE_PAGES * PAGE);
            ptr::copy_nonoverlapping(input.data.as_ptr(), data, DATA_BYTES);
            let gate = GATE.0.get();
            (*gate).gpr = input.gpr;
            (*gate).rflags = input.rflags;
            (*gate).fx = input.fx.clone();
            (*gate).target = input.rip;
            // A page that is not in the page tables would show in a fault's error code.
            ptr::read_volatile(ptr::with_exposed_provenance::<u8>((DATA as usize) + DATA_BYTES - 1));
            (*gate).running = true;
            if input.bits == 64 {
                differential_enter();
            } else {
                // Behind the offset comes the selector.
                (*gate).target |= CODE_32 << 32;
                differential_enter_32();
            }
            ptr::write_bytes(self.alias.add(offset), 0xcc, len);
            let gate = &*gate;
            Outcome {
                vector: gate.vector as u8,
                error: gate.error,
                cr2: gate.cr2,
                rip: gate.rip,
                gpr: gate.gpr,
                rflags: gate.rflags,
                fx: gate.fx.clone(),
                data: std::slice::from_raw_parts(data, DATA_BYTES).to_vec(),
            }
        }
    }
}
