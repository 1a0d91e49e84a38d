//! Every instruction of the sets up to x86-64-v2 is in the table, or is the core's by name.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic};

use super::lookup;

/// What touches state beyond operands, or no vector register at all.
fn is_for_the_core(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        Mnemonic::Emms
            | Mnemonic::Ldmxcsr
            | Mnemonic::Stmxcsr
            | Mnemonic::Lfence
            | Mnemonic::Mfence
            | Mnemonic::Sfence
            | Mnemonic::Movnti
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Fisttp
    )
}

fn is_in_scope(code: Code) -> bool {
    use CpuidFeature::{AES, MMX, PCLMULQDQ, SSE, SSE2, SSE3, SSE4_1, SSE4_2, SSSE3};
    let sets = [MMX, SSE, SSE2, SSE3, SSSE3, SSE4_1, SSE4_2, AES, PCLMULQDQ];
    code.encoding() == EncodingKind::Legacy && code.cpuid_features().iter().any(|f| sets.contains(f))
}

#[test]
fn every_instruction_has_a_form() {
    let mut missing = Vec::new();
    for code in Code::values().filter(|&code| is_in_scope(code)) {
        for memory in [false, true] {
            if lookup(code, memory).is_some() == is_for_the_core(code) {
                missing.push(code);
            }
        }
    }
    assert!(missing.is_empty(), "in neither or in both: {missing:?}");
}

#[test]
fn nothing_else_has_a_form() {
    for code in Code::values().filter(|&code| !is_in_scope(code)) {
        assert!(lookup(code, false).is_none() && lookup(code, true).is_none(), "{code:?}");
    }
}
