// hang: WFI for ever with interrupts masked.
// load: elf
// status: 122
// stdout:
.include "arm64.inc"
main:
    b halt
