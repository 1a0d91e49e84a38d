//! Each instruction against the host's own x87: a piece of machine code loads a random state by FXRSTOR,
//! executes the instruction and saves the state by FXSAVE.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::samples::Random;
use super::*;

/// A page that holds the code under test.
struct CodePage(*mut u8);

impl CodePage {
    fn new() -> Self {
        // SAFETY: a fresh private mapping touches no other memory.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED, "no executable page for the test");
        Self(page.cast())
    }

    /// Runs the instruction; `registers` is RFLAGS and RAX, in and out.
    fn run(
        &self,
        instruction: [u8; 2],
        before: &Image,
        after: &mut Image,
        memory: &mut [u8; 128],
        registers: &mut [u64; 2],
    ) {
        #[rustfmt::skip]
        let code = [
            0x0f, 0xae, 0x0f, // fxrstor [rdi]
            0x48, 0x8b, 0x41, 0x08, // mov rax, [rcx + 8]
            0xff, 0x31, // push [rcx]
            0x9d, // popfq
            instruction[0], instruction[1],
            0x9c, // pushfq
            0x8f, 0x01, // pop [rcx]
            0x48, 0x89, 0x41, 0x08, // mov [rcx + 8], rax
            0x0f, 0xae, 0x06, // fxsave [rsi]
            0xdb, 0xe3, // fninit
            0xc3, // ret
        ];
        // SAFETY: the page is ours, writable, and longer than the code.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.0, code.len()) };
        // SAFETY: the page holds a complete function that uses only caller-saved registers, the pointers
        // that it is given and the x87 unit, which it leaves initialised. XMM registers and MXCSR are
        // loaded from `before`, hence the clobbers and the MXCSR of `Image::of`.
        unsafe {
            std::arch::asm!(
                "call {code}",
                code = in(reg) self.0,
                in("rdi") before,
                in("rsi") after,
                in("rdx") memory,
                in("rcx") registers,
                clobber_abi("sysv64"),
            );
        }
    }
}

impl Drop for CodePage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nothing refers to it.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

/// The image of FXSAVE.
#[repr(C, align(16))]
struct Image([u8; 512]);

impl Image {
    fn of(x87: &X87) -> Self {
        let mut image = [0; 512];
        image[0..2].copy_from_slice(&x87.control.to_le_bytes());
        image[2..4].copy_from_slice(&x87.status.to_le_bytes());
        image[4] = x87.tag;
        image[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        for i in 0..8 {
            image[32 + 16 * i..42 + 16 * i].copy_from_slice(&x87.st(i).to_bytes());
        }
        Self(image)
    }

    fn x87(&self) -> X87 {
        let word = |at: usize| u16::from_le_bytes([self.0[at], self.0[at + 1]]);
        let mut x87 = X87 { control: word(0), status: word(2), tag: self.0[4], ..X87::default() };
        for i in 0..8 {
            let register = (x87.top() + i) & 7;
            x87.regs[register] = F80::from_bytes(self.0[32 + 16 * i..42 + 16 * i].try_into().unwrap());
        }
        x87
    }
}

/// Runs one instruction both ways; what differs, if anything does.
fn differs(page: &CodePage, random: &mut Random, opcode: u8, modrm: u8) -> Option<String> {
    let memory_operand = memory_operand(opcode, modrm, true)?;
    let before = random.state();
    let mut memory = random.memory();
    if (opcode, modrm) == (0xdd, 0x22) || (opcode, modrm) == (0xd9, 0x22) {
        // What is loaded must not have pending exceptions, which FXSAVE would not mind but `ret` might.
        memory[4] = 0;
    }
    let given = memory;
    let rflags = 0x202 | random.next() & 0x8d5;
    let mut registers = [rflags, 0x1234_5678];
    let mut after = Image([0; 512]);
    page.run([opcode, modrm], &Image::of(&before), &mut after, &mut memory, &mut registers);
    let mut expected = after.x87();

    let mut x87 = before.clone();
    let length = match memory_operand {
        MemoryOperand::None => 0,
        MemoryOperand::Load(length) | MemoryOperand::Store(length) => usize::from(length),
    };
    let inputs = Inputs { memory: &given[..length], rflags, wide: true, ..Inputs::default() };
    let effects = match x87.execute(opcode, modrm, &inputs) {
        Ok(effects) => effects,
        Err(fault) => return Some(format!("fault {fault:?}")),
    };
    let mut ours = given;
    if let Some(stored) = effects.stored() {
        ours[..length].copy_from_slice(&stored[..length]);
    }
    let mut our_registers = [rflags, 0x1234_5678];
    match effects {
        Effects::Rflags(rflags) => our_registers[0] = rflags,
        Effects::Ax(ax) => our_registers[1] = 0x1234_0000 | u64::from(ax),
        _ => {}
    }
    // The pointers are not in what AMD's FXSAVE stores.
    for state in [&mut x87, &mut expected] {
        (state.opcode, state.ip, state.cs, state.dp, state.ds) = (0, 0, 0, 0, 0);
        // FCMOVcc and FCOMI: C1 is cleared on Intel's processors, not on AMD's.
        if matches!((opcode, modrm), (0xda | 0xdb, 0xc0..=0xdf) | (0xdb | 0xdf, 0xe8..=0xf7)) {
            state.status &= !status::C1;
        }
    }
    if modrm < 0xc0 && matches!((opcode, modrm >> 3), (0xd9 | 0xdd, 6)) {
        ours[12..28].fill(0);
        memory[12..28].fill(0);
    }
    if x87 == expected && ours == memory && our_registers == registers {
        return None;
    }
    let mut text = format!("{opcode:02x} {modrm:02x}:\n");
    for (name, state) in [("before", &before), ("ours", &x87), ("host", &expected)] {
        let _ =
            write!(text, "  {name:6} cw {:04x} sw {:04x} tag {:08b}", state.control, state.status, state.tag);
        for i in 0..8 {
            let a = state.st(i);
            let changed =
                name == "before" || state.regs[(state.top() + i) & 7] != before.regs[(state.top() + i) & 7];
            if changed && (i < 2 || name != "before" || modrm & 7 == i as u8 && modrm >= 0xc0) {
                let _ = write!(text, " st{i} {:04x}:{:016x}", a.sign_exponent, a.mantissa);
            }
        }
        text.push('\n');
    }
    if ours != memory || length != 0 {
        let _ = writeln!(
            text,
            "  memory {:02x?}\n  ours   {:02x?}\n  host   {:02x?}",
            &given[..length.max(10)],
            &ours[..length.max(10)],
            &memory[..length.max(10)]
        );
    }
    if our_registers != registers {
        let _ = writeln!(text, "  rflags, rax: ours {our_registers:x?} host {registers:x?}");
    }
    Some(text)
}

#[test]
fn every_instruction_does_what_the_host_does() {
    let page = CodePage::new();
    let mut random = Random::seeded();
    let rounds = Random::rounds(400);
    let mut failures: BTreeMap<(u8, u8), (u32, String)> = BTreeMap::new();
    for opcode in 0xd8..=0xdf {
        // Memory operands are all [rdx].
        for modrm in (0..8).map(|field| field << 3 | 2).chain(0xc0..=0xff) {
            for _ in 0..rounds {
                if let Some(text) = differs(&page, &mut random, opcode, modrm) {
                    let entry = failures.entry((opcode, modrm & 0xf8)).or_insert((0, text));
                    entry.0 += 1;
                }
            }
        }
    }
    let text: String =
        failures.values().map(|(count, text)| format!("{count} times, the first: {text}")).collect();
    assert!(failures.is_empty(), "{text}");
}
