// mmio: loads and stores of each size; what no device answers is all ones, and what no
// device takes is lost.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
main:
    ldr x19, =TEST_WINDOW
    ldr x20, =0x8192a3b4c5d6e7f8
    str x20, [x19]
    ldr x0, [x19]
    cmp x0, x20
    check eq, 1
    ldr w0, [x19]
    same x0, 0xc5d6e7f8, 2
    ldr w0, [x19, #4]
    same x0, 0x8192a3b4, 3
    ldrh w0, [x19, #2]
    same x0, 0xc5d6, 4
    ldrb w0, [x19, #7]
    same x0, 0x81, 5
    mov w1, #0x11
    strb w1, [x19, #3]
    ldr x0, [x19]
    same x0, 0x8192a3b411d6e7f8, 10
    mov w1, #0x2233
    strh w1, [x19, #4]
    ldr x0, [x19]
    same x0, 0x8192223311d6e7f8, 11
    ldr w1, =0x44556677
    str w1, [x19]
    ldr x0, [x19]
    same x0, 0x8192223344556677, 12
    str xzr, [x19]
    ldr x0, [x19]
    cmp x0, #0
    check eq, 13
    str x20, [x19]
    ldr wzr, [x19]
    mov x1, #8                  // an index, scaled
    mov x2, #1
    str x20, [x19, x2, lsl #3]
    ldr x0, [x19, x1]
    cmp x0, x20
    check eq, 14
    ldar w0, [x19]              // with order
    same x0, 0xc5d6e7f8, 15
    stlr wzr, [x19]
    ldr x0, [x19]
    same x0, 0x8192a3b400000000, 16

    ldr x19, =NOWHERE
    str x20, [x19]
    ldr x0, [x19]
    same x0, 0xffffffffffffffff, 20
    ldr w0, [x19]
    same x0, 0xffffffff, 21
    ldrh w0, [x19]
    same x0, 0xffff, 22
    ldrb w0, [x19]
    same x0, 0xff, 23
    b pass
