# reset-i8042: resets the machine by the keyboard controller's pulse command,
# after waiting for its input buffer as every operating system does.
# load: flat 0x1000 real
# status: 0
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    mov cx, 1000
1:  in al, 0x64
    test al, 2
    loopnz 1b
    mov al, 0xfe
    out 0x64, al
    cli
1:  hlt
    jmp 1b
