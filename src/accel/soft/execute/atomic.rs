//! Read-modify-write of memory, LOCK included: XCHG, XADD, CMPXCHG and its wide forms.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Flow;
use super::operand::{operand_size, register_offset};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::{kind, rflags};
use crate::accel::soft::integer::Int;
use crate::accel::soft::state::Cpu;

/// Held for locked accesses that no host atomic can do: across a cache line or page, 16 bytes wide,
/// or of MMIO.
static BUS_LOCK: Mutex<()> = Mutex::new(());

/// Changes the integer at a host address atomically; gives the old and the new value.
///
/// # Safety
/// `T::BYTES` bytes of guest RAM are mapped at `host`, which is naturally aligned.
unsafe fn host_modify<T: Int>(host: usize, change: impl Fn(T) -> T) -> (T, T) {
    macro_rules! exchange_loop {
        ($atomic:ty) => {{
            // SAFETY: the caller vouches for the bytes and the alignment.
            let cell = unsafe { <$atomic>::from_ptr(std::ptr::with_exposed_provenance_mut(host)) };
            let mut old = cell.load(Ordering::Relaxed);
            loop {
                let new = change(T::from_u64(old.into()));
                let value = new.to_u64() as _;
                match cell.compare_exchange_weak(old, value, Ordering::SeqCst, Ordering::Relaxed) {
                    Ok(_) => {
                        // A locked instruction is a full barrier, also for accesses without alignment
                        // behind it. On x86-64 the exchange is one by itself.
                        if cfg!(not(target_arch = "x86_64")) {
                            fence(Ordering::SeqCst);
                        }
                        return (T::from_u64(old.into()), new);
                    }
                    Err(now) => old = now,
                }
            }
        }};
    }
    match T::BYTES {
        1 => exchange_loop!(AtomicU8),
        2 => exchange_loop!(AtomicU16),
        4 => exchange_loop!(AtomicU32),
        _ => exchange_loop!(AtomicU64),
    }
}

impl Cpu {
    /// Reads, changes and writes memory, atomically with `lock`; gives the old and the new value.
    /// `change` may be called several times.
    #[inline]
    pub(in crate::accel::soft) fn modify<T: Int>(
        &mut self,
        la: u64,
        lock: bool,
        change: impl Fn(T) -> T,
    ) -> Exec<(T, T)> {
        if lock {
            return self.modify_locked(la, change);
        }
        // The store's rights come first: a read-modify-write faults as a store.
        let old: T = self.load_for_store(la)?;
        let new = change(old);
        self.store(la, new)?;
        Ok((old, new))
    }

    fn modify_locked<T: Int>(&mut self, la: u64, change: impl Fn(T) -> T) -> Exec<(T, T)> {
        if la.is_multiple_of(T::BYTES)
            && let Some((host, gpa)) = self.host_for_store(la, T::BYTES)?
        {
            // SAFETY: `host_for_store` vouches for the bytes; host pages are aligned as guest pages
            // are, so the alignment is `la`'s.
            let values = unsafe { host_modify(host, change) };
            if let Some(gpa) = gpa {
                self.code_written(gpa, T::BYTES);
            }
            return Ok(values);
        }
        let guard = BUS_LOCK.lock();
        let old: T = self.load_for_store(la)?;
        let new = change(old);
        self.store(la, new)?;
        drop(guard);
        Ok((old, new))
    }
}

/// XCHG; with memory it is always locked.
pub fn xchg(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let (memory, register) = if i.op0_kind() == OpKind::Memory { (0, 1) } else { (1, 0) };
        let offset = register_offset(i.op_register(register));
        let value: T = cpu.reg(offset);
        if i.op_kind(memory) == OpKind::Memory {
            let la = cpu.memory_operand(i, T::BYTES, true)?;
            let (old, _) = cpu.modify(la, true, |_| value)?;
            cpu.set_reg(offset, old);
        } else {
            let other = register_offset(i.op_register(memory));
            let old: T = cpu.reg(other);
            cpu.set_reg(other, value);
            cpu.set_reg(offset, old);
        }
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i),
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// XADD.
pub fn xadd(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let offset = register_offset(i.op1_register());
        let b: T = cpu.reg(offset);
        let sum = |a: T| T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
        let (old, new) = if i.op0_kind() == OpKind::Memory {
            let la = cpu.memory_operand(i, T::BYTES, true)?;
            let values = cpu.modify(la, i.has_lock_prefix(), sum)?;
            cpu.set_reg(offset, values.0);
            values
        } else {
            let first = register_offset(i.op0_register());
            let old: T = cpu.reg(first);
            cpu.set_reg(offset, old);
            cpu.set_reg(first, sum(old));
            (old, sum(old))
        };
        let _ = old;
        cpu.set_lazy(kind::ADD, new, b);
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i),
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// CMPXCHG.
pub fn cmpxchg(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let accumulator: T = cpu.reg(0);
        let source: T = cpu.reg(register_offset(i.op1_register()));
        let old = if i.op0_kind() == OpKind::Memory {
            let la = cpu.memory_operand(i, T::BYTES, true)?;
            let exchange = |a: T| if a == accumulator { source } else { a };
            cpu.modify(la, i.has_lock_prefix(), exchange)?.0
        } else {
            let offset = register_offset(i.op0_register());
            let old: T = cpu.reg(offset);
            if old == accumulator {
                cpu.set_reg(offset, source);
            }
            old
        };
        if old != accumulator {
            cpu.set_reg(0, old);
        }
        let difference = T::from_u64(accumulator.to_u64().wrapping_sub(old.to_u64()));
        cpu.set_lazy(kind::SUB, difference, old);
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i),
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// CMPXCHG8B and CMPXCHG16B.
pub fn cmpxchg_wide(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let zero = if i.mnemonic() == Mnemonic::Cmpxchg16b {
        let la = cpu.memory_operand(i, 16, true)?;
        if !la.is_multiple_of(16) {
            return cpu.general_protection();
        }
        wide(cpu, la)?
    } else {
        let la = cpu.memory_operand(i, 8, true)?;
        let expected = cpu.gpr[2] << 32 | cpu.gpr[0] & 0xffff_ffff;
        let desired = cpu.gpr[1] << 32 | cpu.gpr[3] & 0xffff_ffff;
        let exchange = |a: u64| if a == expected { desired } else { a };
        let (old, _) = cpu.modify(la, i.has_lock_prefix(), exchange)?;
        if old != expected {
            cpu.gpr[0] = old & 0xffff_ffff;
            cpu.gpr[2] = old >> 32;
        }
        old == expected
    };
    let flags = cpu.lazy.arithmetic() & !rflags::ZF | if zero { rflags::ZF } else { 0 };
    cpu.set_arithmetic(flags);
    Ok(Flow::Next)
}

/// The exchange of CMPXCHG16B: whether it took place.
fn wide(cpu: &mut Cpu, la: u64) -> Exec<bool> {
    let expected = (cpu.gpr[0], cpu.gpr[2]);
    let desired = (cpu.gpr[3], cpu.gpr[1]);
    let old = match cpu.host_for_store(la, 16)? {
        Some((host, gpa)) => {
            // SAFETY: `host_for_store` vouches for 16 bytes, which `la` aligns.
            let old = unsafe { host_exchange_16(host, expected, desired) };
            if let Some(gpa) = gpa {
                cpu.code_written(gpa, 16);
            }
            old
        }
        None => {
            let guard = BUS_LOCK.lock();
            let old = (cpu.load::<u64>(la)?, cpu.load::<u64>(la.wrapping_add(8))?);
            let new = if old == expected { desired } else { old };
            cpu.store(la, new.0)?;
            cpu.store(la.wrapping_add(8), new.1)?;
            drop(guard);
            old
        }
    };
    if old != expected {
        (cpu.gpr[0], cpu.gpr[2]) = old;
    }
    Ok(old == expected)
}

/// Compares and exchanges 16 bytes; gives the old value.
///
/// # Safety
/// 16 bytes of guest RAM are mapped at `host`, aligned by 16.
#[cfg(target_arch = "x86_64")]
unsafe fn host_exchange_16(host: usize, expected: (u64, u64), desired: (u64, u64)) -> (u64, u64) {
    let place = std::ptr::with_exposed_provenance_mut::<u64>(host);
    let (mut low, mut high) = expected;
    // SAFETY: CMPXCHG16B of aligned, mapped bytes (every x86-64 host of the last 15 years has it); rbx,
    // which the compiler keeps for itself, is restored.
    unsafe {
        std::arch::asm!(
            "xchg {low_new}, rbx",
            "lock cmpxchg16b [{place}]",
            "mov rbx, {low_new}",
            low_new = inout(reg) desired.0 => _,
            place = in(reg) place,
            inout("rax") low,
            inout("rdx") high,
            in("rcx") desired.1,
            options(nostack),
        );
    }
    (low, high)
}

/// Compares and exchanges 16 bytes; gives the old value.
///
/// # Safety
/// 16 bytes of guest RAM are mapped at `host`, aligned by 16.
#[cfg(target_arch = "aarch64")]
unsafe fn host_exchange_16(host: usize, expected: (u64, u64), desired: (u64, u64)) -> (u64, u64) {
    let place = std::ptr::with_exposed_provenance_mut::<u64>(host);
    let (low, high): (u64, u64);
    // SAFETY: a load-store pair of aligned, mapped bytes. The old value is written back where it is not
    // the expected one: only a store that succeeds proves that both halves were read at one time.
    unsafe {
        std::arch::asm!(
            "2:",
            "ldaxp {low}, {high}, [{place}]",
            "cmp {low}, {expected_low}",
            "ccmp {high}, {expected_high}, #0, eq",
            "csel {next_low}, {desired_low}, {low}, eq",
            "csel {next_high}, {desired_high}, {high}, eq",
            "stlxp {failed:w}, {next_low}, {next_high}, [{place}]",
            "cbnz {failed:w}, 2b",
            "dmb ish",
            low = out(reg) low,
            high = out(reg) high,
            next_low = out(reg) _,
            next_high = out(reg) _,
            failed = out(reg) _,
            place = in(reg) place,
            expected_low = in(reg) expected.0,
            expected_high = in(reg) expected.1,
            desired_low = in(reg) desired.0,
            desired_high = in(reg) desired.1,
            options(nostack),
        );
    }
    (low, high)
}

/// As above, for hosts without such an instruction: atomic among the vCPUs' own wide exchanges.
///
/// # Safety
/// 16 bytes of guest RAM are mapped at `host`, aligned by 16.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn host_exchange_16(host: usize, expected: (u64, u64), desired: (u64, u64)) -> (u64, u64) {
    let guard = BUS_LOCK.lock();
    // SAFETY: the caller vouches for the bytes and the alignment.
    let (low, high) = unsafe {
        (
            AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(host)),
            AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(host + 8)),
        )
    };
    let old = (low.load(Ordering::SeqCst), high.load(Ordering::SeqCst));
    if old == expected {
        low.store(desired.0, Ordering::SeqCst);
        high.store(desired.1, Ordering::SeqCst);
    }
    drop(guard);
    old
}
