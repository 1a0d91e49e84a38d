# ring3: IRET to user mode; SYSCALL and SYSRET; interrupt gates from user mode on
# the TSS's stack and on an IST stack; user-mode faults with the U bit; privileged
# instructions, the I/O permission map, CALL through a gate's DPL; 32-bit user code.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"

# Runs code at ring 3 from a label until it faults: its vector and error code.
.macro user label, vector, error, number
    mov r15d, offset \label - user_code + WINDOW
    faults \vector, \error, \number, call enter
    cmp qword ptr [fault_cs], UCODE64 + 3
    check e, \number
.endm

main:
    mov word ptr [tss + 102], 104       # no I/O permission map: beyond the limit
    # User code at WINDOW, user stack above it.
    mov eax, offset user_code + 7
    mov [window], rax
    mov qword ptr [window + 8], offset user_stack + 7
    mov eax, offset kernel_page + 3
    mov [window + 16], rax

    user u_ud, 6, 0, 1
    cmp qword ptr [fault_rip], offset u_ud - user_code + WINDOW
    check e, 2
    cmp qword ptr [fault_rsp], WINDOW + 0x2000
    check e, 3
    mov rax, [fault_frame]      # the frame is on RSP0's stack
    cmp rax, offset stack0_top - 40
    check e, 4
    user u_hlt, 13, 0, 5
    user u_cli, 13, 0, 6
    user u_cr0, 13, 0, 7
    user u_msr, 13, 0, 8
    user u_out, 13, 0, 9
    user u_read, 14, 5, 10
    user u_write, 14, 7, 11
    user u_absent, 14, 4, 12
    user u_fetch, 14, 0x15, 13
    user u_int40, 13, (0x40 * IDT_ERROR + 2), 14    # its gate's DPL is 0
    user u_ss0, 13, KDATA, 15
    user u_lgdt, 13, 0, 16
    user u_invlpg, 13, 0, 17

    # A gate of DPL 3, on IST 1.
    gate 0x41, 1, 0xee
    mov qword ptr [on_interrupt], offset note_stack
    user u_int41, 6, 0, 20
    cmp dword ptr [counts + 0x41 * 4], 1
    check e, 21
    cmp qword ptr [stack_seen], offset ist1_top
    check be, 22
    cmp qword ptr [stack_seen], offset ist1_top - 128
    check ae, 23
    mov qword ptr [on_interrupt], 0

    # The I/O permission map allows one port.
    mov edi, offset tss + 104
    mov ecx, 33
    mov al, 0xff
    rep stosb
    mov byte ptr [tss + 104 + 0xed / 8], ~(1 << (0xed & 7)) & 0xff
    mov word ptr [gdt + TSS_SEL], 104 + 32
    and byte ptr [gdt + TSS_SEL + 5], ~2
    mov eax, TSS_SEL
    ltr ax
    user u_in_ed, 6, 0, 24
    user u_in_word, 13, 0, 25

    # SYSCALL and SYSRET.
    mov ecx, 0xc0000080
    rdmsr
    bts eax, 0
    wrmsr
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, (UCODE32 + 3) << 16 | KCODE64
    wrmsr
    mov ecx, 0xc0000082
    mov eax, offset system_call
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x700              # TF, IF, DF
    wrmsr
    user u_syscall, 6, 0, 30
    cmp dword ptr [calls], 3
    check e, 31
    cmp dword ptr [seen_cs], KCODE64
    check e, 32
    cmp dword ptr [seen_ss], KDATA
    check e, 33
    test dword ptr [seen_flags], 0x700
    check z, 34
    test dword ptr [seen_r11], 0x400    # R11 has the user's flags: DF
    check nz, 35
    test qword ptr [fault_flags], 0x400 # and SYSRET gave them back
    check nz, 36

    # 32-bit user code, by IRET: its registers are 32 bits wide.
    mov rax, -1
    push UDATA + 3
    push WINDOW + 0x2000
    push 2
    push UCODE32 + 3
    push offset u_compat - user_code + WINDOW
    faults 6, 0, 40, iretq
    cmp qword ptr [fault_cs], UCODE32 + 3
    check e, 41
    cmp dword ptr [counts + 0x41 * 4], 2
    check e, 42
    add rsp, 40

    # SYSCALL without EFER.SCE is #UD.
    mov ecx, 0xc0000080
    rdmsr
    btr eax, 0
    wrmsr
    user u_syscall, 6, 0, 43
    cmp qword ptr [fault_rip], offset u_syscall - user_code + WINDOW + 1
    check e, 44
    ret

enter:                          # to R15 at ring 3
    mov eax, UDATA + 3
    mov ds, eax
    push rax
    push WINDOW + 0x2000
    push 2
    push UCODE64 + 3
    push r15
    iretq
note_stack:
    mov [stack_seen], rsp
    ret
system_call:
    mov [seen_r11], r11
    inc dword ptr [calls]
    mov eax, cs
    mov [seen_cs], eax
    mov eax, ss
    mov [seen_ss], eax
    mov rax, rsp
    mov esp, offset ist1_top
    pushfq
    pop rdx
    mov [seen_flags], edx
    mov rsp, rax
    .byte 0x48, 0x0f, 0x07      # SYSRET to 64-bit code

.balign 4096
user_code:
u_ud:
    ud2
u_hlt:
    hlt
u_cli:
    cli
u_cr0:
    mov rax, cr0
u_msr:
    mov ecx, 0x10
    rdmsr
u_out:
    out 0xed, al
u_read:
    mov al, [WINDOW + 0x2000]
u_write:
    mov [WINDOW + 0x2000], al
u_absent:
    mov al, [WINDOW + 0x3000]
u_fetch:
    mov eax, WINDOW + 0x2000
    jmp rax
u_int40:
    int 0x40
u_ss0:
    mov eax, KDATA
    mov ss, eax
u_lgdt:
    lgdt [WINDOW]
u_invlpg:
    invlpg [WINDOW]
u_int41:
    int 0x41
    ud2
u_in_ed:
    in al, 0xed
    ud2
u_in_word:
    in ax, 0xed
u_syscall:
    std
    syscall
    syscall
    syscall
    ud2
.code32
u_compat:
    inc eax                     # one byte: REX in 64-bit code
    jnz 1f
    int 0x41
1:  push eax
    cmp esp, WINDOW + 0x1ffc
    jne 2f
    ud2
2:  hlt
.code64
.balign 4096
.bss
.balign 4096
user_stack: .skip 4096
kernel_page: .skip 4096
stack_seen: .skip 8
calls:      .skip 8
seen_r11:   .skip 8
seen_cs:    .skip 8
seen_ss:    .skip 8
seen_flags: .skip 8
.text
