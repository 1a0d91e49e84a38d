# descriptors: LSL, LAR, VERR and VERW; a write across a page edge whose second
# page is absent stores nothing.
# load: kernel
# status: 0
# stdout: OK
# needs: full-kernel
.include "long.inc"
main:
    mov eax, UDATA
    lsl ecx, eax
    check z, 1
    cmp ecx, -1
    check e, 2
    mov rax, 0x0040930200000fff
    mov [gdt + SPARE], rax
    mov eax, SPARE
    lsl ecx, eax
    check z, 3
    cmp ecx, 0xfff
    check e, 4
    lar ecx, eax
    check z, 5
    cmp ecx, 0x00409300
    check e, 6
    mov eax, GDT_END            # beyond the GDT
    lar ecx, eax
    check nz, 7
    lsl ecx, eax
    check nz, 8
    mov eax, KCODE64
    verr ax
    check z, 9
    verw ax
    check nz, 10
    mov eax, KDATA
    verw ax
    check z, 11
    # A page edge.
    mov qword ptr [window], offset page + 3
    faults 14, 2, 12, mov qword ptr [WINDOW + 0xffc], -1
    cmp qword ptr [fault_cr2], WINDOW + 0x1000
    check e, 13
    cmp dword ptr [page + 0xffc], 0
    check e, 14
    ret
.bss
.balign 4096
page:   .skip 4096
