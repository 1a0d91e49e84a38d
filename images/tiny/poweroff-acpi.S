# poweroff-acpi: enters S5 by the ACPI sleep control register of the
# hardware-reduced machine.
# load: flat 0x1000 real
# status: 0
# needs: acpi
.include "machine.inc"
.code16
.section .head, "ax"
.globl start
start:
    mov dx, SLEEP_CTRL
    mov al, 5 << 2 | 0x20
    out dx, al
    cli
1:  hlt
    jmp 1b
