// el0: a program at EL0 runs, may not touch what is not its own, and calls by SVC.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
.include "arm64-mmu.inc"
main:
    bl mmu_tables
    bl mmu_on
    // The guest's own 2 MiB once more, for EL0.
    ldr x1, =RAM + 0x200000 | BLOCK_RAM | EL0_MAY
    ldr x2, =window
    str x1, [x2]
    dsb sy
    isb
    ldr x19, =WINDOW - RAM - 0x200000
    ldr x0, =resume
    ldr x1, =called
    str x1, [x0]
    msr spsr_el1, xzr           // EL0, interrupts on
    ldr x0, =program
    add x0, x0, x19
    msr elr_el1, x0
    eret
called:
    ldr x0, =fault_esr
    ldr w0, [x0]
    lsr w1, w0, #26
    cmp w1, #EC_SVC
    check eq, 1
    and w0, w0, #0xffff
    cmp w0, #0x55
    check eq, 2
    same x21, 42, 3
    // Now it touches the kernel's memory.
    ldr x0, =resume
    ldr x1, =caught
    str x1, [x0]
    msr spsr_el1, xzr
    ldr x0, =intruder
    add x0, x0, x19
    msr elr_el1, x0
    eret
caught:
    ldr x0, =fault_esr
    ldr w0, [x0]
    lsr w1, w0, #26
    cmp w1, #EC_DABORT_EL0
    check eq, 4
    b pass
program:
    mov x21, #6
    mov x22, #7
    mul x21, x21, x22
    svc #0x55
intruder:
    movz x0, #0x4020, lsl #16
    ldr x1, [x0]
    svc #0x66
