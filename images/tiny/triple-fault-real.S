# triple-fault-real: as triple-fault, in real mode.
# load: flat 0x1000 real
# status: 121
# needs: full-kernel
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    cli
    mov ax, cs
    mov ds, ax
    call 1f
1:  pop bx
    lidt [bx + empty - 1b]
    ud2
empty:
    .word 0
    .long 0
