// The built-in guest of AArch64 machines: what `vm-accel run` starts there when it is
// given no kernel. It looks at the machine, prints what it finds, and powers off by
// PSCI. If something is wrong it says so and ends with status 1.
// load: elf
// status: 0
// stdout: all is well
.include "arm64.inc"
.include "arm64-gic.inc"

// Goes on if the condition holds; else says what is wrong and ends the run.
.macro need cond, text
    b.\cond .Lneeded\@
    print "FAILED: \text\n"
    exit 1
.Lneeded\@:
.endm

main:
    print "vm-accel built-in guest\n"
    print "mode        AArch64, EL"
    mrs x0, currentel
    lsr x0, x0, #2
    bl decimal
    print "\n"
    bl show_processor
    bl show_tree
    bl show_firmware
    bl show_timer
    bl show_serial
    print "all is well: powering off by PSCI\n"
    psci PSCI_SYSTEM_OFF
    print "FAILED: the machine is still on\n"
    exit 1

show_processor:
    mov x28, x30
    print "processor   MIDR "
    mrs x0, midr_el1
    bl hex
    print "\n"
    ret x28

show_tree:
    mov x28, x30
    ldr x0, =device_tree
    ldr x19, [x0]
    ldr w0, [x19]
    rev w0, w0
    ldr w1, =0xd00dfeed
    cmp w0, w1
    need eq, "X0 has no device tree"
    print "device tree "
    ldr w0, [x19, #4]
    rev w0, w0
    bl decimal
    print " bytes\n"
    ret x28

show_firmware:
    mov x28, x30
    psci PSCI_VERSION
    mov w19, w0
    lsr w20, w0, #16
    cmp w0, #2
    need hs, "there is no PSCI 0.2"
    print "firmware    PSCI "
    mov w0, w20
    bl decimal
    print "."
    and w0, w19, #0xffff
    bl decimal
    print "\n"
    ret x28

// Ten interrupts of the virtual timer at 1 kHz.
show_timer:
    mov x28, x30
    bl gic_init
    enable VTIMER_INTID
    ldr x0, =on_interrupt
    ldr x1, =tick
    str x1, [x0]
    mrs x19, cntfrq_el0
    mov x0, #1000
    udiv x20, x19, x0
    cmp x20, #0
    need ne, "the timer has no frequency"
    mrs x21, cntvct_el0
    msr cntv_tval_el0, x20
    mov x0, #1
    msr cntv_ctl_el0, x0
    await VTIMER_INTID, 10
    msr cntv_ctl_el0, xzr
    mrs x0, cntvct_el0
    sub x0, x0, x21
    mov x1, #10
    mul x1, x1, x20
    cmp x0, x1
    need hs, "the timer's interrupts came too early"
    print "timer       10 interrupts, WFI in between; it runs at "
    mov x0, x19
    mov x1, #1000
    udiv x0, x0, x1
    bl decimal
    print " kHz\n"
    print "interrupts  GICv"
    ldr x0, =gicv2
    ldr w1, [x0]
    mov w0, #3
    sub w0, w0, w1
    bl decimal
    print "\n"
    ret x28
tick:
    msr cntv_tval_el0, x20
    isb
    ret

show_serial:
    mov x28, x30
    print "serial      "
    ldr x0, =on_interrupt
    ldr x1, =sent
    str x1, [x0]
    enable COM1_INTID
    outb COM1 + 4, 0xb
    outb COM1 + 1, 2
    await COM1_INTID, 1
    print "transmitter interrupt taken\n"
    ret x28
sent:
    ldr x0, =COM1 + 2
    ldrb w1, [x0]
    outb COM1 + 1, 0
    ret

decimal:                        // prints X0
    stp x27, x30, [sp, #-16]!
    mov x1, #10
    udiv x2, x0, x1
    msub x27, x2, x1, x0
    cbz x2, 1f
    mov x0, x2
    bl decimal
1:  add w0, w27, #'0'
    bl putc
    ldp x27, x30, [sp], #16
    ret
