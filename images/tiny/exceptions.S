# exceptions: each exception arrives with its error code, address and frame.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
main:
    # #DE
    xor edx, edx
    xor ecx, ecx
    faults 0, 0, 1, div ecx
    mov eax, 0x80000000
    cdq
    mov ecx, -1
    faults 0, 0, 2, idiv ecx
    mov eax, 0x1000
    mov cl, 1
    faults 0, 0, 3, div cl          # quotient too large

    # #UD
    faults 6, 0, 4, ud2
    faults 6, 0, 5, .byte 0x0f, 0x0b
    faults 6, 0, 6, .byte 0x06          # push es
    faults 6, 0, 7, .byte 0xf0, 0x90    # lock nop
.ifndef QEMU                        # QEMU executes it
    faults 6, 0, 8, .byte 0xf0, 0x89, 0xc0  # lock mov
.endif
    # #DB by the trap flag: after each instruction.
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    nop
    pushfq
    and qword ptr [rsp], ~0x100
    popfq
    cmp dword ptr [fault_vector], 1
    check e, 16
    mov rax, dr6
    test eax, 1 << 14               # BS
    check nz, 17
    cmp dword ptr [counts + 1 * 4], 5   # after each, the last one is the popfq
    check e, 18
    mov eax, 0xffff0ff0
    mov dr6, rax

    # #GP

    jmp 3f
noncanonical: .quad 0x8000000000000000
3:  mov rbx, [noncanonical]
    faults 13, 0, 21, mov al, [rbx]
    mov rbx, [noncanonical]
    faults 13, 0, 22, jmp rbx
    faults 13, 0xfff8, 23, call load_ds # a selector beyond the GDT
    faults 13, UDATA, 24, call load_ss_user    # SS of the wrong DPL
.ifndef QEMU                        # QEMU allows it
    faults 13, 0, 25, call load_ss_null3
.endif
.ifndef QEMU                        # QEMU ignores these
    mov ecx, 0x12345678
    faults 13, 0, 26, rdmsr         # an MSR that doesn't exist
    mov ecx, 0xc0000080
    mov edx, -1
    mov eax, -1
    faults 13, 0, 27, wrmsr         # reserved bits of EFER
    mov rax, cr0
    btr rax, 0
    faults 13, 0, 28, mov cr0, rax  # PG without PE
    mov rax, cr4
    bts rax, 31
    faults 13, 0, 29, mov cr4, rax
.endif
    mov eax, TSS_SEL
    faults 13, TSS_SEL, 31, ltr ax  # a busy TSS
    faults 13, 8, 32, call lldt_code
    # #NP and #SS by absent segments.
    mov rax, 0x00cf13000000ffff     # data, not present
    mov [gdt + SPARE], rax
    mov eax, SPARE
    faults 11, SPARE, 34, mov ds, eax
    mov eax, SPARE
    faults 12, SPARE, 35, mov ss, eax
    mov rax, 0x00af1b000000ffff     # code, not present
    mov [gdt + SPARE], rax
    faults 11, SPARE, 36, call far_spare
.ifndef QEMU                        # QEMU raises #GP
    mov rbx, [noncanonical]
    gate 12, 1, 0x8e
    faults 12, 0, 37, call bad_stack
    gate 12, 0, 0x8e
.endif
    # #TS: a stack selector in an interrupt's inner stack doesn't exist in long
    # mode; IRET to a NULL CS is #GP(0).
    faults 13, 0, 38, call iret_null

    # #PF: not present, read and write; reserved bit; fetch from NX.
    faults 14, 0, 40, mov al, [WINDOW + 0x5123]
    cmp qword ptr [fault_cr2], WINDOW + 0x5123
    check e, 41
    faults 14, 2, 42, mov [WINDOW + 0x6000], al
    cmp qword ptr [fault_cr2], WINDOW + 0x6000
    check e, 43
    mov qword ptr [window], offset page + 1
    faults 14, 3, 44, mov [WINDOW + 8], al      # read-only and CR0.WP
    mov qword ptr [pml4 + 8], offset pdpt + 0x83    # PS in a PML4 entry is reserved
    faults 14, RSVD_ERROR, 45, movabs al, [0x8000000000]
    mov eax, offset page + 3
    bts rax, 63                                 # NX
    mov [window + 16], rax
    mov byte ptr [page], 0xc3
    mov ebx, WINDOW + 0x2000
    faults 14, 0x11, 46, call rbx
    faults 14, 0x10, 47, call fetch_absent
    # An access across a page edge: CR2 is the first byte that fails.
    mov qword ptr [window + 24], offset page + 3
    faults 14, 2, 48, mov qword ptr [WINDOW + 0x3ffc], -1
    cmp qword ptr [fault_cr2], WINDOW + 0x4000
    check e, 49
    # A fault in the middle of rep movs: the registers say how far it came.
    mov qword ptr [on_exception], offset note_registers
    mov edi, WINDOW + 0x3ff0
    mov esi, offset main
    mov ecx, 32
    rep movsb
    cmp ecx, 0
    check e, 51
    cmp edi, WINDOW + 0x4010
    check e, 52
    cmp dword ptr [noted_rcx], 16
    check e, 53
    cmp dword ptr [noted_rdi], WINDOW + 0x4000
    check e, 54
    mov qword ptr [on_exception], 0

    # A double fault: a page fault whose gate is absent, on the stack of IST 1.
    and byte ptr [idt + 14 * 16 + 5], 0x7f
    gate 8, 1, 0x8e
    faults 8, 0, 60, mov al, [WINDOW + 0x7000]
    mov rax, [fault_frame]
    cmp rax, offset ist1_top - 40
    check e, 61
    or byte ptr [idt + 14 * 16 + 5], 0x80

    ret

load_ds:
    mov eax, 0xfff8
    mov ds, eax
    ret
load_ss_user:
    mov eax, UDATA
    mov ss, eax
    ret
load_ss_null3:
    mov eax, 3
    mov ss, eax
    ret
lldt_code:
    mov eax, 8
    lldt ax
    ret
far_spare:
    push SPARE
    push offset main
    .byte 0x48, 0xcb
bad_stack:
    mov rsp, rbx
    push rax
    ret
iret_null:
    xor eax, eax
    push rax
    push rsp
    push 2
    push rax
    push offset main
    iretq
fetch_absent:
    mov eax, WINDOW + 0x8000
    call rax
    ret
note_registers:                     # gives the page, so that the instruction goes on
    mov rax, [rsp + 16]             # RCX at the fault: pushed by `arrived`
    mov [noted_rcx], rax
    mov [noted_rdi], rdi
    mov qword ptr [window + 32], offset page2 + 3
    ret
.bss
.balign 4096
page:   .skip 4096
page2:  .skip 4096
noted_rcx: .skip 8
noted_rdi: .skip 8
.text
