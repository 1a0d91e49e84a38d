# registers: control registers, debug registers, MSRs and RFLAGS keep what is
# written to them.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"

# Writes a value to an MSR, checks that it reads back, and restores the MSR.
.macro msr index, value, number
    mov ecx, \index
    rdmsr
    mov ebx, eax
    mov edi, edx
    movabs rax, \value
    mov rdx, rax
    shr rdx, 32
    wrmsr
    rdmsr
    shl rdx, 32
    mov eax, eax
    or rdx, rax
    movabs rax, \value
    cmp rdx, rax
    check e, \number
    mov eax, ebx
    mov edx, edi
    wrmsr
.endm

main:
    # CR0: WP, NE, AM, MP, TS, EM are free; PE, PG and ET stay set.
    mov rbx, cr0
    mov rax, rbx
    xor eax, 0x0005000e         # AM, WP, TS, EM, MP
    mov cr0, rax
    mov rcx, cr0
    cmp rcx, rax
    check e, 1
    clts
    mov rcx, cr0
    test ecx, 8
    check z, 2
    mov cr0, rbx
    smsw eax
    cmp ax, bx
    check e, 3
    mov eax, ebx
    or eax, 8
    lmsw ax                     # sets TS
    mov rcx, cr0
    test ecx, 8
    check nz, 4
    and eax, ~9                 # LMSW clears TS, but never PE
    lmsw ax
    mov rcx, cr0
    cmp rcx, rbx
    check e, 5
    # CR2 is only a register.
    mov rax, 0x123456789abcdef0
    mov cr2, rax
    mov rcx, cr2
    cmp rcx, rax
    check e, 6
    # CR3 keeps PCD and PWT; another table takes effect.
    mov rax, cr3
    mov rbx, rax
    or eax, 0x18
    mov cr3, rax
    mov rcx, cr3
    cmp rcx, rax
    check e, 7
    mov cr3, rbx
    # CR4: PGE, TSD, DE, PSE, MCE are free.
    mov rbx, cr4
    mov rax, rbx
    or eax, 0xdc
    mov cr4, rax
    mov rcx, cr4
    cmp rcx, rax
    check e, 8
    mov cr4, rbx
    # CR8.
    mov eax, 15
    mov cr8, rax
    mov rcx, cr8
    cmp ecx, 15
    check e, 9
    xor eax, eax
    mov cr8, rax
    # Debug registers.
    mov rax, 0x123456789abc
    mov dr0, rax
    mov dr3, rax
    mov rcx, dr0
    cmp rcx, rax
    check e, 10
    mov rcx, dr3
    cmp rcx, rax
    check e, 11
    mov rax, dr7
    test eax, 0x400             # bit 10 is always one
    check nz, 12
    xor eax, eax
    mov dr0, rax
    mov dr3, rax
    mov rax, dr6
    and eax, 0x0ff0
    cmp eax, 0x0ff0
    check e, 13

    # EFER: SCE, NXE free; LME, LMA set.
    mov ecx, 0xc0000080
    rdmsr
    mov ebx, eax
    and eax, 0xd00
    cmp eax, 0xd00
    check e, 14
    mov eax, ebx
    xor eax, 1
    wrmsr
    rdmsr
    xor eax, ebx
    cmp eax, 1
    check e, 15
    mov eax, ebx
    wrmsr

    msr 0xc0000081, 0x0023001000000000, 20  # STAR
    msr 0xc0000082, 0xffffffff80123456, 21  # LSTAR
    msr 0xc0000083, 0xffffffff80123457, 22  # CSTAR
    msr 0xc0000084, 0x0000000000047700, 23  # SFMASK
    msr 0xc0000100, 0x00007fff12345678, 24  # FS base
    msr 0xc0000101, 0xffff800012345678, 25  # GS base
    msr 0xc0000102, 0x0000123456789abc, 26  # kernel GS base
    msr 0x174, 0x8, 27                      # SYSENTER CS
    msr 0x175, 0x00001234567890a0, 28       # ESP
    msr 0x176, 0xffffffff80001000, 29       # EIP
    msr 0x277, 0x0007040600070106, 30       # PAT

    # SWAPGS; FS and GS bases reach memory accesses.
    mov ecx, 0xc0000101
    mov eax, offset word1
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000102
    mov eax, offset word2
    wrmsr
    cmp qword ptr gs:[0], 111
    check e, 31
    swapgs
    cmp qword ptr gs:[0], 222
    check e, 32
    swapgs
    cmp qword ptr gs:[0], 111
    check e, 33
    mov ecx, 0xc0000100
    mov eax, offset word2 - 8
    wrmsr
    cmp qword ptr fs:[8], 222
    check e, 34
    xor eax, eax
    mov rax, fs:[rax + 8]
    cmp rax, 222
    check e, 35
    # Loading a descriptor replaces the base.
    mov eax, KDATA
    mov fs, eax
    mov ecx, 0xc0000100
    rdmsr
    or eax, edx
    check z, 36
    # An unaligned CR3 write, the descriptor tables, LDTR, TR.
    sgdt [store]
    cmp word ptr [store], GDT_END - 1
    check e, 40
    cmp qword ptr [store + 2], offset gdt
    check e, 41
    sidt [store]
    cmp word ptr [store], 256 * 16 - 1
    check e, 42
    cmp qword ptr [store + 2], offset idt
    check e, 43
    str eax
    cmp eax, TSS_SEL
    check e, 44
    xor eax, eax
    lldt ax
    mov eax, -1
    sldt eax
    test eax, eax
    check z, 45
    # RFLAGS: ID, AC, NT, IOPL, DF and the arithmetic flags are free.
    pushfq
    pop rbx
    mov rax, rbx
    xor rax, 0x247cd5
    push rax
    popfq
    pushfq
    pop rcx
    push rbx
    popfq
    cmp rcx, rax
    check e, 46
    mov ah, 0xd5
    sahf
    lahf
    cmp ah, 0xd7
    check e, 47
    wbinvd
    ret
.data
.balign 8
word1:  .quad 111
word2:  .quad 222
.bss
store:  .skip 16
.text
