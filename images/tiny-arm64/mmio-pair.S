// mmio-pair: the same for a load of two registers.
// load: elf
// status: 126
// stdout:
.include "arm64.inc"
main:
    ldr x19, =TEST_WINDOW
    ldp x0, x1, [x19]
    exit 1
