// irq-timer: the virtual and the physical timer interrupt, and wake WFI.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
.include "arm64-gic.inc"
main:
    bl gic_init
    enable VTIMER_INTID
    enable PTIMER_INTID
    ldr x0, =on_interrupt
    ldr x1, =quiet
    str x1, [x0]
    mrs x20, cntfrq_el0
    cmp x20, #0
    check ne, 1
    mov x21, #100
    udiv x20, x20, x21          // 10 ms
    mrs x22, cntvct_el0
    mov w23, #5
1:  msr cntv_tval_el0, x20
    mov x0, #1
    msr cntv_ctl_el0, x0
    isb
    ldr x9, =counts + VTIMER_INTID * 4
    ldr w24, [x9]
2:  msr daifset, #2
    ldr w10, [x9]
    cmp w10, w24
    b.ne 3f
    wfi
    msr daifclr, #2
    isb
    b 2b
3:  subs w23, w23, #1
    b.ne 1b
    mrs x23, cntvct_el0
    sub x23, x23, x22
    mov x0, #5
    mul x0, x0, x20
    cmp x23, x0                 // not too early
    check hs, 2
    msr cntp_tval_el0, x20
    mov x0, #1
    msr cntp_ctl_el0, x0
    await PTIMER_INTID, 1
    ldr x9, =counts + VTIMER_INTID * 4
    ldr w10, [x9]
    cmp w10, #5
    check eq, 3
    b pass
// The line falls when the timer is off.
quiet:
    msr cntv_ctl_el0, xzr
    msr cntp_ctl_el0, xzr
    isb
    ret
