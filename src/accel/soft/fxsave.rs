//! The memory images of FXSAVE and XSAVE (SDM vol. 1, 10.5 and 13.4), as functions over byte arrays.
//!
//! The caller reads the area, lets a function here change it, and writes it back: bytes that the instruction
//! does not write stay what they were. Alignment, CR0, CR4 and CPL are the caller's to check.
#![forbid(unsafe_code)]

use super::x87::{F80, X87};
use crate::accel::X86FpuRegs;

/// Bytes of the legacy area: FXSAVE's image.
pub const LEGACY_BYTES: usize = 512;
/// Bytes of the area of XSAVE before its extended components: the legacy area and the header.
pub const HEADER_END: usize = 576;
/// Where PKRU is, in either form: no other component lies between.
pub const PKRU_OFFSET: usize = HEADER_END;
/// Bytes of PKRU's component.
pub const PKRU_BYTES: usize = 8;
/// Bytes of the area of XSAVE with all components.
pub const XSAVE_BYTES: usize = PKRU_OFFSET + PKRU_BYTES;
/// The bits of MXCSR that exist, DAZ among them.
pub const MXCSR_MASK: u32 = 0xffff;
/// MXCSR after a reset.
pub const MXCSR_INIT: u32 = 0x1f80;

/// Bits of XCR0, XSTATE_BV and the requested-feature bitmap.
pub mod component {
    /// The x87 unit.
    pub const X87: u64 = 1 << 0;
    /// XMM0 to XMM15 and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// PKRU.
    pub const PKRU: u64 = 1 << 9;
    /// All that there are.
    pub const ALL: u64 = X87 | SSE | PKRU;
}

/// Bytes of an area for the `components`.
#[must_use]
pub const fn area_bytes(components: u64) -> usize {
    if components & component::PKRU == 0 { HEADER_END } else { XSAVE_BYTES }
}

/// XCOMP_BV's bit for the compacted form.
const COMPACTED: u64 = 1 << 63;

/// The registers that the images hold.
#[derive(Debug)]
pub struct Registers<'a> {
    /// The x87 unit.
    pub x87: &'a mut X87,
    /// XMM0 to XMM15.
    pub xmm: &'a mut [u128; 16],
    /// MXCSR.
    pub mxcsr: &'a mut u32,
    /// PKRU.
    pub pkru: &'a mut u32,
}

/// Which form of the image the mode and the prefixes make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// REX.W: the x87 pointers have 64 bits and no selectors.
    pub wide_pointers: bool,
    /// 64-bit mode: XMM8 to XMM15 are part of it.
    pub long: bool,
}

impl Form {
    const fn xmm_registers(self) -> usize {
        if self.long { 16 } else { 8 }
    }
}

/// The image is not valid: the instruction raises #GP(0) and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// Which instruction of the XSAVE family saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveKind {
    /// XSAVE: standard form, all requested components.
    Xsave,
    /// XSAVEOPT: standard form without components that are in their initial state.
    Xsaveopt,
    /// XSAVEC: compacted form without components that are in their initial state.
    Xsavec,
}

fn put<const N: usize>(area: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(to) = area.get_mut(at..at + N) {
        to.copy_from_slice(&bytes);
    }
}

fn get<const N: usize>(area: &[u8], at: usize) -> [u8; N] {
    area.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

/// Writes FXSAVE's image.
pub fn fxsave(area: &mut [u8; LEGACY_BYTES], registers: &Registers<'_>, form: Form) {
    save_x87(area, registers.x87, form);
    save_mxcsr(area, *registers.mxcsr);
    save_xmm(area, registers.xmm, form);
}

/// Loads FXRSTOR's image.
///
/// # Errors
/// A reserved bit of MXCSR is set.
pub fn fxrstor(area: &[u8; LEGACY_BYTES], registers: &mut Registers<'_>, form: Form) -> Result<(), Invalid> {
    let mxcsr = load_mxcsr(area)?;
    load_x87(area, registers.x87, form);
    *registers.mxcsr = mxcsr;
    load_xmm(area, registers.xmm, form);
    Ok(())
}

/// The components that are not in their initial state: XINUSE, as XGETBV with ECX = 1 gives it (masked by
/// XCR0).
#[must_use]
pub fn in_use(registers: &Registers<'_>) -> u64 {
    let x87 = if *registers.x87 == X87::default() { 0 } else { component::X87 };
    let sse = if registers.xmm.iter().all(|&xmm| xmm == 0) && *registers.mxcsr == MXCSR_INIT {
        0
    } else {
        component::SSE
    };
    let pkru = if *registers.pkru == 0 { 0 } else { component::PKRU };
    x87 | sse | pkru
}

/// Writes the area of XSAVE, XSAVEOPT or XSAVEC. `requested` is EDX:EAX already masked by XCR0.
pub fn xsave(
    area: &mut [u8; XSAVE_BYTES],
    registers: &Registers<'_>,
    form: Form,
    requested: u64,
    kind: SaveKind,
) {
    let in_use = in_use(registers);
    let written = if kind == SaveKind::Xsave { requested } else { requested & in_use };
    if written & component::X87 != 0 {
        save_x87(area, registers.x87, form);
    }
    if written & component::SSE != 0 {
        save_xmm(area, registers.xmm, form);
    }
    if written & component::PKRU != 0 {
        put(area, PKRU_OFFSET, u64::from(*registers.pkru).to_le_bytes());
    }
    // The standard forms write MXCSR whether or not the XMM registers are in use.
    let mxcsr = if kind == SaveKind::Xsavec { written } else { requested };
    if mxcsr & component::SSE != 0 {
        save_mxcsr(area, *registers.mxcsr);
    }
    if kind == SaveKind::Xsavec {
        put(area, 512, (requested & in_use).to_le_bytes());
        put(area, 520, (COMPACTED | requested).to_le_bytes());
    } else {
        let kept = u64::from_le_bytes(get(area, 512)) & !requested;
        put(area, 512, (kept | requested & in_use).to_le_bytes());
    }
}

/// Loads the area of XRSTOR in either form. `requested` is EDX:EAX already masked by `xcr0`.
///
/// # Errors
/// The header names components that `xcr0` does not enable or has reserved bits set, or MXCSR has.
pub fn xrstor(
    area: &[u8; XSAVE_BYTES],
    registers: &mut Registers<'_>,
    form: Form,
    requested: u64,
    xcr0: u64,
) -> Result<(), Invalid> {
    let present = u64::from_le_bytes(get(area, 512));
    let layout = u64::from_le_bytes(get(area, 520));
    let compacted = layout & COMPACTED != 0;
    let reserved = |bytes: &[u8]| bytes.iter().any(|&byte| byte != 0);
    let valid = if compacted {
        layout & !COMPACTED & !xcr0 == 0
            && present & !layout == 0
            && present & COMPACTED == 0
            && !reserved(&area[528..576])
    } else {
        layout == 0 && present & !xcr0 == 0 && !reserved(&area[528..536])
    };
    if !valid {
        return Err(Invalid);
    }
    let sse = requested & component::SSE != 0;
    let sse_present = present & component::SSE != 0;
    let mxcsr = match sse {
        false => *registers.mxcsr,
        // The standard form loads MXCSR even if the XMM registers are in their initial state.
        true if sse_present || !compacted => load_mxcsr(area)?,
        true => MXCSR_INIT,
    };
    if requested & component::X87 != 0 {
        if present & component::X87 != 0 {
            load_x87(area, registers.x87, form);
        } else {
            *registers.x87 = X87::default();
        }
    }
    if sse {
        if sse_present {
            load_xmm(area, registers.xmm, form);
        } else {
            registers.xmm[..form.xmm_registers()].fill(0);
        }
    }
    if requested & component::PKRU != 0 {
        let value = u32::from_le_bytes(get(area, PKRU_OFFSET));
        *registers.pkru = if present & component::PKRU == 0 { 0 } else { value };
    }
    *registers.mxcsr = mxcsr;
    Ok(())
}

fn save_x87(area: &mut [u8], x87: &X87, form: Form) {
    put(area, 0, x87.control.to_le_bytes());
    put(area, 2, x87.status.to_le_bytes());
    put(area, 4, [x87.tag, 0]);
    put(area, 6, (x87.opcode & 0x7ff).to_le_bytes());
    for (at, pointer, selector) in [(8, x87.ip, x87.cs), (16, x87.dp, x87.ds)] {
        let narrow = pointer & 0xffff_ffff | u64::from(selector) << 32;
        put(area, at, if form.wide_pointers { pointer } else { narrow }.to_le_bytes());
    }
    for i in 0..8 {
        put(area, 32 + 16 * i, x87.st(i).to_bytes());
        put(area, 42 + 16 * i, [0; 6]);
    }
}

fn load_x87(area: &[u8], x87: &mut X87, form: Form) {
    let word = |at| u16::from_le_bytes(get(area, at));
    x87.status = word(2);
    x87.tag = get::<1>(area, 4)[0];
    x87.opcode = word(6) & 0x7ff;
    let pointer = |at| {
        let pointer = u64::from_le_bytes(get(area, at));
        if form.wide_pointers { (pointer, 0) } else { (pointer & 0xffff_ffff, (pointer >> 32) as u16) }
    };
    (x87.ip, x87.cs) = pointer(8);
    (x87.dp, x87.ds) = pointer(16);
    for i in 0..8 {
        let register = (x87.top() + i) & 7;
        x87.regs[register] = F80::from_bytes(get(area, 32 + 16 * i));
    }
    x87.set_control(word(0));
}

fn save_mxcsr(area: &mut [u8], mxcsr: u32) {
    put(area, 24, mxcsr.to_le_bytes());
    put(area, 28, MXCSR_MASK.to_le_bytes());
}

fn load_mxcsr(area: &[u8]) -> Result<u32, Invalid> {
    let mxcsr = u32::from_le_bytes(get(area, 24));
    if mxcsr & !MXCSR_MASK == 0 { Ok(mxcsr) } else { Err(Invalid) }
}

fn save_xmm(area: &mut [u8], xmm: &[u128; 16], form: Form) {
    for (i, register) in xmm.iter().take(form.xmm_registers()).enumerate() {
        put(area, 160 + 16 * i, register.to_le_bytes());
    }
}

fn load_xmm(area: &[u8], xmm: &mut [u128; 16], form: Form) {
    for (i, register) in xmm.iter_mut().take(form.xmm_registers()).enumerate() {
        *register = u128::from_le_bytes(get(area, 160 + 16 * i));
    }
}

/// The registers as the other backends name them: in stack order, without the pointers' selectors.
#[must_use]
pub fn to_fpu_regs(x87: &X87, xmm: &[u128; 16], mxcsr: u32) -> X86FpuRegs {
    let mut regs = X86FpuRegs {
        fcw: x87.control,
        fsw: x87.status,
        ftwx: x87.tag,
        last_opcode: x87.opcode,
        last_ip: x87.ip,
        last_dp: x87.dp,
        xmm: xmm.map(u128::to_le_bytes),
        mxcsr,
        ..X86FpuRegs::default()
    };
    for (i, bytes) in regs.fpr.iter_mut().enumerate() {
        put(bytes, 0, x87.st(i).to_bytes());
    }
    regs
}

/// The registers of `to_fpu_regs` put back: the x87 unit, XMM0 to XMM15 and MXCSR.
#[must_use]
pub fn from_fpu_regs(regs: &X86FpuRegs) -> (X87, [u128; 16], u32) {
    let mut x87 = X87 {
        status: regs.fsw,
        tag: regs.ftwx,
        opcode: regs.last_opcode & 0x7ff,
        ip: regs.last_ip,
        dp: regs.last_dp,
        ..X87::default()
    };
    for (i, bytes) in regs.fpr.iter().enumerate() {
        let register = (x87.top() + i) & 7;
        x87.regs[register] = F80::from_bytes(get(bytes, 0));
    }
    x87.set_control(regs.fcw);
    (x87, regs.xmm.map(u128::from_le_bytes), regs.mxcsr & MXCSR_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Form = Form { wide_pointers: true, long: true };

    struct State {
        x87: X87,
        xmm: [u128; 16],
        mxcsr: u32,
        pkru: u32,
    }

    impl State {
        fn initial() -> Self {
            Self { x87: X87::default(), xmm: [0; 16], mxcsr: MXCSR_INIT, pkru: 0 }
        }

        fn busy() -> Self {
            let mut x87 = X87 { tag: 0b1100_0101, opcode: 0x123, ip: 0x1234_5678_9abc, ..X87::default() };
            x87.status = 5 << 11;
            x87.dp = 0x8765_4321;
            for (i, register) in (0u16..).zip(&mut x87.regs) {
                *register = F80::new(0x3fff + i, 1 << 63 | u64::from(i));
            }
            let mut xmm = [0; 16];
            for (i, register) in (1..).zip(&mut xmm) {
                *register = u128::MAX / i;
            }
            Self { x87, xmm, mxcsr: 0x1fa0, pkru: 0x5555_5554 }
        }

        fn registers(&mut self) -> Registers<'_> {
            Registers { x87: &mut self.x87, xmm: &mut self.xmm, mxcsr: &mut self.mxcsr, pkru: &mut self.pkru }
        }
    }

    #[track_caller]
    fn assert_same(a: &State, b: &State) {
        assert_eq!((&a.x87, a.xmm, a.mxcsr, a.pkru), (&b.x87, b.xmm, b.mxcsr, b.pkru));
    }

    #[test]
    fn fxsave_has_the_stack_in_stack_order_and_comes_back() {
        let mut state = State::busy();
        let mut area = [0xa5; LEGACY_BYTES];
        fxsave(&mut area, &state.registers(), LONG);
        assert_eq!(F80::from_bytes(get(&area, 32)), state.x87.regs[5]);
        assert_eq!(area[464..], [0xa5; 48]);
        let mut loaded = State::initial();
        loaded.pkru = state.pkru;
        fxrstor(&area, &mut loaded.registers(), LONG).unwrap();
        assert_same(&loaded, &state);
    }

    #[test]
    fn the_legacy_form_has_selectors_and_eight_registers() {
        let mut state = State::busy();
        (state.x87.cs, state.x87.ds) = (0x10, 0x18);
        let form = Form { wide_pointers: false, long: false };
        let mut area = [0xa5; LEGACY_BYTES];
        fxsave(&mut area, &state.registers(), form);
        assert_eq!(area[288..416], [0xa5; 128]);
        let mut loaded = State::initial();
        fxrstor(&area, &mut loaded.registers(), form).unwrap();
        assert_eq!((loaded.x87.ip, loaded.x87.cs), (0x5678_9abc, 0x10));
        assert_eq!((loaded.x87.dp, loaded.x87.ds), (0x8765_4321, 0x18));
        assert_eq!(loaded.xmm[..8], state.xmm[..8]);
        assert_eq!(loaded.xmm[8..], [0; 8]);
    }

    #[test]
    fn reserved_bits_of_mxcsr_change_nothing() {
        let mut state = State::busy();
        let mut area = [0; LEGACY_BYTES];
        fxsave(&mut area, &state.registers(), LONG);
        area[26] = 1;
        let mut loaded = State::initial();
        assert_eq!(fxrstor(&area, &mut loaded.registers(), LONG), Err(Invalid));
        assert_same(&loaded, &State::initial());
    }

    #[test]
    fn each_save_is_restored() {
        for kind in [SaveKind::Xsave, SaveKind::Xsaveopt, SaveKind::Xsavec] {
            for mut state in [State::busy(), State::initial()] {
                let mut area = [0; XSAVE_BYTES];
                area[24] = 0x80;
                xsave(&mut area, &state.registers(), LONG, component::ALL, kind);
                let mut loaded = State::busy();
                xrstor(&area, &mut loaded.registers(), LONG, component::ALL, component::ALL).unwrap();
                assert_same(&loaded, &state);
            }
        }
    }

    #[test]
    fn what_is_not_requested_stays() {
        let mut state = State::busy();
        let mut area = [0; XSAVE_BYTES];
        area[512] = 1;
        xsave(&mut area, &state.registers(), LONG, component::SSE, SaveKind::Xsaveopt);
        assert_eq!((area[..24].to_vec(), area[512]), (vec![0; 24], 3));
        let mut loaded = State::initial();
        xrstor(&area, &mut loaded.registers(), LONG, component::SSE, component::ALL).unwrap();
        assert_eq!((loaded.x87, loaded.xmm), (X87::default(), state.xmm));
        xsave(&mut area, &state.registers(), LONG, component::SSE, SaveKind::Xsavec);
        assert_eq!((area[512], area[520], area[527]), (2, 2, 0x80));
    }

    #[test]
    fn invalid_headers_are_refused() {
        let mut state = State::busy();
        let mut check = |present: u64, layout: u64, at: usize| {
            let mut area = [0; XSAVE_BYTES];
            put(&mut area, 512, present.to_le_bytes());
            put(&mut area, 520, layout.to_le_bytes());
            if at != 0 {
                area[at] = 1;
            }
            xrstor(&area, &mut state.registers(), LONG, component::ALL, component::ALL)
        };
        assert_eq!(check(4, 0, 0), Err(Invalid));
        assert_eq!(check(0, 1, 0), Err(Invalid));
        assert_eq!(check(0, 0, 528), Err(Invalid));
        assert_eq!(check(0, 0, 540), Ok(()));
        assert_eq!(check(2, COMPACTED | 1, 0), Err(Invalid));
        assert_eq!(check(0, COMPACTED | 4, 0), Err(Invalid));
        assert_eq!(check(0, COMPACTED | 3, 540), Err(Invalid));
        assert_eq!(check(0, COMPACTED | 3, 0), Ok(()));
    }

    #[test]
    fn neutral_registers_are_in_stack_order() {
        let state = State::busy();
        let regs = to_fpu_regs(&state.x87, &state.xmm, state.mxcsr);
        assert_eq!(F80::from_bytes(get(&regs.fpr[0], 0)), state.x87.regs[5]);
        assert_eq!(from_fpu_regs(&regs), (state.x87, state.xmm, state.mxcsr));
    }
}
