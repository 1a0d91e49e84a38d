# A ROM in place of QEMU's firmware: it starts the flat binary at ENTRY (given
# by --defsym) in real mode, or in long mode with 4 GiB mapped one to one.
# 64 KiB that end at the reset vector, also visible at 0xf0000.
.intel_syntax noprefix
.code16
.section .head, "ax"
.globl start
start:
.ifndef LONG
    cli
    ljmp 0, ENTRY
.else
    cli
    mov ax, 0xf000
    mov ds, ax
    lgdtd [gdtr - start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmpd 8, offset protected - start + 0xf0000
.code32
protected:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov edi, 0x80000            # PML4, PDPT, four PDs
    mov dword ptr [edi], 0x81003
    xor ebx, ebx
1:  lea eax, [ebx * 8 + 0x81000]
    mov ecx, ebx
    shl ecx, 12
    add ecx, 0x82003
    mov [eax], ecx
    inc ebx
    cmp ebx, 4
    jb 1b
    mov edi, 0x82000
    mov eax, 0x83
    mov ecx, 2048
2:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    loop 2b
    mov eax, 0x20
    mov cr4, eax
    mov eax, 0x80000
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    ljmp 0x10, offset long - start + 0xf0000
.code64
long:
    mov eax, ENTRY
    jmp rax
.balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:
    .word 31
    .long gdt - start + 0xf0000
.endif
.org 0xfff0
.code16
    ljmp 0xf000, 0
.org 0x10000
