//! Small byte sequences in each mode, through blocks and one by one.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::abort::AbortReason;
use super::flags::rflags;
use super::memory::{Access, Answer};
use super::ram::Ram;
use super::run::Stop;
use super::state::{Cpu, Mode, cr0, cr4, efer, pending, seg};
use crate::accel::Segment;
use crate::memory::{self, GuestMemory};

const CODE: u64 = 0x8000;
const DATA: u64 = 0x2_0000;
const STACK: u64 = 0x3_0000;
/// Tables: level 4 at 0x1000, 3 at 0x2000, 2 at 0x3000, 1 at 0x4000 for the first 2 MiB.
const TABLES: u64 = 0x1000;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const DIRTY_ACCESSED: u64 = 0x60;

fn ram() -> GuestMemory {
    memory::allocate(4 << 20).unwrap()
}

fn flat(code: bool) -> Segment {
    Segment {
        limit: u32::MAX,
        type_: if code { 11 } else { 3 },
        present: true,
        s: true,
        g: true,
        db: true,
        ..Segment::default()
    }
}

fn real(memory: &GuestMemory, code: &[u8]) -> Cpu {
    memory.write_slice(code, GuestAddress(CODE)).unwrap();
    let mut cpu = Cpu::new(0, Ram::new(memory));
    cpu.seg[seg::CS].base = 0;
    cpu.seg[seg::CS].selector = 0;
    cpu.rip = CODE;
    cpu.gpr[4] = 0x7000;
    cpu
}

fn protected(memory: &GuestMemory, code: &[u8]) -> Cpu {
    let mut cpu = real(memory, code);
    cpu.seg = [flat(false); 6];
    cpu.seg[seg::CS] = flat(true);
    cpu.cr0 |= cr0::PE;
    cpu.gpr[4] = STACK;
    cpu.update_mode();
    cpu
}

fn page_entry(memory: &GuestMemory, page: u64) -> u64 {
    memory.read_obj(GuestAddress(TABLES + 0x3000 + page * 8)).unwrap()
}

fn set_page_entry(memory: &GuestMemory, page: u64, value: u64) {
    memory.write_obj(value, GuestAddress(TABLES + 0x3000 + page * 8)).unwrap();
}

fn long(memory: &GuestMemory, code: &[u8]) -> Cpu {
    let mut cpu = protected(memory, code);
    for level in 0..3 {
        let next = (TABLES + 0x1000 * (level + 1)) | PRESENT | WRITE | USER;
        memory.write_obj(next, GuestAddress(TABLES + 0x1000 * level)).unwrap();
    }
    for page in 0..512 {
        set_page_entry(memory, page, page << 12 | PRESENT | WRITE | USER);
    }
    cpu.seg[seg::CS].l = true;
    cpu.seg[seg::CS].db = false;
    cpu.cr3 = TABLES;
    cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.efer = efer::LME | efer::LMA | efer::NXE;
    cpu.cr0 |= cr0::PG | cr0::WP;
    cpu.update_mode();
    assert_eq!(cpu.mode, Mode::Long);
    cpu
}

/// Runs to the HLT that ends the code.
fn run(cpu: &mut Cpu) {
    assert_eq!(cpu.execute(), Stop::Halted);
}

#[test]
fn real_mode_counts_and_calls() {
    let memory = ram();
    // mov cx, 10; xor ax, ax; 1: call f; loop 1b; hlt; f: add ax, cx; ret
    let code = [0xb9, 10, 0, 0x31, 0xc0, 0xe8, 3, 0, 0xe2, 0xfb, 0xf4, 0x01, 0xc8, 0xc3];
    let mut cpu = real(&memory, &code);
    run(&mut cpu);
    assert_eq!(cpu.gpr[0] & 0xffff, 55);
    assert_eq!(cpu.gpr[4], 0x7000);
}

#[test]
fn protected_mode_checks_the_limit_of_a_segment() {
    let memory = ram();
    // mov eax, [0x20000]; hlt
    let mut cpu = protected(&memory, &[0xa1, 0, 0, 2, 0, 0xf4]);
    cpu.seg[seg::DS].limit = 0x1ffff;
    assert!(cpu.step().is_err());
    assert!(matches!(cpu.abort, AbortReason::Exception(e) if e.vector == 13 && e.error_code == Some(0)));
    assert_eq!(cpu.rip, CODE);
}

#[test]
fn long_mode_sums_memory_and_chains_blocks() {
    let memory = ram();
    for n in 0..100u64 {
        memory.write_obj(n, GuestAddress(DATA + 8 * n)).unwrap();
    }
    // xor eax, eax; mov ecx, 100; 1: add rax, [rsi+rcx*8-8]; dec ecx; jnz 1b; hlt
    let code = [0x31, 0xc0, 0xb9, 100, 0, 0, 0, 0x48, 0x03, 0x44, 0xce, 0xf8, 0xff, 0xc9, 0x75, 0xf7, 0xf4];
    let mut cpu = long(&memory, &code);
    cpu.gpr[6] = DATA;
    run(&mut cpu);
    assert_eq!(cpu.gpr[0], 4950);
}

#[test]
fn movbe_reverses_the_bytes_of_what_it_moves() {
    let memory = ram();
    let code = [
        &[0x48, 0x0f, 0x38, 0xf0, 0x06][..], // movbe rax, [rsi]
        &[0x0f, 0x38, 0xf0, 0x1e],           // movbe ebx, [rsi]
        &[0x66, 0x0f, 0x38, 0xf0, 0x0e],     // movbe cx, [rsi]
        &[0x48, 0x0f, 0x38, 0xf1, 0x56, 16], // movbe [rsi+16], rdx
        &[0x0f, 0x38, 0xf1, 0x56, 24],       // movbe [rsi+24], edx
        &[0x66, 0x0f, 0x38, 0xf1, 0x56, 28], // movbe [rsi+28], dx
        &[0xf4],
    ]
    .concat();
    let mut cpu = long(&memory, &code);
    memory.write_slice(&[1, 2, 3, 4, 5, 6, 7, 8], GuestAddress(DATA)).unwrap();
    cpu.gpr = [u64::MAX; 16];
    (cpu.gpr[2], cpu.gpr[4], cpu.gpr[6]) = (0x1122_3344_5566_7788, STACK, DATA);
    run(&mut cpu);
    assert_eq!(cpu.gpr[0], 0x0102_0304_0506_0708);
    assert_eq!(cpu.gpr[3], 0x0102_0304, "the upper half is cleared");
    assert_eq!(cpu.gpr[1], 0xffff_ffff_ffff_0102, "the rest is kept");
    let mut stored = [0; 15];
    memory.read_slice(&mut stored, GuestAddress(DATA + 16)).unwrap();
    let expected = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x55, 0x66, 0x77, 0x88, 0x77, 0x88, 0];
    assert_eq!(stored, expected);
}

#[test]
fn walks_set_accessed_and_dirty_bits_and_faults_say_why() {
    let memory = ram();
    let mut cpu = long(&memory, &[0xf4]);
    cpu.read_u64(DATA, Access::Current).unwrap();
    assert_eq!(page_entry(&memory, DATA >> 12) & DIRTY_ACCESSED, 0x20);
    cpu.write_u64(DATA, 7, Access::Current).unwrap();
    assert_eq!(page_entry(&memory, DATA >> 12) & DIRTY_ACCESSED, 0x60);

    let faults = |cpu: &mut Cpu, code: u32| {
        assert!(
            matches!(cpu.abort, AbortReason::Exception(e) if e.vector == 14 && e.error_code == Some(code))
        );
        assert_eq!(cpu.cr2, DATA);
        cpu.abort = AbortReason::None;
    };
    set_page_entry(&memory, DATA >> 12, DATA | PRESENT | USER);
    cpu.invlpg(DATA);
    cpu.read_u8(DATA, Access::Current).unwrap();
    assert!(cpu.write_u8(DATA, 1, Access::Current).is_err());
    faults(&mut cpu, 3);
    set_page_entry(&memory, DATA >> 12, DATA | PRESENT | WRITE);
    cpu.invlpg(DATA);
    assert!(cpu.read_u8(DATA, Access::User).is_err());
    faults(&mut cpu, 5);
    set_page_entry(&memory, DATA >> 12, DATA | PRESENT | 1 << 45);
    cpu.invlpg(DATA);
    assert!(cpu.read_u8(DATA, Access::Current).is_err());
    faults(&mut cpu, 9);
    set_page_entry(&memory, DATA >> 12, 0);
    cpu.invlpg(DATA);
    assert!(cpu.write_u8(DATA, 1, Access::Current).is_err());
    faults(&mut cpu, 2);
}

#[test]
fn a_stale_translation_lives_until_it_is_flushed() {
    let memory = ram();
    let mut cpu = long(&memory, &[0xf4]);
    memory.write_obj(0x11u8, GuestAddress(DATA)).unwrap();
    memory.write_obj(0x22u8, GuestAddress(DATA + 0x1000)).unwrap();
    assert_eq!(cpu.read_u8(DATA, Access::Current), Ok(0x11));
    set_page_entry(&memory, DATA >> 12, (DATA + 0x1000) | PRESENT | WRITE | 0x100);
    assert_eq!(cpu.read_u8(DATA, Access::Current), Ok(0x11));
    cpu.cr4 |= cr4::PGE;
    cpu.flush_tlb_nonglobal();
    assert_eq!(cpu.read_u8(DATA, Access::Current), Ok(0x22));
    set_page_entry(&memory, DATA >> 12, DATA | PRESENT | WRITE);
    cpu.flush_tlb_nonglobal();
    assert_eq!(cpu.read_u8(DATA, Access::Current), Ok(0x22), "a global page stays");
    cpu.invlpg(DATA);
    assert_eq!(cpu.read_u8(DATA, Access::Current), Ok(0x11));
}

#[test]
fn accesses_across_pages_and_the_end_of_memory() {
    let memory = ram();
    let mut cpu = long(&memory, &[0xf4]);
    cpu.write_u64(DATA + 0xffd, 0x1122_3344_5566_7788, Access::Current).unwrap();
    assert_eq!(cpu.read_u64(DATA + 0xffd, Access::Current), Ok(0x1122_3344_5566_7788));
    assert!(cpu.read_u64(0x8000_0000_0000, Access::Current).is_err());
    assert!(matches!(cpu.abort, AbortReason::Exception(e) if e.vector == 13));
}

#[test]
fn code_that_changes_itself_is_seen_at_once() {
    let memory = ram();
    // mov byte ptr [rip+1], 5; mov al, 1; hlt: the immediate of the next instruction changes.
    let code = [0xc6, 0x05, 1, 0, 0, 0, 5, 0xb0, 1, 0xf4];
    let mut cpu = long(&memory, &code);
    run(&mut cpu);
    assert_eq!(cpu.gpr[0] & 0xff, 5);
}

#[test]
fn rewritten_code_replaces_its_block() {
    let memory = ram();
    // mov al, 1; hlt
    let mut cpu = long(&memory, &[0xb0, 1, 0xf4]);
    run(&mut cpu);
    cpu.write_u8(CODE + 1, 9, Access::Current).unwrap();
    cpu.rip = CODE;
    cpu.halted = false;
    run(&mut cpu);
    assert_eq!(cpu.gpr[0] & 0xff, 9);
}

#[test]
fn a_fault_inside_rep_movs_leaves_the_registers_at_the_next_iteration() {
    let memory = ram();
    // rep movsb; hlt
    let mut cpu = long(&memory, &[0xf3, 0xa4, 0xf4]);
    (cpu.gpr[6], cpu.gpr[7], cpu.gpr[1]) = (DATA, DATA + 0x1ff0, 0x100);
    set_page_entry(&memory, (DATA >> 12) + 2, 0);
    assert!(cpu.step().is_ok(), "the first page is done");
    assert!(cpu.step().is_err());
    assert_eq!((cpu.gpr[6], cpu.gpr[7], cpu.gpr[1]), (DATA + 16, DATA + 0x2000, 0xf0));
    assert_eq!(cpu.cr2, DATA + 0x2000);
}

#[test]
fn overlapping_rep_movs_repeats_the_pattern() {
    let memory = ram();
    memory.write_slice(b"abc", GuestAddress(DATA)).unwrap();
    let mut cpu = long(&memory, &[0xf3, 0xa4, 0xf4]);
    (cpu.gpr[6], cpu.gpr[7], cpu.gpr[1]) = (DATA, DATA + 3, 9);
    run(&mut cpu);
    let mut bytes = [0; 12];
    memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    assert_eq!(&bytes, b"abcabcabcabc");
}

#[test]
fn strings_go_down_with_the_direction_flag() {
    let memory = ram();
    // std; rep stosw; hlt
    let mut cpu = long(&memory, &[0xfd, 0xf3, 0x66, 0xab, 0xf4]);
    (cpu.gpr[0], cpu.gpr[7], cpu.gpr[1]) = (0x4241, DATA + 6, 3);
    run(&mut cpu);
    let mut bytes = [0; 8];
    memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    assert_eq!(&bytes, b"\0\0ABABAB");
    assert_eq!((cpu.gpr[7], cpu.gpr[1]), (DATA, 0));
}

#[test]
fn mmio_is_answered_by_replay() {
    let memory = ram();
    // add dword ptr [rbx], 1; hlt
    let mut cpu = protected(&memory, &[0x83, 0x03, 1, 0xf4]);
    cpu.gpr[3] = 0xd000_0000;
    assert_eq!(cpu.execute(), Stop::Abort(AbortReason::MmioRead { gpa: 0xd000_0000, size: 4 }));
    assert_eq!(cpu.rip, CODE);
    cpu.replay.push(Answer::Read(41));
    let write = AbortReason::MmioWrite { gpa: 0xd000_0000, size: 4, value: 42 };
    assert_eq!(cpu.execute(), Stop::Abort(write));
    cpu.replay.push(Answer::Write);
    run(&mut cpu);
    assert_eq!(cpu.rip, CODE + 4);
}

#[test]
fn a_locked_access_may_cross_a_page() {
    let memory = ram();
    // lock add dword ptr [rbx], eax; hlt
    let mut cpu = long(&memory, &[0xf0, 0x01, 0x03, 0xf4]);
    (cpu.gpr[0], cpu.gpr[3]) = (0x0102_0304, DATA + 0xffe);
    run(&mut cpu);
    assert_eq!(memory.read_obj::<u32>(GuestAddress(DATA + 0xffe)).unwrap(), 0x0102_0304);
}

#[test]
fn a_kick_ends_an_endless_loop() {
    let memory = ram();
    let mut cpu = long(&memory, &[0xeb, 0xfe]);
    let events = std::sync::Arc::clone(&cpu.pending);
    let thread = std::thread::spawn(move || cpu.execute());
    events.fetch_or(pending::KICK, std::sync::atomic::Ordering::Release);
    assert_eq!(thread.join().unwrap(), Stop::Kicked);
}

#[test]
fn an_sti_that_ends_its_block_still_holds_off_interrupts() {
    let memory = ram();
    // The last byte of a page; hlt in the next one.
    let mut cpu = long(&memory, &[0xf4]);
    memory.write_obj(0xf4fbu16, GuestAddress(CODE + 0xfff)).unwrap();
    cpu.rip = CODE + 0xfff;
    let first = cpu.block().unwrap().unwrap();
    let op = std::ptr::from_ref(&cpu.cache.ops[first as usize]);
    // SAFETY: the cache's vector does not move.
    let (handler, op) = unsafe { ((*op).handler.get(), &*op) };
    assert!(handler(&mut cpu, op).is_null());
    assert_eq!((cpu.rip, cpu.interrupt_shadow), (CODE + 0x1000, true));
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.interrupt_shadow), (CODE + 0x1001, false));
}

#[test]
fn a_limit_of_instructions_is_kept_exactly() {
    let memory = ram();
    // 1: inc eax; jmp 1b
    let mut cpu = long(&memory, &[0xff, 0xc0, 0xeb, 0xfc]);
    for most in [1u64, 7, 63, 64, 65, 1000, 1001] {
        cpu.gpr[0] = 0;
        cpu.rip = CODE;
        cpu.clear_cache();
        cpu.budget = Some(most);
        assert_eq!(cpu.execute(), Stop::Spent);
        assert_eq!((cpu.gpr[0], cpu.budget), (most.div_ceil(2), Some(0)));
    }
    // An instruction that faults counts, or a handler that faults would never end.
    cpu.idt.limit = 0;
    cpu.rip = CODE;
    memory.write_obj(0x0b0fu16, GuestAddress(CODE)).unwrap();
    cpu.clear_cache();
    cpu.budget = Some(1000);
    assert_eq!(cpu.execute(), Stop::Abort(AbortReason::TripleFault));
}

#[test]
fn flat_code_calls_and_returns_across_pages() {
    let memory = ram();
    // mov ecx, 100; 1: call f; dec ecx; jnz 1b; hlt; f, in the next page: inc eax; ret
    let code = [0xb9, 100, 0, 0, 0, 0xe8, 0xf6, 0x0f, 0, 0, 0x49, 0x75, 0xf8, 0xf4];
    let mut cpu = protected(&memory, &code);
    memory.write_obj(0xc340u16, GuestAddress(CODE + 0x1000)).unwrap();
    assert!(cpu.flat);
    // What is above 32 bits does not exist.
    cpu.gpr[4] |= 0xffff_0000_0000_0000;
    run(&mut cpu);
    assert_eq!((cpu.gpr[0], cpu.gpr[4]), (100, STACK));
}

#[test]
fn a_segment_that_is_not_flat_has_other_blocks() {
    let memory = ram();
    memory.write_obj(0x1234_5678u32, GuestAddress(DATA)).unwrap();
    // mov eax, [0x20000]; hlt
    let mut cpu = protected(&memory, &[0xa1, 0, 0, 2, 0, 0xf4]);
    cpu.idt.limit = 0;
    for _ in 0..2 {
        cpu.gpr[0] = 0;
        (cpu.rip, cpu.halted) = (CODE, false);
        run(&mut cpu);
        assert_eq!(cpu.gpr[0], 0x1234_5678);
    }
    for limit in [DATA as u32 + 2, u32::MAX] {
        cpu.seg[seg::DS].limit = limit;
        cpu.update_mode();
        (cpu.rip, cpu.halted) = (CODE, false);
        let stop = cpu.execute();
        assert_eq!(stop == Stop::Halted, limit == u32::MAX);
    }
}

#[test]
fn addresses_of_flat_code_wrap_and_those_of_its_segments_end_at_the_limit() {
    let memory = ram();
    memory.write_obj(0x1234_5678u32, GuestAddress(DATA)).unwrap();
    // mov eax, [ebx+0x30000]; mov ecx, fs:[-4]; hlt
    let code = [0x8b, 0x83, 0, 0, 3, 0, 0x64, 0x8b, 0x0d, 0xfc, 0xff, 0xff, 0xff, 0xf4];
    let mut cpu = protected(&memory, &code);
    cpu.seg[seg::FS].base = DATA + 4;
    cpu.idt.limit = 0;
    cpu.update_mode();
    cpu.gpr[3] = 0xffff_0000;
    for _ in 0..2 {
        (cpu.gpr[0], cpu.gpr[1]) = (0, 0);
        (cpu.rip, cpu.halted) = (CODE, false);
        run(&mut cpu);
        assert_eq!((cpu.gpr[0], cpu.gpr[1]), (0x1234_5678, 0x1234_5678));
    }
    // Two bytes are beyond the last offset, although the page is one that has just been read.
    cpu.write_u8(CODE + 9, 0xfe, Access::Current).unwrap();
    (cpu.rip, cpu.halted) = (CODE, false);
    assert_eq!(cpu.execute(), Stop::Abort(AbortReason::TripleFault));
    // A store to what may only be read.
    memory.write_slice(&[0x64, 0x88, 0x0d, 0, 0, 0, 0, 0xf4], GuestAddress(CODE)).unwrap();
    for (type_, stop) in [(1, Stop::Abort(AbortReason::TripleFault)), (3, Stop::Halted)] {
        cpu.clear_cache();
        cpu.seg[seg::FS].type_ = type_;
        cpu.update_mode();
        (cpu.rip, cpu.halted) = (CODE, false);
        assert_eq!(cpu.execute(), stop);
    }
}

/// Instructions of registers RAX to RBX and of memory at RSI, without control transfers.
const MENU: &[&[u8]] = &[
    &[0x48, 0x01, 0xc8],             // add rax, rcx
    &[0x11, 0xd1],                   // adc ecx, edx
    &[0x66, 0x29, 0xda],             // sub dx, bx
    &[0x18, 0xe3],                   // sbb bl, ah
    &[0x48, 0x83, 0xe1, 0xf5],       // and rcx, -11
    &[0x80, 0xcf, 0x41],             // or bh, 0x41
    &[0x48, 0x31, 0x06],             // xor [rsi], rax
    &[0x03, 0x56, 0x04],             // add edx, [rsi+4]
    &[0xff, 0xc0],                   // inc eax
    &[0x66, 0xff, 0xc9],             // dec cx
    &[0x48, 0xf7, 0xda],             // neg rdx
    &[0xf6, 0xd3],                   // not bl
    &[0x48, 0xc1, 0xe0, 0x07],       // shl rax, 7
    &[0xd3, 0xea],                   // shr edx, cl
    &[0x48, 0xd3, 0xfb],             // sar rbx, cl
    &[0xd1, 0xe1],                   // shl ecx, 1
    &[0x48, 0x0f, 0xaf, 0xc1],       // imul rax, rcx
    &[0x6b, 0xd3, 0x9c],             // imul edx, ebx, -100
    &[0x48, 0xf7, 0xe3],             // mul rbx
    &[0x0f, 0x9c, 0xc3],             // setl bl
    &[0x48, 0x0f, 0x47, 0xd9],       // cmova rbx, rcx
    &[0x0f, 0x42, 0xc2],             // cmovb eax, edx
    &[0x0f, 0xb6, 0xcf],             // movzx ecx, bh
    &[0x48, 0x63, 0xd0],             // movsxd rdx, eax
    &[0x66, 0x0f, 0xbe, 0x06],       // movsx ax, [rsi]
    &[0x48, 0x0f, 0xc9],             // bswap rcx
    &[0x48, 0x8d, 0x44, 0x91, 0x05], // lea rax, [rcx+rdx*4+5]
    &[0x87, 0xd9],                   // xchg ecx, ebx
    &[0x48, 0x0f, 0xba, 0xe0, 0x2b], // bt rax, 43
    &[0x3a, 0x46, 0x03],             // cmp al, [rsi+3]
    &[0xf7, 0x46, 0x08, 1, 2, 3, 4], // test dword ptr [rsi+8], imm
    &[0x50, 0x5b],                   // push rax; pop rbx
    &[0x48, 0x39, 0xd0, 0x7c, 0x00], // cmp rax, rdx; jl +0
    &[0x84, 0xc9, 0x74, 0x00],       // test cl, cl; jz +0
    &[0x9c, 0x8f, 0x06],             // pushfq; pop [rsi]
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The specialised handlers do what the general forms do.
    #[test]
    fn blocks_agree_with_single_steps(
        choice in prop::collection::vec(0..MENU.len(), 1..30),
        registers in prop::array::uniform4(any::<u64>()),
        data in any::<[u8; 16]>(),
        flags in any::<u64>(),
    ) {
        let mut code: Vec<u8> = Vec::new();
        let chosen = choice.iter().map(|&n| MENU[n]);
        for bytes in chosen {
            code.extend(bytes);
        }
        let end = CODE + code.len() as u64;
        code.push(0xf4);
        let outcome = |blocks: bool| {
            let memory = ram();
            let mut cpu = long(&memory, &code);
            cpu.gpr[..4].copy_from_slice(&registers);
            cpu.gpr[6] = DATA;
            memory.write_slice(&data, GuestAddress(DATA)).unwrap();
            cpu.set_rflags(flags & rflags::ARITHMETIC);
            if blocks {
                run(&mut cpu);
            } else {
                while cpu.rip != end {
                    cpu.step().unwrap();
                }
            }
            let bytes: [u8; 16] = memory.read_obj(GuestAddress(DATA)).unwrap();
            (cpu.gpr, cpu.rflags(), bytes)
        };
        prop_assert_eq!(outcome(true), outcome(false));
    }

    /// Whatever the bytes are, nothing panics, in any mode.
    #[test]
    fn random_bytes_do_not_panic(code in prop::collection::vec(any::<u8>(), 1..200), mode in 0..3) {
        let memory = ram();
        let mut cpu = match mode {
            0 => real(&memory, &code),
            1 => protected(&memory, &code),
            _ => long(&memory, &code),
        };
        for _ in 0..100 {
            if cpu.step().is_err() {
                break;
            }
        }
    }
}
