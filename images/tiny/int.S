# int: INT3 and INT n in kernel mode: the frame, no interrupt flag needed, gates
# that are absent or beyond the IDT's limit; a data breakpoint.
# load: kernel
# status: 0
# stdout: OK
# needs: full-kernel
.include "long.inc"
main:
    # #BP and int n are traps: rip is the next instruction; the gate returns.
    mov rdi, rsp
    int3
1:  cmp qword ptr [fault_rip], offset 1b
    check e, 10
    cmp dword ptr [fault_vector], 3
    check e, 11
    cmp qword ptr [fault_cs], KCODE64
    check e, 12
    cmp [fault_rsp], rdi
    check e, 13
    cmp rsp, rdi
    check e, 14
    int 3 + 0
    cmp dword ptr [counts + 3 * 4], 2
    check e, 15
    # INT n needs no interrupt flag.
    int 0x80
    cmp dword ptr [counts + 0x80 * 4], 1
    check e, 16
    lidt [short_idt]
    faults 13, (0x90 * IDT_ERROR + 2), 17, int 0x90   # beyond the limit of the IDT
    lidt idtr
    # An interrupt gate with DPL 0 that is absent is #NP.
    and byte ptr [idt + 0x50 * 16 + 5], 0x7f
    faults 11, (0x50 * IDT_ERROR + 2), 18, int 0x50
    # The debug registers: a data breakpoint.
    mov eax, offset watched
    mov dr0, rax
    mov eax, 0x000d0402             # DR0: write, 4 bytes, global
    mov dr7, rax
    mov dword ptr [watched], 1
    xor eax, eax
    mov dr7, rax
    mov rax, dr6
    and eax, 0xf
    cmp eax, 1
    check e, 20
    ret
short_idt:
    .word 0x80 * 16 - 1
    .quad idt
.bss
watched: .skip 8
.text
