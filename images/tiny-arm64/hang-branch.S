// hang-branch: a branch to itself with interrupts masked, as Linux halts.
// load: elf
// status: 122
// stdout:
.include "arm64.inc"
.include "arm64-mmu.inc"
main:
    bl mmu_tables
    bl mmu_on
    b .
