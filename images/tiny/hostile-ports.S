# hostile-ports: reads and writes every port with each size, and several values
# below 0x1000.
# It leaves out the ports whose job is to end the run: debug exit, the i8042's
# command, port 0x92, the reset register, ACPI's registers, pvpanic; wide accesses
# that reach into them, too. Nothing may stop, crash or hang the machine. (A
# write to the serial port or the debug console may print.)
# load: flat 0x1000 real
# status: 0
# stdout: OK
# timeout: 120s
.include "real.inc"
main:
    xor ebx, ebx                # the port
next:
    mov edi, 4                  # the width of an access
width:
    mov si, offset taboo
1:  lodsw                       # first and last port of a range
    mov cx, ax
    lodsw
    test ax, ax
    jz allowed
    movzx ecx, cx
    movzx eax, ax
    lea ebp, [ebx + edi - 1]
    cmp ebp, ecx
    jb 1b
    cmp ebx, eax
    ja 1b
    shr edi, 1
    jnz width
    jmp done
allowed:
    mov dx, bx
    in al, dx
    xor eax, eax
    call write
    cmp ebx, 0x1000             # beyond the ISA ports one value is enough
    jae done
    not eax
    call write
    mov eax, 0x5aa5a55a
    call write
    in al, dx
done:
    inc ebx
    cmp ebx, 0x10000
    jb next
    # Some devices may have been told nonsense; the serial port still prints.
    mov dx, COM1 + 3
    mov al, 3
    out dx, al
    mov dx, COM1 + 4
    mov al, 3
    out dx, al
    mov dx, COM1 + 2
    xor al, al
    out dx, al
    print "\n"
    ret
# Writes EAX to port DX in all widths up to EDI, and reads it in them.
write:
    out dx, al
    cmp di, 2
    jb 2f
    out dx, ax
    cmp di, 4
    jb 1f
    out dx, eax
    push eax
    in eax, dx
    pop eax
1:  push eax
    in ax, dx
    pop eax
2:  ret
.section .rodata
taboo:
    .word 0x64, 0x64            # i8042 command
    .word 0x92, 0x92            # fast A20 and reset
    .word DEBUG_EXIT, DEBUG_EXIT + 3
    .word 0x505, 0x506          # pvpanic
    .word 0x600, 0x60f          # ACPI registers (here)
.ifdef QEMU
    .word 0x3f8, 0x3ff          # QEMU's serial port has an assertion
    .word 0x510, 0x51b          # fw_cfg, whose DMA would write to memory
    .word 0xb000, 0xb0ff        # ACPI registers, SMI
    .word 0xae00, 0xafff
    .word 0xb2, 0xb3
    .word 0x00, 0x0f            # the DMA controllers
    .word 0xc0, 0xdf
.endif
    .word 0xcf8, 0xcff          # PCI configuration and the reset register in it
    .word 0, 0
