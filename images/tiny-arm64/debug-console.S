// debug-console: output without a driver, and a register by which it is known.
// load: elf
// status: 0
// stdout: hello
.include "arm64.inc"
main:
    ldr x0, =DEBUG_PORT
    ldrb w1, [x0]
    same x1, 0xe9, 1
    .irp letter, 'h', 'e', 'l', 'l', 'o', '\n'
    mov w1, #\letter
    strb w1, [x0]
    .endr
    b pass
