# panic: tells pvpanic that it panicked (bit 0, as Linux does), then halts.
# load: flat 0x1000 real
# status: 120
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    mov dx, PVPANIC
    mov al, 1
    out dx, al
    cli
1:  hlt
    jmp 1b
