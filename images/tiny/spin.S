# spin: an endless loop, which only a time limit ends.
# timeout: 2s
# load: flat 0x1000 real
# status: 124
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    jmp start
