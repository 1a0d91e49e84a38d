# triple-fault: an IDT with no room for any vector, then an exception.
# load: flat 0x100000 long
# status: 121
.include "machine.inc"
.code64
.section .head, "ax"
.globl start
start:
    lidt [rip + empty]
    ud2
empty:
    .word 0
    .quad 0
