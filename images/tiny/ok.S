# ok: prints OK and ends with 0, in real mode, as fast as can be: the benchmark
# of a start.
# load: flat 0x1000 real
# status: 0
# stdout: OK
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    mov dx, COM1
    mov al, 'O'
    out dx, al
    mov al, 'K'
    out dx, al
    mov al, '\n'
    out dx, al
    xor al, al
    out DEBUG_EXIT, al
