# bios-tick: a Multiboot kernel that goes back to real mode finds what a PC's BIOS has
# left there: a timer at IRQ 0, whose handler counts at 0040:006C and ends the
# interrupt, so that HLT goes on.
# load: multiboot
# status: 0
# stdout: OK
.include "machine.inc"
.code32
.section .head, "ax"
    .long 0x1badb002, 0, -0x1badb002
.globl start
start:
    mov esp, offset stack_top
    # The vectors and the data area, as they are in memory.
    cmp dword ptr [8 * 4], 0    # IRQ 0 and, in the second 8259's range, IRQ 8
    check ne, 1
    cmp dword ptr [0x70 * 4], 0
    check ne, 2
    cmp word ptr [0x413], 600   # KiB of low memory
    check ae, 3
    in al, PIC1 + 1
    test al, 1                  # open
    check z, 4
    # Real mode, in low memory.
    cld
    mov esi, offset low
    mov edi, 0x8000
    mov ecx, offset low_end - low
    rep movsb
    lgdt gdtr
    lidt real_idtr
    .byte 0xea                  # jmp 8:0x8000
    .long 0x8000
    .word 8
.code16
low:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    ljmp 0, 0x8000 + 1f - low
1:  xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7000
    mov ebx, ds:[0x46c]
    mov cx, 3
    # Each HLT ends by a tick; three of them count at least two.
2:  sti
    hlt
    loop 2b
    cli
    mov eax, ds:[0x46c]
    sub eax, ebx
    cmp eax, 2
    mov al, 5
    jb 3f
    # The handler has ended its interrupts.
    mov al, 0x0b                # OCW3: read ISR
    out PIC1, al
    in al, PIC1
    test al, al
    mov al, 6
    jnz 3f
    mov dx, COM1
    mov al, 'O'
    out dx, al
    mov al, 'K'
    out dx, al
    mov al, 10
    out dx, al
    mov al, 0
3:  out DEBUG_EXIT, al
    cli
4:  hlt
    jmp 4b
low_end:
.code32
    routines
.data
.balign 8
gdt:
    .quad 0
    .quad 0x00009b000000ffff    # 16-bit code
    .quad 0x000093000000ffff
gdtr:
    .word . - gdt - 1
    .long gdt
real_idtr:
    .word 0x3ff
    .long 0
.bss
    .skip 1024
stack_top:
