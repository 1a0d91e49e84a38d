// hostile-mmio: reads and writes of each size all over the devices' addresses, aligned
// and not as far as device memory allows. Nothing may crash or hang the machine.
// load: elf
// status: 0
// stdout: OK
// timeout: 120s
.include "arm64.inc"
main:
    // Each page from 0 up to the GIC, and from the devices to the window of ports.
    mov x19, #0
1:  bl touch
    add x19, x19, #0x100000
    ldr x0, =GICD
    cmp x19, x0
    b.lo 1b
    ldr x19, =0x09000000
2:  bl touch
    add x19, x19, #0x80000
    ldr x0, =PORTS
    cmp x19, x0
    b.lo 2b
    // The clock's registers, and the ports but for the debug exit and pvpanic.
    ldr x19, =RTC
3:  bl touch
    add x19, x19, #8
    ldr x0, =RTC + 0x1010
    cmp x19, x0
    b.lo 3b
    ldr x19, =PORTS + 0x100
4:  bl touch
    add x19, x19, #8
    ldr x0, =PORTS + 0x500
    cmp x19, x0
    b.lo 4b
    ldr x19, =PORTS + 0x1ff0
5:  bl touch
    add x19, x19, #8
    ldr x0, =PORTS + 0x2030
    cmp x19, x0
    b.lo 5b
    // Behind the RAM.
    ldr x19, =0x7ffffff8
6:  bl touch
    lsl x19, x19, #1
    and x19, x19, #~7
    lsr x0, x19, #36
    cmp x0, #0
    b.eq 6b
    // COM1 as it was.
    outb COM1 + 3, 3
    outb COM1 + 4, 3
    outb COM1 + 1, 0
    b pass
touch:
    ldr x0, [x19]
    ldr w0, [x19, #4]
    ldrh w0, [x19, #2]
    ldrb w0, [x19, #1]
    ldrsb x0, [x19, #7]
    mov x0, #-1
    str x0, [x19]
    str w0, [x19, #4]
    strh wzr, [x19, #2]
    mov w0, #0x5a
    strb w0, [x19, #3]
    ret
