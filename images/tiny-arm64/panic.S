// panic: the pvpanic device.
// load: elf
// status: 120
// stdout:
.include "arm64.inc"
main:
    outb PVPANIC, 1
    exit 1
