# cli-hlt: halts with interrupts off: nothing can ever wake it.
# load: flat 0x1000 real
# status: 122
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    cli
1:  hlt
    jmp 1b
