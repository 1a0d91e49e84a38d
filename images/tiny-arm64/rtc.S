// rtc: the PL031 says what it is, has a date after 2020, counts when it is set, and
// its alarm interrupts.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
.include "arm64-gic.inc"
main:
    bl gic_init
    enable RTC_INTID
    ldr x0, =on_interrupt
    ldr x1, =alarm
    str x1, [x0]
    ldr x19, =RTC
    ldr w0, [x19, #0xfe0]
    cmp w0, #0x31
    check eq, 1
    ldr w0, [x19]
    ldr w1, =1577836800
    cmp w0, w1
    check hi, 2
    mov w0, #1000
    str w0, [x19, #8]
    ldr w0, [x19]
    cmp w0, #1000
    check hs, 3
    add w0, w0, #1
    str w0, [x19, #4]
    mov w0, #1
    str w0, [x19, #0x10]
    await RTC_INTID, 1
    ldr w0, [x19]
    ldr w1, [x19, #4]
    cmp w0, w1
    check hs, 4
    b pass
alarm:
    ldr x0, =RTC
    mov w1, #1
    str w1, [x0, #0x1c]
    ret
