// psci: the firmware interface says its version and what it has, and refuses the rest.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
main:
    psci PSCI_VERSION
    cmp w0, #2                  // 0.2 at least
    check hs, 1
    psci PSCI_FEATURES, PSCI_CPU_ON
    cmp w0, #0
    check eq, 2
    psci PSCI_FEATURES, 0x8400ffff
    cmn w0, #1                  // not supported
    check eq, 3
    psci 0x8400ffff
    cmn w0, #1
    check eq, 4
    // This CPU is on already, and there is none with such a number.
    psci PSCI_CPU_ON, 0, start, 0
    cmn w0, #4
    check eq, 5
    psci PSCI_CPU_ON, 0xff00, start, 0
    cmn w0, #2
    check eq, 6
    psci PSCI_AFFINITY_INFO, 0, 0
    cmp w0, #0                  // on
    check eq, 7
    b pass
