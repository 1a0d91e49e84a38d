// hang-off: the only CPU switches itself off.
// load: elf
// status: 122
// stdout:
.include "arm64.inc"
main:
    psci PSCI_CPU_OFF
    exit 1
