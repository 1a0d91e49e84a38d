# int: INT3 and INT n in kernel mode: the frame, no interrupt flag needed, gates
# that are absent or beyond the IDT's limit.
# load: kernel
# status: 0
# stdout: OK
# needs: int-kernel
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
    ret
short_idt:
    .word 0x80 * 16 - 1
    .quad idt
