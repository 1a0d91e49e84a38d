// poweroff-psci: SYSTEM_OFF.
// load: elf
// status: 0
// stdout: bye
.include "arm64.inc"
main:
    print "bye\n"
    psci PSCI_SYSTEM_OFF
    exit 1
