# reset-cf9: resets the machine by the reset control register.
# load: flat 0x1000 real
# status: 0
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    mov dx, RESET_CTRL
    mov al, 2
    out dx, al
    mov al, 6
    out dx, al
    cli
1:  hlt
    jmp 1b
