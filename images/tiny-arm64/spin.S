// spin: a loop that an interrupt could end is no hang; the time limit ends it.
// load: elf
// status: 124
// stdout:
// timeout: 2s
.include "arm64.inc"
main:
    msr daifclr, #2
    b .
