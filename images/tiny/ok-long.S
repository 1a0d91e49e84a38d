# ok-long: prints OK and ends with 0, as a flat binary that is entered in long
# mode. It needs nothing but mapped memory: no stack, no segments.
# load: flat 0x100000 long
# status: 0
# stdout: OK
.include "machine.inc"
.code64
.section .head, "ax"
.globl start
start:
    mov edx, COM1
    mov al, 'O'
    out dx, al
    mov al, 'K'
    out dx, al
    mov al, '\n'
    out dx, al
    xor eax, eax
    out DEBUG_EXIT, al
