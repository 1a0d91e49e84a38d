// hang-smp: two CPUs, each parked.
// load: elf
// cpus: 2
// status: 122
// stdout:
// needs: smp
.include "arm64.inc"
main:
    psci PSCI_CPU_ON, 1, second, 0
    cmp w0, #0
    check eq, 1
    b halt
second:
    b halt
