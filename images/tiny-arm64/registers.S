// registers: an exit to a device changes no register but the one that is loaded.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
main:
    ldr x30, =TEST_WINDOW
    str wzr, [x30]
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28
    mov x\n, #0x1000 + \n
    movk x\n, #0xabc0 + \n, lsl #48
    dup v\n\().2d, x\n
    .endr
    mov x29, sp
    mov w0, #5
    cmp w0, #7                  // N set, Z, C, V clear
    ldr w29, [x30]
    check mi, 1
    cmp w29, #0
    check eq, 2
    mov x0, #0x1000
    movk x0, #0xabc0, lsl #48
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28
    mov x29, #0x1000 + \n
    movk x29, #0xabc0 + \n, lsl #48
    cmp x\n, x29
    check eq, 3
    mov x17, v\n\().d[1]
    cmp x17, x29
    check eq, 4
    .endr
    b pass
