//! Random cases of a form: operands, and registers that make addresses point to where something is.

use iced_x86::{
    Code, ConditionCode, ConstantOffsets, Decoder, DecoderOptions, FlowControl, Instruction,
    InstructionInfoFactory, Mnemonic, OpKind, Register,
};

use crate::forms::{self, Form};
use crate::machine::{
    CODE, DATA, DATA_BYTES, Fx, GS_BASE, Input, PAGE, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP,
};
use crate::random::Random;
use crate::verdict;

const ARITHMETIC: u64 = 0x8d5;
const DF: u64 = 0x400;
/// TF would trap in the wrong place; AC makes also the signal handler's accesses fault.
const NOT_POPPED: u64 = 0x4_0100;

/// A place for an operand of `size` bytes.
fn place(random: &mut Random, size: u64) -> u64 {
    let page = PAGE as u64;
    match random.below(100) {
        0..=54 => DATA + random.below((2 * page - 64) / 16) * 16,
        55..=74 => DATA + random.below(2 * page - 64),
        // Around the border of two pages.
        75..=84 => DATA + page - random.below(size + 9),
        // Into or in the page that is read-only.
        85..=88 => DATA + 2 * page - random.below(size + 1),
        89..=90 => DATA + 2 * page + random.below(page - 16),
        // Out of what is mapped.
        91..=94 => DATA + 3 * page - random.below(size + 1),
        95..=96 => DATA.wrapping_sub(random.below(size + 4)),
        97 => 0xffff_ffff_ffff_ffff - random.below(size + 8),
        98 => (1 << 47) - random.below(size + 8),
        _ => random.integer(),
    }
}

fn put(data: &mut [u8], address: u64, bytes: &[u8]) {
    for (n, byte) in bytes.iter().enumerate() {
        let at = address.wrapping_add(n as u64).wrapping_sub(DATA);
        if let Some(place) = data.get_mut(at as usize).filter(|_| at < DATA_BYTES as u64) {
            *place = *byte;
        }
    }
}

fn get(data: &[u8], address: u64) -> u64 {
    (0..8).fold(0, |value, n| {
        let byte = data.get(address.wrapping_add(n).wrapping_sub(DATA) as usize).copied().unwrap_or(0);
        value | u64::from(byte) << (8 * n)
    })
}

fn fx(random: &mut Random) -> Fx {
    let mut fx = Fx::new();
    let mut mxcsr = 0x1f80;
    if random.percent(50) {
        mxcsr |= random.next() as u32 & 0xe040;
    }
    if random.percent(25) {
        mxcsr |= random.next() as u32 & 0x3f;
    }
    if random.percent(12) {
        mxcsr &= random.next() as u32 | 0xe07f;
    }
    fx.set_mxcsr(mxcsr);
    let mut control = 0x37f;
    if random.percent(40) {
        control = 0x7f | (random.next() as u16) & 0xc00 | random.pick(&[0, 0x200, 0x300]);
    }
    if random.percent(12) {
        control &= random.next() as u16 | 0xffc0;
    }
    fx.set_u16(0, control);
    let mut status = random.next() as u16 & 0x7f00;
    if random.percent(20) {
        status |= random.next() as u16 & 0x7f;
    }
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    fx.set_u16(2, status);
    fx.0[4] = if random.percent(60) { 0xff } else { random.next() as u8 };
    for n in 0..8 {
        fx.set_st(n, random.extended());
        fx.set_xmm(n, random.vector());
        fx.set_xmm(n + 8, random.vector());
    }
    fx
}

/// Random registers, and data.
pub fn state(random: &mut Random, bits: u32) -> Input {
    let mut input = Input {
        code: Vec::new(),
        rip: CODE + 0x800,
        gpr: [0; 16],
        rflags: 0x202 | random.next() & ARITHMETIC,
        fx: fx(random),
        data: vec![0; DATA_BYTES],
        target: 0,
        undefined: 0,
        bits,
        limited: random.percent(30),
        stepped: random.percent(30),
    };
    if random.percent(30) {
        input.rflags |= DF;
    }
    for register in &mut input.gpr {
        *register = random.integer();
    }
    for chunk in input.data.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    input.gpr[RSP] = place(random, 8);
    if random.percent(70) {
        input.gpr[RSP] &= !7;
    }
    match random.below(20) {
        // Across the border of the pages, and into what is not mapped.
        0 => input.rip = CODE + PAGE as u64 - random.below(15),
        1 => input.rip = CODE + 2 * PAGE as u64 - 1 - random.below(14),
        _ => {}
    }
    input
}

/// The bytes of an instruction of the form, at `rip`.
fn encode(random: &mut Random, form: &Form, rip: u64) -> Option<(Vec<u8>, Instruction)> {
    for _ in 0..20 {
        let mut bytes = Vec::new();
        if random.percent(8) {
            bytes.push(random.pick(&[0x2e, 0x36, 0x3e, 0x26, 0x65, 0x65, 0x65]));
        }
        if random.percent(if form.memory { 12 } else { 4 }) {
            bytes.push(0x67);
        }
        if form.memory && random.percent(8) {
            bytes.push(0xf0);
        }
        let rex = (form.bits == 64 && random.percent(40)).then(|| random.below(8) as u8);
        random.pick(&form.templates).emit(rex, &mut bytes);
        let edge = [0, 0xff, 0x7f, 0x80, 1];
        let style = random.below(4);
        for _ in 0..12 {
            bytes.push(if style == 0 || random.percent(15) {
                random.pick(&edge)
            } else {
                random.next() as u8
            });
        }
        bytes.truncate(15);
        let i = forms::decode(form.bits, &bytes, rip);
        let fits = !i.is_invalid() && i.code() == form.code && forms::has_memory(&i) == form.memory;
        if fits && !forms::is_vendor_specific(&bytes, &i) {
            bytes.truncate(i.len());
            return Some((bytes, i));
        }
    }
    None
}

/// The number of a general register.
fn number(register: Register) -> usize {
    register.full_register().number() & 15
}

fn offsets(input: &Input) -> ConstantOffsets {
    let mut decoder =
        Decoder::with_ip(input.bits, &input.code, input.rip, DecoderOptions::FORCE_RESERVED_NOP);
    let i = decoder.decode();
    decoder.get_constant_offsets(&i)
}

fn set_address_register(random: &mut Random, input: &mut Input, register: Register, value: u64) {
    let mut value = value;
    if register.size() == 4 {
        value &= 0xffff_ffff;
        if random.percent(30) {
            value |= random.next() << 32;
        }
    }
    input.gpr[number(register)] = value;
}

fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

/// Makes the memory operand be at `target`, or close by; gives its address.
fn aim(random: &mut Random, input: &mut Input, i: &Instruction, target: u64) -> u64 {
    let base_of = match i.memory_segment() {
        Register::GS if input.bits == 64 => GS_BASE,
        _ => 0,
    };
    let mut target = target;
    if base_of != 0 && !is_canonical(target.wrapping_sub(base_of)) {
        // AMD's processors want also the offset to be canonical.
        target = DATA;
    }
    let want = target.wrapping_sub(base_of);
    let places = offsets(input);
    let (at, size) = (places.displacement_offset(), places.displacement_size());
    let mut patch = |displacement: u64| {
        input.code[at..at + size].copy_from_slice(&displacement.to_le_bytes()[..size]);
    };
    let (base, index) = (i.memory_base(), i.memory_index());
    let scale = u64::from(i.memory_index_scale());
    let displacement = i.memory_displacement64();
    if i.is_ip_rel_memory_operand() {
        patch(want.wrapping_sub(input.rip + i.len() as u64));
        return target;
    }
    match (base, index) {
        (Register::None, Register::None) => patch(want),
        (base, Register::None) => {
            set_address_register(random, input, base, want.wrapping_sub(displacement));
        }
        (Register::None, index) => {
            let value = want.wrapping_sub(displacement) / scale;
            let rest = want.wrapping_sub(value.wrapping_mul(scale));
            patch(rest);
            set_address_register(random, input, index, value);
        }
        (base, index) if number(base) == number(index) => {
            let value = want.wrapping_sub(displacement) / (1 + scale);
            set_address_register(random, input, base, value);
            return value.wrapping_mul(1 + scale).wrapping_add(displacement).wrapping_add(base_of);
        }
        (base, index) => {
            if random.percent(70) {
                input.gpr[number(index)] = random.below(4096).wrapping_sub(2048);
            }
            let index = input.gpr[number(index)];
            let value = want.wrapping_sub(displacement).wrapping_sub(index.wrapping_mul(scale));
            set_address_register(random, input, base, value);
        }
    }
    target
}

/// Where a branch may go: most often to code.
fn branch_target(random: &mut Random) -> u64 {
    match random.below(20) {
        0 => DATA + random.below(64),
        1 => CODE + 2 * PAGE as u64 + random.below(64),
        2 => random.below(1 << 47),
        _ => CODE + 0x900 + random.below(0x600),
    }
}

/// A random case of the form, with its instruction.
pub fn case(random: &mut Random, form: &Form) -> Option<(Input, Instruction)> {
    let mut input = state(random, form.bits);
    let (code, i) = encode(random, form, input.rip)?;
    input.code = code;
    let mnemonic = i.mnemonic();
    let size = i.memory_size().size().clamp(1, 512) as u64;
    let accumulator_pair = matches!(mnemonic, Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b);

    if let OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16 = i.op0_kind() {
        let places = offsets(&input);
        let (at, size) = (places.immediate_offset(), places.immediate_size());
        if size == 4 {
            let relative = branch_target(random).wrapping_sub(input.rip + i.len() as u64);
            input.code[at..at + 4].copy_from_slice(&relative.to_le_bytes()[..4]);
        }
        let i = forms::decode(input.bits, &input.code, input.rip);
        if i.near_branch_target().wrapping_sub(input.rip) < i.len() as u64 {
            // Not into itself: that might never end.
            return None;
        }
        if matches!(
            mnemonic,
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jrcxz | Mnemonic::Jecxz
        ) && random.percent(70)
        {
            input.gpr[RCX] = random.pick(&[0, 1, 2, 0x1_0000_0000, 0x1_0000_0001]);
        }
    }
    match mnemonic {
        Mnemonic::Leave | Mnemonic::Enter => input.gpr[RBP] = place(random, 8),
        Mnemonic::Xlatb => input.gpr[RBX] = place(random, 1).wrapping_sub(input.gpr[RAX] & 0xff),
        Mnemonic::Div | Mnemonic::Idiv if random.percent(60) => {
            input.gpr[RDX] = match random.below(3) {
                0 => 0,
                1 => (input.gpr[RAX] as i64 >> 63) as u64,
                _ => random.below(16),
            };
        }
        _ => {}
    }
    if i.is_string_instruction() || matches!(mnemonic, Mnemonic::Maskmovdqu | Mnemonic::Maskmovq) {
        let short = i
            .op_kinds()
            .any(|k| matches!(k, OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI));
        let gs = if i.segment_prefix() == Register::GS { GS_BASE } else { 0 };
        input.gpr[RSI] = place(random, size).wrapping_sub(gs);
        if !is_canonical(input.gpr[RSI]) {
            input.gpr[RSI] = DATA.wrapping_sub(gs);
        }
        let near = input.gpr[RSI].wrapping_add(random.below(80)).wrapping_sub(40).wrapping_add(gs);
        input.gpr[RDI] = if random.percent(30) { near } else { place(random, size) };
        if matches!(mnemonic, Mnemonic::Maskmovdqu | Mnemonic::Maskmovq) {
            // Whether bytes that are not stored can fault is the implementation's choice.
            input.gpr[RDI] = (DATA + random.below(2 * PAGE as u64 - 16)).wrapping_sub(gs);
        }
        input.gpr[RCX] = match random.below(10) {
            0..=4 => random.below(20),
            5..=7 => random.below(2000),
            8 => random.pick(&[0, 1, u64::MAX, 0x1_0000_0000, 1 << 63]),
            _ => random.integer(),
        };
        if short && random.percent(40) {
            for register in [RSI, RDI, RCX] {
                input.gpr[register] ^= random.next() << 32;
            }
        }
        if random.percent(40) {
            // Long equal runs, for comparisons that repeat.
            let fill = (input.gpr[RAX] & 0xff) as u8;
            input.data.fill(fill);
            for _ in 0..random.below(4) {
                let at = random.below(DATA_BYTES as u64) as usize;
                input.data[at] ^= 0x11;
            }
            if random.percent(70) {
                input.gpr[RAX] = u64::from(fill) * 0x0101_0101_0101_0101;
            }
        }
    }
    let wanted = if form.memory {
        let target = place(random, size);
        aim(random, &mut input, &i, target)
    } else {
        0
    };
    // A bit's offset moves the operand.
    if form.memory
        && matches!(mnemonic, Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && i.op1_kind() == OpKind::Register
        && random.percent(75)
        && number(i.op1_register()) != number(i.memory_base())
        && number(i.op1_register()) != number(i.memory_index())
    {
        input.gpr[number(i.op1_register())] = random.below(2048).wrapping_sub(1024);
    }
    let i = forms::decode(input.bits, &input.code, input.rip);
    if form.memory {
        input.target = wanted;
        let value = random.vector().to_le_bytes();
        match size {
            1..=8 if random.percent(50) => {
                put(&mut input.data, wanted, &random.integer().to_le_bytes()[..size as usize]);
            }
            10 => {
                let value = random.extended();
                put(&mut input.data, wanted, &value);
            }
            _ => put(&mut input.data, wanted, &value),
        }
        // Bit 17 of MXCSR is reserved on Intel's processors, and AMD's have it.
        let mxcsr = match mnemonic {
            Mnemonic::Ldmxcsr => Some(0),
            Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => Some(24),
            _ => None,
        };
        if let Some(offset) = mxcsr {
            let at = wanted.wrapping_add(offset);
            let value = get(&input.data, at) as u32 & !(1 << 17);
            put(&mut input.data, at, &value.to_le_bytes());
        }
        if mnemonic == Mnemonic::Cmpxchg && random.percent(50) {
            let value = input.gpr[RAX].to_le_bytes();
            put(&mut input.data, wanted, &value);
        }
        if accumulator_pair && random.percent(50) {
            let half = size as usize / 2;
            let (low, high) = (input.gpr[RAX].to_le_bytes(), input.gpr[RDX].to_le_bytes());
            put(&mut input.data, wanted, &low[..half]);
            put(&mut input.data, wanted.wrapping_add(half as u64), &high[..half]);
        }
    } else if mnemonic == Mnemonic::Cmpxchg && random.percent(50) {
        input.gpr[number(i.op0_register())] = input.gpr[RAX];
    }
    match i.flow_control() {
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            let to = branch_target(random);
            if form.memory {
                put(&mut input.data, wanted, &to.to_le_bytes());
            } else {
                input.gpr[number(i.op0_register())] = to;
            }
        }
        FlowControl::Return => {
            let (rsp, to) = (input.gpr[RSP], branch_target(random));
            put(&mut input.data, rsp, &to.to_le_bytes());
        }
        _ => {}
    }
    if input.bits == 32 {
        input.narrow();
    }
    if matches!(i.code(), Code::Popfq | Code::Popfd | Code::Popfw) {
        let rsp = input.gpr[RSP];
        let flags = get(&input.data, rsp) & !NOT_POPPED;
        put(&mut input.data, rsp, &flags.to_le_bytes());
    }
    Some((input, i))
}

/// Whether a form may be a part of a sequence: what it leaves is defined but for AF, and it goes on behind itself.
fn joins_sequences(i: &Instruction) -> bool {
    use Mnemonic as M;
    let simple = matches!(
        i.mnemonic(),
        M::Add
            | M::Adc
            | M::Sub
            | M::Sbb
            | M::And
            | M::Or
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Lea
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Bswap
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
            | M::Clc
            | M::Stc
            | M::Cmc
            | M::Nop
            | M::Shl
            | M::Shr
            | M::Sar
    );
    let conditional = i.condition_code() != ConditionCode::None && i.flow_control() == FlowControl::Next;
    let narrow_bswap = i.code() == Code::Bswap_r16;
    let by_cl = i.op_count() == 2 && i.mnemonic() != M::Mov && i.op1_register() == Register::CL;
    (simple || conditional) && !narrow_bswap && !(by_cl && matches!(i.mnemonic(), M::Shl | M::Shr | M::Sar))
}

fn touches(i: &Instruction, register: Register) -> bool {
    let mut factory = InstructionInfoFactory::new();
    factory.info(i).used_registers().iter().any(|used| used.register().full_register() == register)
}

/// What counts the rounds of a loop: the register's number, and the bytes of DEC.
fn counter(bits: u32) -> (usize, Register, &'static [u8]) {
    if bits == 64 { (15, Register::R15, &[0x49, 0xff, 0xcf]) } else { (RDI, Register::RDI, &[0x4f]) }
}

/// Several instructions, with a conditional jump behind them or a loop around them.
pub fn sequence(random: &mut Random, forms: &[&Form], bits: u32) -> Input {
    let (counter, counter_register, count_down) = counter(bits);
    let mut input = state(random, bits);
    input.rip = CODE + 0x400 + random.below(0x400);
    input.undefined = verdict::AF;
    let wanted = 1 + random.below(6);
    let mut aimed = false;
    for _ in 0..wanted {
        let form = forms[random.below(forms.len() as u64) as usize];
        let rip = input.rip + input.code.len() as u64;
        let Some((mut bytes, mut i)) = encode(random, form, rip) else { continue };
        if verdict::undefined_flags(&i, &input) & !verdict::AF != 0 || touches(&i, counter_register) {
            continue;
        }
        if form.memory && i.mnemonic() != Mnemonic::Lea && !i.is_ip_rel_memory_operand() {
            if aimed {
                continue;
            }
            aimed = true;
            let mut one = Input { code: bytes, rip, ..input.clone() };
            let target = DATA + random.below(2 * PAGE as u64 - 64);
            aim(random, &mut one, &i, target);
            (bytes, input.gpr) = (one.code, one.gpr);
            i = forms::decode(input.bits, &bytes, rip);
            if touches(&i, counter_register) {
                continue;
            }
        }
        input.code.extend(bytes);
    }
    if random.percent(30) {
        // To the first instruction.
        input.code.extend(count_down);
        let back = (input.code.len() as u64 + 2).wrapping_neg() as u8;
        input.code.extend([0x75, back]);
    } else {
        input.code.extend([0x70 + random.below(16) as u8, 0x20]);
    }
    input.gpr[counter] = 1 + random.below(4);
    if bits == 32 {
        input.narrow();
    }
    input
}

/// The forms that `sequence` is made of.
pub fn sequence_forms(forms: &[Form], bits: u32) -> Vec<&Form> {
    let joins = |form: &&Form| {
        let mut bytes = Vec::new();
        let template = form.templates[0];
        template.emit(None, &mut bytes);
        bytes.resize(15, 0);
        joins_sequences(&forms::decode(bits, &bytes, 0))
    };
    forms.iter().filter(joins).collect()
}

/// Up to 15 random bytes, with prefixes more often than chance would have them.
pub fn raw(random: &mut Random, bits: u32) -> Input {
    const PREFIXES: [u8; 11] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
    let mut input = state(random, bits);
    let prefixes = random.pick(&[0, 0, 0, 1, 1, 2, 3, 14]).min(random.below(16));
    for _ in 0..prefixes {
        input.code.push(random.pick(&PREFIXES));
    }
    if bits == 64 && random.percent(30) {
        input.code.push(0x40 | random.below(16) as u8);
    }
    match random.below(8) {
        0..=2 => input.code.push(0x0f),
        3 => input.code.extend([0x0f, 0x38]),
        4 => input.code.extend([0x0f, 0x3a]),
        _ => {}
    }
    while input.code.len() < 15 {
        input.code.push(random.next() as u8);
    }
    input.code.truncate(15);
    if bits == 32 {
        input.narrow();
    }
    input
}

/// Makes the registers of a random instruction fit it.
pub fn fit(random: &mut Random, input: &mut Input, i: &Instruction) {
    if forms::has_memory(i) && (i.memory_segment() == Register::GS || random.percent(80)) {
        let target = place(random, i.memory_size().size().clamp(1, 512) as u64);
        input.target = aim(random, input, i, target);
    }
    if input.bits == 32 {
        input.narrow();
    }
}
