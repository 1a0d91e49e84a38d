# exit-42: ends with a status of its own by the debug exit port.
# load: flat 0x1000 real
# status: 42
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    mov al, 42
    out DEBUG_EXIT, al
