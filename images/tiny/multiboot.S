# multiboot: a Multiboot 1 kernel: the magic, the flags, the memory map, the
# command line, the machine state that the specification promises.
# load: multiboot
# status: 0
# stdout: OK
# cmdline: hello multiboot
.include "machine.inc"
.code32
.section .head, "ax"
    .long 0x1badb002, 3, -(0x1badb002 + 3)
.globl start
start:
    mov esp, offset stack_top
    cmp eax, 0x2badb002
    check e, 1
    mov ebp, ebx                # the info block
    mov eax, cr0
    and eax, 0x80000001         # protected, not paged
    cmp eax, 1
    check e, 2
    pushfd
    pop eax
    test eax, 0x20200           # interrupts off, no VM86
    check z, 3
    mov eax, [ebp]
    test al, 1                  # mem_lower, mem_upper
    check nz, 4
    cmp dword ptr [ebp + 4], 600
    check ae, 5
    cmp dword ptr [ebp + 8], 1024
    check ae, 6
    test al, 4                  # the command line; it may begin with a file name
    check nz, 7
    mov esi, [ebp + 16]
1:  lodsb
    test al, al
    check nz, 8
    cmp al, 'h'
    jne 1b
    cmp dword ptr [esi], 'e' | 'l' << 8 | 'l' << 16 | 'o' << 24
    jne 1b
    cmp dword ptr [esi + 5], 'm' | 'u' << 8 | 'l' << 16 | 't' << 24
    check e, 9
    test byte ptr [ebp], 0x40   # the memory map has RAM at 1 MiB
    check nz, 10
    mov esi, [ebp + 48]
    mov ecx, [ebp + 44]
    add ecx, esi
2:  cmp esi, ecx
    check b, 11
    cmp dword ptr [esi + 20], 1
    jne 3f
    cmp dword ptr [esi + 4], 0x100000
    je 4f
3:  add esi, [esi]
    add esi, 4
    jmp 2b
4:  cmp dword ptr [esi + 12], 0x100000
    check ae, 12
    cmp dword ptr [start], 0    # text and stack are there; bss is clear
    cmp dword ptr cleared, 0
    check e, 13
    print "OK\n"
    exit 0
    routines
.bss
cleared: .skip 64
    .skip 1024
stack_top:
