// smc: code that is written anew and made visible is what is executed.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
.include "arm64-mmu.inc"
main:
    bl mmu_tables
    bl mmu_on
    ldr x19, =code
    mov w20, #1
1:  // movz w0, #n; ret
    ldr w1, =0x52800000
    orr w1, w1, w20, lsl #5
    str w1, [x19]
    dc cvau, x19
    dsb ish
    ic ivau, x19
    dsb ish
    isb
    blr x19
    cmp w0, w20
    check eq, 1
    add w20, w20, #1
    cmp w20, #200
    b.lo 1b
    b pass
.data
.balign 64
code:
    mov w0, #0
    ret
