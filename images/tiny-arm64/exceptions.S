// exceptions: an undefined instruction, SVC, BRK, a misaligned PC, a load
// and a fetch where nothing is mapped, each with its class; memory that is mapped twice.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
.include "arm64-mmu.inc"
main:
    faults EC_UNKNOWN, 1, .inst 0
    faults EC_SVC, 2, svc #7
    ldr x16, =fault_esr
    ldr w16, [x16]
    and w16, w16, #0xffff
    cmp w16, #7
    check eq, 3
    faults EC_BRK, 4, brk #1
    ldr x0, =main + 2
    faults EC_PC_ALIGN, 5, br x0
    bl mmu_tables
    bl mmu_on
    // Nothing is mapped in the window.
    ldr x0, =WINDOW + 0x123458
    faults EC_DABORT, 6, ldr x1, [x0]
    ldr x1, =fault_far
    ldr x1, [x1]
    cmp x0, x1
    check eq, 7
    faults EC_IABORT, 8, br x0
    // Then RAM is, a second time.
    ldr x1, =RAM | BLOCK_RAM | EL0_MAY
    ldr x2, =window
    str x1, [x2]
    dsb sy
    ldr x4, =0x1122334455667788
    ldr x5, =WINDOW - RAM
    // The second MiB has nothing of ours.
    ldr x0, =RAM + 0x100000
    str x4, [x0]
    ldr x6, [x0, x5]
    cmp x4, x6
    check eq, 10
    b pass
