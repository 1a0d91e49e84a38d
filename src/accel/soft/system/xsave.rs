//! FXSAVE, the XSAVE family, XCR0, MXCSR and PKRU: what the instructions check, and their memory accesses
//! (Intel SDM vol. 1, 10.5 and chapter 13).

#![forbid(unsafe_code)]

use iced_x86::Instruction;

use super::super::abort::{Exec, vector};
use super::super::fxsave::{
    self, Form, LEGACY_BYTES, MXCSR_MASK, Registers, SaveKind, XSAVE_BYTES, component,
};
use super::super::memory::Access;
use super::super::state::{Cpu, Mode, cr0, cr4};
use super::operand;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;

fn registers(cpu: &mut Cpu) -> Registers<'_> {
    Registers { x87: &mut cpu.x87, xmm: &mut cpu.xmm, mxcsr: &mut cpu.mxcsr, pkru: &mut cpu.pkru }
}

fn form(cpu: &Cpu, wide_pointers: bool) -> Form {
    Form { wide_pointers, long: cpu.mode == Mode::Long }
}

/// EDX:EAX.
fn edx_eax(cpu: &Cpu) -> u64 {
    cpu.gpr[RDX] << 32 | cpu.gpr[RAX] & 0xffff_ffff
}

fn require_available(cpu: &mut Cpu, blocked: u64) -> Exec {
    if cpu.cr0 & blocked != 0 { cpu.raise(vector::NM, None) } else { Ok(()) }
}

fn require_osxsave(cpu: &mut Cpu) -> Exec {
    if cpu.cr4 & cr4::OSXSAVE == 0 { cpu.undefined() } else { Ok(()) }
}

/// The linear address of an area of `size` bytes, aligned to `alignment`.
fn area_address(
    cpu: &mut Cpu,
    instruction: &Instruction,
    size: usize,
    alignment: u64,
    write: bool,
) -> Exec<u64> {
    let linear = operand::linear(cpu, instruction, 0, size as u64, write)?;
    if linear % alignment != 0 {
        return cpu.general_protection();
    }
    Ok(linear)
}

/// Writes an area back, but only what has changed in it.
fn write_changes(cpu: &mut Cpu, linear: u64, old: &[u8], new: &[u8]) -> Exec {
    for (at, (old, new)) in (0u64..).step_by(8).zip(old.chunks(8).zip(new.chunks(8))) {
        if old != new {
            cpu.write_bytes(linear.wrapping_add(at), new, Access::Current)?;
        }
    }
    Ok(())
}

/// FXSAVE.
///
/// # Errors
/// #NM; #GP(0) for a misaligned area; the faults of the store.
pub fn fxsave(cpu: &mut Cpu, instruction: &Instruction, wide: bool) -> Exec {
    require_available(cpu, cr0::EM | cr0::TS)?;
    let linear = area_address(cpu, instruction, LEGACY_BYTES, 16, true)?;
    cpu.probe_write(linear, LEGACY_BYTES as u64, Access::Current)?;
    let mut old = [0; LEGACY_BYTES];
    cpu.read_bytes(linear, &mut old, Access::Current)?;
    let mut new = old;
    let form = form(cpu, wide);
    fxsave::fxsave(&mut new, &registers(cpu), form);
    write_changes(cpu, linear, &old, &new)
}

/// FXRSTOR.
///
/// # Errors
/// #NM; #GP(0) for a misaligned area or reserved bits of MXCSR; the faults of the load.
pub fn fxrstor(cpu: &mut Cpu, instruction: &Instruction, wide: bool) -> Exec {
    require_available(cpu, cr0::EM | cr0::TS)?;
    let linear = area_address(cpu, instruction, LEGACY_BYTES, 16, false)?;
    let mut area = [0; LEGACY_BYTES];
    cpu.read_bytes(linear, &mut area, Access::Current)?;
    let form = form(cpu, wide);
    if fxsave::fxrstor(&area, &mut registers(cpu), form).is_err() {
        return cpu.general_protection();
    }
    Ok(())
}

/// XSAVE, XSAVEOPT, XSAVEC.
///
/// # Errors
/// #UD without CR4.OSXSAVE; #NM; #GP(0) for a misaligned area; the faults of the store.
pub fn xsave(cpu: &mut Cpu, instruction: &Instruction, wide: bool, kind: SaveKind) -> Exec {
    require_osxsave(cpu)?;
    require_available(cpu, cr0::TS)?;
    let requested = edx_eax(cpu) & cpu.xcr0;
    let size = fxsave::area_bytes(requested);
    let linear = area_address(cpu, instruction, size, 64, true)?;
    cpu.probe_write(linear, size as u64, Access::Current)?;
    let mut old = [0; XSAVE_BYTES];
    cpu.read_bytes(linear, &mut old[..size], Access::Current)?;
    let mut new = old;
    let form = form(cpu, wide);
    fxsave::xsave(&mut new, &registers(cpu), form, requested, kind);
    write_changes(cpu, linear, &old, &new)
}

/// XRSTOR.
///
/// # Errors
/// #UD without CR4.OSXSAVE; #NM; #GP(0) for a misaligned or invalid area; the faults of the load.
pub fn xrstor(cpu: &mut Cpu, instruction: &Instruction, wide: bool) -> Exec {
    require_osxsave(cpu)?;
    require_available(cpu, cr0::TS)?;
    let xcr0 = cpu.xcr0;
    let requested = edx_eax(cpu) & xcr0;
    let size = fxsave::area_bytes(requested);
    let linear = area_address(cpu, instruction, size, 64, false)?;
    let mut area = [0; XSAVE_BYTES];
    cpu.read_bytes(linear, &mut area[..size], Access::Current)?;
    let form = form(cpu, wide);
    let mut pkru = cpu.pkru;
    let mut registers =
        Registers { x87: &mut cpu.x87, xmm: &mut cpu.xmm, mxcsr: &mut cpu.mxcsr, pkru: &mut pkru };
    if fxsave::xrstor(&area, &mut registers, form, requested, xcr0).is_err() {
        return cpu.general_protection();
    }
    cpu.set_protection_keys(pkru, cpu.pkrs);
    Ok(())
}

/// XGETBV: XCR0, or which of its components are in use.
///
/// # Errors
/// #UD without CR4.OSXSAVE; #GP(0) for a register that does not exist.
pub fn xgetbv(cpu: &mut Cpu) -> Exec {
    require_osxsave(cpu)?;
    let value = match cpu.gpr[RCX] as u32 {
        0 => cpu.xcr0,
        1 => fxsave::in_use(&registers(cpu)) & cpu.xcr0,
        _ => return cpu.general_protection(),
    };
    cpu.gpr[RAX] = value & 0xffff_ffff;
    cpu.gpr[RDX] = value >> 32;
    Ok(())
}

/// XSETBV.
///
/// # Errors
/// #UD without CR4.OSXSAVE; #GP(0) but at CPL 0, or for a value that XCR0 does not take.
pub fn xsetbv(cpu: &mut Cpu) -> Exec {
    require_osxsave(cpu)?;
    cpu.require_cpl0()?;
    let value = edx_eax(cpu);
    if cpu.gpr[RCX] as u32 != 0 || value & component::X87 == 0 || value & !component::ALL != 0 {
        return cpu.general_protection();
    }
    cpu.xcr0 = value;
    Ok(())
}

/// RDPKRU.
///
/// # Errors
/// #UD without CR4.PKE; #GP(0) unless ECX is 0.
pub fn rdpkru(cpu: &mut Cpu) -> Exec {
    require_pke(cpu)?;
    if cpu.gpr[RCX] as u32 != 0 {
        return cpu.general_protection();
    }
    cpu.gpr[RAX] = u64::from(cpu.pkru);
    cpu.gpr[RDX] = 0;
    Ok(())
}

/// WRPKRU.
///
/// # Errors
/// #UD without CR4.PKE; #GP(0) unless ECX and EDX are 0.
pub fn wrpkru(cpu: &mut Cpu) -> Exec {
    require_pke(cpu)?;
    if cpu.gpr[RCX] as u32 != 0 || cpu.gpr[RDX] as u32 != 0 {
        return cpu.general_protection();
    }
    cpu.set_protection_keys(cpu.gpr[RAX] as u32, cpu.pkrs);
    Ok(())
}

fn require_pke(cpu: &mut Cpu) -> Exec {
    if cpu.cr4 & cr4::PKE == 0 { cpu.undefined() } else { Ok(()) }
}

fn require_sse(cpu: &mut Cpu) -> Exec {
    if cpu.cr0 & cr0::EM != 0 || cpu.cr4 & cr4::OSFXSR == 0 {
        return cpu.undefined();
    }
    require_available(cpu, cr0::TS)
}

/// LDMXCSR.
///
/// # Errors
/// #UD, #NM; #GP(0) for reserved bits; the faults of the load.
pub fn ldmxcsr(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    require_sse(cpu)?;
    let value = operand::read(cpu, instruction, 0, 4)? as u32;
    if value & !MXCSR_MASK != 0 {
        return cpu.general_protection();
    }
    cpu.mxcsr = value;
    Ok(())
}

/// STMXCSR.
///
/// # Errors
/// #UD, #NM; the faults of the store.
pub fn stmxcsr(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    require_sse(cpu)?;
    operand::write(cpu, instruction, 0, 4, u64::from(cpu.mxcsr))
}
