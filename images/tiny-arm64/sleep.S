// sleep: WFI with interrupts on is no hang either.
// load: elf
// status: 124
// stdout:
// timeout: 2s
.include "arm64.inc"
main:
    msr daifclr, #2
1:  wfi
    b 1b
