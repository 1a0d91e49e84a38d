// smp: CPU_ON starts the second CPU with its context; each counts under a lock and
// with atomic instructions; SGIs go to and fro and wake WFI; it is off after CPU_OFF,
// and starts again.
// load: elf
// cpus: 2
// status: 0
// stdout: OK
// needs: smp
.include "arm64.inc"
.include "arm64-gic.inc"
.include "arm64-mmu.inc"
ROUNDS = 2000
main:
    bl mmu_tables
    bl mmu_on
    bl gic_init
    enable 1
    psci PSCI_AFFINITY_INFO, 1, 0
    cmp w0, #1                  // off
    check eq, 1
    psci PSCI_CPU_ON, 1, second, 0x1234567890
    cmp w0, #0
    check eq, 2
    bl count
1:  ldr x0, =finished
    ldr w0, [x0]
    cmp w0, #2
    b.ne 1b
    ldr x0, =locked_count
    ldr w0, [x0]
    same x0, 2 * ROUNDS, 3
    ldr x0, =atomic_count
    ldr w0, [x0]
    same x0, 2 * ROUNDS, 4
    ldr x0, =context
    ldr x0, [x0]
    same x0, 0x1234567890, 5
    ldr x0, =other_mpidr
    ldr x0, [x0]
    and x0, x0, #0xffffff
    same x0, 1, 6
    // To the other one and back, ten times.
    mov w20, #0
2:  mov w0, #2
    mov w1, #1
    bl send_sgi
    add w20, w20, #1
    ldr x9, =counts + 1 * 4
3:  msr daifset, #2
    ldr w10, [x9]
    cmp w10, w20
    b.hs 4f
    wfi
    msr daifclr, #2
    isb
    b 3b
4:  cmp w20, #10
    b.lo 2b
    // It switches itself off, and is started once more.
    mov w0, #3
    mov w1, #1
    bl send_sgi
5:  psci PSCI_AFFINITY_INFO, 1, 0
    cmp w0, #1
    b.ne 5b
    psci PSCI_CPU_ON, 1, again, 7
    cmp w0, #0
    check eq, 7
6:  ldr x0, =context
    ldr x0, [x0]
    cmp x0, #7
    b.ne 6b
    b pass

second:
    mov x19, x0
    ldr x0, =stack2_top
    bl cpu_init
    bl mmu_on
    bl gic_cpu_init
    enable 2
    enable 3
    ldr x0, =context
    str x19, [x0]
    mrs x1, mpidr_el1
    ldr x0, =other_mpidr
    str x1, [x0]
    bl count
    ldr x0, =on_interrupt
    ldr x1, =answer
    str x1, [x0]
    msr daifclr, #2
1:  wfi
    b 1b

again:                          // translation is off
    mov x19, x0
    ldr x0, =stack2_top
    bl cpu_init
    bl mmu_on
    ldr x0, =context
    str x19, [x0]
    b halt

// On either CPU.
answer:
    cmp w0, #3
    b.eq 2f
    cmp w0, #2
    b.ne 1f
    mov x6, x30
    mov w0, #1
    mov w1, #0
    bl send_sgi
    ret x6
1:  ret
2:  ldr x0, =gicv2
    ldr w0, [x0]
    cbnz w0, 3f
    msr s3_0_c12_c12_1, x19     // complete it: there is no way back
    b 4f
3:  ldr x0, =GICC
    str w19, [x0, #0x10]
4:  psci PSCI_CPU_OFF
    mov w0, #20
    b failed

count:
    mov w3, #ROUNDS
    ldr x4, =lock
    ldr x5, =locked_count
    ldr x6, =atomic_count
1:  ldaxr w0, [x4]
    cbnz w0, 1b
    mov w0, #1
    stxr w1, w0, [x4]
    cbnz w1, 1b
    ldr w0, [x5]
    add w0, w0, #1
    str w0, [x5]
    stlr wzr, [x4]
2:  ldxr w0, [x6]
    add w0, w0, #1
    stxr w1, w0, [x6]
    cbnz w1, 2b
    subs w3, w3, #1
    b.ne 1b
    ldr x6, =finished
3:  ldxr w0, [x6]
    add w0, w0, #1
    stxr w1, w0, [x6]
    cbnz w1, 3b
    ret
.bss
.balign 64
lock:       .skip 64
locked_count: .skip 64
atomic_count: .skip 64
finished:   .skip 64
context:    .skip 8
other_mpidr: .skip 8
            .skip 4096
stack2_top:
