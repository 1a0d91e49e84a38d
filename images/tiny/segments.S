# segments: bases and limits in real and protected mode: #GP and #SS beyond a
# limit, expand-down segments, read-only and execute-only ones, DPL checks, a
# segment's base, "unreal" limits kept in real mode.
# load: flat 0x1000 real
# status: 0
# stdout: OK
.include "real.inc"

# As `check`, for 32-bit code, where `failed` is not to be had.
.macro check32 cond, number
    j\cond .Lgood\@
    mov al, \number
    out DEBUG_EXIT, al
    cli
    hlt
.Lgood\@:
.endm

# Runs an instruction that must raise this vector, in protected mode.
.macro traps number_of, code, number, insn:vararg
    mov dword ptr ss:[vector], -1
    mov dword ptr ss:[resume], offset .Lresume\@
    \insn
.Lresume\@:
    cmp dword ptr ss:[vector], \number_of
    check32 e, \number
    cmp dword ptr ss:[error], \code
    check32 e, \number
.endm

# The same for what QEMU doesn't check: limits and types at an access.
.macro limit_traps number_of, code, number, insn:vararg
.ifndef QEMU
    traps \number_of, \code, \number, \insn
.endif
.endm

main:
.ifndef QEMU                        # see limit_traps
    # Real mode: an access over the limit of 64 KiB is #GP (13), on the stack #SS (12).
    mov word ptr [13 * 4], offset real_gp
    mov word ptr [13 * 4 + 2], 0
    mov word ptr [12 * 4], offset real_ss
    mov word ptr [12 * 4 + 2], 0
    mov ebx, 0xffff
    mov ax, [bx]
    mov al, 1
    jmp failed
after_gp:
    mov ebx, 0x10000
    mov word ptr [13 * 4], offset real_gp2
    mov al, [ebx]
    mov al, 2
    jmp failed
after_gp2:
    mov ebp, 0x10000
    mov al, [ebp]
    mov al, 3
    jmp failed
after_ss:
.endif
    # Protected mode, 32-bit.
    lgdt gdtr
    lidt idtr
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmpd 0x08, offset protected
.ifndef QEMU
real_gp:
    add sp, 6
    jmp after_gp
real_gp2:
    add sp, 6
    jmp after_gp2
real_ss:
    add sp, 6
    jmp after_ss
.endif

.code32
protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, 0xf000
    # The gates: each pushes its vector.
    mov edi, offset idt
    mov esi, offset stubs
    mov ecx, 16
1:  mov word ptr [edi], si
    mov word ptr [edi + 2], 8
    mov word ptr [edi + 4], 0x8e00
    mov word ptr [edi + 6], 0
    add edi, 8
    add esi, 4
    loop 1b

    # A base, and a limit of 0x1000 bytes.
    mov eax, 0x18
    mov ds, eax
    mov dword ptr ds:[0], 0x12345678
    cmp dword ptr es:[0x20000], 0x12345678
    check32 e, 10
    mov dword ptr ds:[0xffc], 1
    limit_traps 13, 0, 11, mov dword ptr ds:[0xffd], 1
    limit_traps 13, 0, 12, mov byte ptr ds:[0x1000], 1
    limit_traps 13, 0, 13, mov al, ds:[-1]
    # Expand down: above 0xfff only.
    mov eax, 0x20
    mov ds, eax
    mov al, ds:[0x1000]
    limit_traps 13, 0, 14, mov al, ds:[0xfff]
    # Read only; execute only; a NULL selector; the stack's own vector.
    mov eax, 0x28
    mov ds, eax
    mov al, ds:[0]
    limit_traps 13, 0, 15, mov ds:[0], al
    mov eax, 0x30
    traps 13, 0x30, 16, mov ds, eax
    mov eax, 0x28
    traps 13, 0x28, 17, mov ss, eax     # the stack must be writable
    xor eax, eax
    mov ds, eax
    limit_traps 13, 0, 18, mov al, ds:[0]
    mov eax, 0x38                       # not present
    traps 11, 0x38, 19, mov ds, eax
    mov eax, 0x38
    traps 12, 0x38, 20, mov ss, eax
    mov eax, 0x50                       # beyond the GDT
    traps 13, 0x50, 21, mov ds, eax
    mov eax, 0x10
    mov ds, eax
    limit_traps 13, 0, 22, mov byte ptr cs:[0x2000], 1    # code is never writable
    # A far call and return.
    lcall 0x08, offset far_function
    cmp ebx, 0xfa4
    check32 e, 28
    # Big real mode: the limits of protected mode stay in the hidden part.
    mov eax, 0x10
    mov ds, eax
    ljmp 0x48, offset protected16
far_function:
    mov ebx, 0xfa4
    lret
.code16
protected16:
    mov eax, cr0
    and al, ~1
    mov cr0, eax
    ljmp 0, offset real_again
real_again:
    lidt real_idtr
    mov ebx, 0x100000
    mov dword ptr [ebx], 0xb16
    cmp dword ptr [ebx], 0xb16
    mov al, 29
    jne failed
    xor ax, ax
    mov ds, ax                  # a load changes the base only
    mov es, ax
    mov ss, ax
    mov sp, 0xf000
    mov eax, [ebx]
    cmp eax, 0xb16
    mov al, 30
    jne failed
    print "OK\n"
    exit 0

.code32
.balign 4
stubs:
    vector_number = 0
    .rept 16
    push vector_number
    jmp short trap
    vector_number = vector_number + 1
    .endr
.org stubs + 64
trap:
    pop eax
    mov ss:[vector], eax
    xor ecx, ecx
    cmp eax, 8
    jb 1f
    pop ecx
1:  mov ss:[error], ecx
    mov esp, 0xf000
    xor ecx, ecx
    xchg ecx, ss:[resume]
    test ecx, ecx
    check32 nz, 118             # no trap was expected
    jmp ecx

.data
.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    # 08 code, 32-bit
    .quad 0x00cf93000000ffff    # 10 data, 4 GiB
    .quad 0x0040930200000fff    # 18 data at 0x20000, 4 KiB
    .quad 0x00c0970000000000    # 20 data, expand down, limit 0xfff
    .quad 0x00cf91000000ffff    # 28 data, read only
    .quad 0x00cf99000000ffff    # 30 code, execute only
    .quad 0x00cf13000000ffff    # 38 data, not present
    .quad 0
    .quad 0x00009b000000ffff    # 48 code, 16-bit
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .long gdt
idtr:
    .word 16 * 8 - 1
    .long idt
real_idtr:
    .word 0x3ff
    .long 0
.bss
.balign 8
idt:    .skip 128
vector: .skip 4
error:  .skip 4
resume: .skip 4
