// irq-serial: the interrupt of COM1's empty transmitter.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
.include "arm64-gic.inc"
main:
    bl gic_init
    enable COM1_INTID
    ldr x0, =on_interrupt
    ldr x1, =sent
    str x1, [x0]
    outb COM1 + 4, 0xb
    outb COM1 + 1, 2
    await COM1_INTID, 1
    ldr x0, =seen
    ldr w0, [x0]
    and w0, w0, #0xf
    cmp w0, #2                  // the transmitter
    check eq, 1
    b pass
sent:
    ldr x0, =COM1 + 2
    ldrb w1, [x0]
    ldr x2, =seen
    str w1, [x2]
    outb COM1 + 1, 0
    ret
.bss
seen: .skip 8
