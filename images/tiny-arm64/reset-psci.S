// reset-psci: SYSTEM_RESET.
// load: elf
// status: 0
// stdout: again
.include "arm64.inc"
main:
    print "again\n"
    psci PSCI_SYSTEM_RESET
    exit 1
