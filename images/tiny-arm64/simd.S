// simd: floating-point and SIMD instructions at EL1.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
main:
    fmov d0, #1.5
    fmov d1, #2.25
    fmul d2, d0, d1
    fmov x0, d2
    same x0, 0x400b000000000000, 1
    fdiv s3, s0, s1
    movi v4.16b, #7
    movi v5.16b, #9
    add v6.16b, v4.16b, v5.16b
    mov x0, v6.d[1]
    same x0, 0x1010101010101010, 2
    mov x1, #0x3000000          // round towards zero
    msr fpcr, x1
    ldr x0, =TEST_WINDOW
    ldr w0, [x0]
    mrs x0, fpcr
    cmp x0, x1
    check eq, 3
    b pass
