# exit-119: ends with the highest status that is a guest's own, written to
# the debug exit port as 32 bits.
# load: flat 0x1000 real
# status: 119
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    mov eax, 119
    mov dx, DEBUG_EXIT
    out dx, eax
