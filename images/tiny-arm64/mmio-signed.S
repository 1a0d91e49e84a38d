// mmio-signed: loads that extend the sign.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
main:
    ldr x19, =TEST_WINDOW
    ldr x20, =0x8192a3b4c5d6e7f8
    str x20, [x19]
    ldrsb x0, [x19, #1]
    same x0, 0xffffffffffffffe7, 1
    ldrsb w0, [x19, #1]
    same x0, 0xffffffe7, 2
    ldrsh x0, [x19, #6]
    same x0, 0xffffffffffff8192, 3
    ldrsh w0, [x19, #6]
    same x0, 0xffff8192, 4
    ldrsw x0, [x19]
    same x0, 0xffffffffc5d6e7f8, 5
    str wzr, [x19]
    ldrsb x0, [x19, #1]
    same x0, 0, 7
    ldr x1, =NOWHERE
    ldrsh x0, [x1]
    same x0, 0xffffffffffffffff, 6
    b pass
