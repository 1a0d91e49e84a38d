// irq-spi: a device's level-triggered line interrupts until it falls, one that is
// masked stays pending, and WFI ends although interrupts are masked.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
.include "arm64-gic.inc"
main:
    bl gic_init
    enable TEST_INTID
    ldr x0, =on_interrupt
    ldr x1, =third
    str x1, [x0]
    outb TEST_LINES, 1
    msr daifset, #2
    wfi
    ldr x9, =counts + TEST_INTID * 4
    ldr w10, [x9]
    cmp w10, #0
    check eq, 1
    await TEST_INTID, 3
    msr daifclr, #2
    isb
    nop
    msr daifset, #2
    ldr w10, [x9]
    cmp w10, #3
    check eq, 2
    // A line that is not enabled.
    outb TEST_LINES + 1, 1
    msr daifclr, #2
    isb
    nop
    msr daifset, #2
    ldr x9, =counts + TEST_INTID * 4 + 4
    ldr w10, [x9]
    cmp w10, #0
    check eq, 3
    enable TEST_INTID + 1
    ldr x0, =on_interrupt
    ldr x1, =lower
    str x1, [x0]
    await TEST_INTID + 1, 1
    b pass
third:                          // the third time, the line falls
    ldr x1, =counts + TEST_INTID * 4
    ldr w1, [x1]
    cmp w1, #3
    b.ne 1f
    outb TEST_LINES, 0
1:  ret
lower:
    outb TEST_LINES + 1, 0
    ret
