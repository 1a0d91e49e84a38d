# sse: SSE and SSE2 in kernel mode: moves, integers, single and double floats,
# MXCSR, FXSAVE, a masked and an unmasked exception, TS and EM.
# load: kernel
# status: 0
# stdout: OK
# needs: sse-kernel
.include "long.inc"
main:
    mov rax, cr4
    or eax, 0x600               # OSFXSR, OSXMMEXCPT
    mov cr4, rax
    # Moves.
    mov rax, 0x1122334455667788
    movq xmm0, rax
    movq rbx, xmm0
    cmp rbx, rax
    check e, 1
    movdqu xmm1, [data + 1]
    movdqu [buffer + 3], xmm1
    mov rax, [buffer + 3]
    cmp rax, [data + 1]
    check e, 2
    mov rax, [buffer + 11]
    cmp rax, [data + 9]
    check e, 3
    movaps xmm15, [data]
    movaps [buffer], xmm15
    mov rax, [buffer + 8]
    cmp rax, [data + 8]
    check e, 4
    mov eax, offset data + 8
    faults 13, 0, 5, movaps xmm1, [rax]     # misaligned
    mov eax, offset data + 8
    faults 13, 0, 6, paddd xmm1, [rax]
    # Integers.
    movaps xmm2, [data]
    paddb xmm2, xmm2
    movq rax, xmm2
    mov rcx, 0x0e0c0a0806040200
    cmp rax, rcx
    check e, 10
    movaps xmm2, [data]
    pcmpeqd xmm3, xmm3
    pxor xmm2, xmm3
    pmovmskb eax, xmm2
    cmp eax, 0xffff
    check e, 11
    pxor xmm2, xmm2
    pmovmskb eax, xmm2
    test eax, eax
    check z, 12
    movaps xmm2, [data]
    pshufd xmm2, xmm2, 0x1b
    movd eax, xmm2
    cmp eax, 0x0f0e0d0c
    check e, 13
    psrldq xmm2, 4
    movd eax, xmm2
    cmp eax, 0x0b0a0908
    check e, 14
    mov eax, 100000
    movd xmm4, eax
    pmuludq xmm4, xmm4
    movq rax, xmm4
    mov rcx, 10000000000
    cmp rax, rcx
    check e, 15
    # Floats.
    mov eax, 7
    cvtsi2sd xmm0, eax
    mov eax, 2
    cvtsi2sd xmm1, eax
    divsd xmm0, xmm1
    movq rax, xmm0
    mov rcx, 0x400c000000000000 # 3.5
    cmp rax, rcx
    check e, 20
    cvttsd2si eax, xmm0
    cmp eax, 3
    check e, 21
    cvtsd2si eax, xmm0          # to even
    cmp eax, 4
    check e, 22
    sqrtsd xmm2, xmm1
    mulsd xmm2, xmm2
    comisd xmm2, xmm1           # sqrt(2)^2 > 2 in doubles
    check a, 23
    mov eax, 9
    cvtsi2ss xmm3, eax
    sqrtss xmm3, xmm3
    cvttss2si eax, xmm3
    cmp eax, 3
    check e, 24
    pxor xmm4, xmm4
    pxor xmm5, xmm5
    divsd xmm4, xmm5            # NaN: unordered
    ucomisd xmm4, xmm4
    check p, 25
    # MXCSR: the invalid flag is set; rounding up.
    stmxcsr [buffer]
    test dword ptr [buffer], 1
    check nz, 26
    mov dword ptr [buffer], 0x5f80
    ldmxcsr [buffer]
    cvtsd2si eax, xmm0
    cmp eax, 4
    check e, 27
    mov dword ptr [buffer], 0x3f80      # down
    ldmxcsr [buffer]
    cvtsd2si eax, xmm0
    cmp eax, 3
    check e, 28
.ifndef QEMU                        # QEMU has none of these exceptions
    mov dword ptr [buffer], 0x10000
    faults 13, 0, 29, ldmxcsr [buffer]  # reserved bit
    # An unmasked division by zero is #XM.
    mov dword ptr [buffer], 0x1d80
    ldmxcsr [buffer]
    pxor xmm5, xmm5
    faults 19, 0, 30, divsd xmm0, xmm5
.endif
    mov dword ptr [buffer], 0x1f80
    ldmxcsr [buffer]
    # FXSAVE and FXRSTOR.
    movaps xmm7, [data]
    fxsave64 [area]
    pxor xmm7, xmm7
    fxrstor64 [area]
    movq rax, xmm7
    cmp rax, [data]
    check e, 31
    cmp dword ptr [area + 24], 0x1f80
    check e, 32
    # TS: #NM; EM: #UD; without OSFXSR: #UD.
    mov rbx, cr0
    mov rax, rbx
    or eax, 8
    mov cr0, rax
    faults 7, 0, 33, pxor xmm0, xmm0
    mov rax, rbx
    or eax, 4
    mov cr0, rax
    faults 6, 0, 34, pxor xmm0, xmm0
    mov cr0, rbx
    mov rax, cr4
    and eax, ~0x200
    mov cr4, rax
    faults 6, 0, 35, pxor xmm0, xmm0
    ret
.data
.balign 16
data:
    .byte 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19
.bss
.balign 16
buffer: .skip 32
area:   .skip 512
.text
