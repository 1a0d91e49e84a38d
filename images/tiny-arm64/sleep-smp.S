// sleep-smp: one CPU is off and the other sleeps with interrupts on: no hang.
// load: elf
// cpus: 2
// status: 124
// stdout:
// timeout: 2s
// needs: smp
.include "arm64.inc"
main:
    msr daifclr, #2
1:  wfi
    b 1b
