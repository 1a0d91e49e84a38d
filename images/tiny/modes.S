# modes: from long mode to compatibility, protected and real mode, and back, through
# 16-bit protected mode; 32-bit and PAE paging; real-mode interrupts and #DE.
# load: kernel
# status: 0
# stdout: OK
# needs: full-kernel
.include "long.inc"

# As `check`, in 32-bit code, where `failed` is not to be had: ends the run at once.
.macro check32 cond, number
    j\cond .Lgood\@
    mov al, \number
    jmp failed32
.Lgood\@:
.endm

main:
    mov rax, 0x1122334455667788
    mov rbx, rax
    # Compatibility mode.
    push KCODE32
    push offset compat
    .byte 0x48, 0xcb
.code32
compat:
    cmp eax, 0x55667788
    check32 e, 1
    dec eax                     # one byte, which is REX in 64-bit code
    cmp eax, 0x55667787
    check32 e, 2
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0x400              # still LMA
    check32 nz, 3
    # Paging off: protected mode, LMA clear.
    mov eax, cr0
    btr eax, 31
    mov cr0, eax
    rdmsr
    test eax, 0x400
    check32 z, 4
    test eax, 0x100             # LME stays
    check32 nz, 5
    btr eax, 8
    wrmsr
    # 32-bit paging: 4 MiB pages, without PAE.
    mov dword ptr pd32, 0x83
    mov dword ptr pd32 + 4, 0x83        # 4 MiB..8 MiB shows 0..4 MiB
    mov eax, 0x10               # PSE
    mov cr4, eax
    mov eax, offset pd32
    mov cr3, eax
    mov eax, cr0
    bts eax, 31
    mov cr0, eax
    jmp 1f
1:  mov dword ptr value, 0x4711
    cmp dword ptr [value + 0x400000], 0x4711
    check32 e, 6
    test dword ptr pd32 + 4, 0x20
    check32 nz, 7
    mov eax, cr0
    btr eax, 31
    mov cr0, eax
    # PAE paging: 2 MiB pages.
    mov dword ptr pdpt_pae, offset pd_pae + 1
    mov dword ptr pd_pae, 0x83
    mov dword ptr pd_pae + 8, 0x83
    mov eax, 0x20
    mov cr4, eax
    mov eax, offset pdpt_pae
    mov cr3, eax
    mov eax, cr0
    bts eax, 31
    mov cr0, eax
    jmp 1f
1:  cmp dword ptr [value + 0x200000], 0x4711
    check32 e, 8
    mov eax, cr0
    btr eax, 31
    mov cr0, eax

    # 16-bit protected mode: the stack pointer's upper half, operand sizes. This
    # code is above 1 MiB, so a piece of it is copied below.
    mov esi, offset low
    mov edi, 0x8000
    mov ecx, offset low_end - low
    rep movsb
    mov saved_esp, esp
    lidt real_idtr
    ljmp KCODE16, 0x8000
back:
    mov eax, KDATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov esp, saved_esp
    lidt idtr
    cmp word ptr [0x9000], 0x2345       # real mode's work
    check32 e, 9
    cmp word ptr [0x9002], 0x8000 >> 4  # CS there
    check32 e, 10
    cmp word ptr [0x9004], 0x600d       # the interrupt handler's
    check32 e, 11
    cmp dword ptr [0x9008], 0xdef0      # 16-bit address arithmetic
    check32 e, 12
    call paging_on
    ljmp KCODE64, offset long2

failed32:
    out DEBUG_EXIT, al
    cli
    hlt
low:
.code16
    mov ax, KDATA16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x7000
    mov eax, cr0
    and al, ~1
    mov cr0, eax
    ljmp 0x800, low_real - low
low_real:
    mov ax, 0x900
    mov ds, ax
    mov word ptr ds:[0], 0x2345
    mov ds:[2], cs
    xor ax, ax
    mov ss, ax
    mov sp, 0x7000
    mov es, ax
    # An interrupt through the vector table.
    mov word ptr es:[0x60 * 4], low_isr - low
    mov word ptr es:[0x60 * 4 + 2], 0x800
    stc
    int 0x60
    jnc low_bad                 # IRET restores the flags
    cmp sp, 0x7000
    jne low_bad
    # Segment arithmetic: offsets wrap at 16 bits.
    mov ax, 0x1000
    mov es, ax
    mov word ptr es:[0x1230], 0xdef0
    mov ax, 0x1100
    mov ds, ax
    mov bx, 0xff00
    mov ax, [bx + 0x330]        # 0xff00 + 0x330 is 0x230 in 16 bits
    mov bx, 0x900
    mov ds, bx
    movzx eax, ax
    mov ds:[8], eax
    # Division by zero: the saved IP is the instruction itself; #DE is vector 0.
    xor ax, ax
    mov es, ax
    mov word ptr es:[0], low_de - low
    mov word ptr es:[2], 0x800
    xor cx, cx
low_div:
    div cx
low_after:
    # To protected mode, 32-bit.
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmpd KCODE32, offset back
low_de:
    push bp
    mov bp, sp
    cmp word ptr [bp + 2], low_div - low
    jne low_bad
    mov word ptr [bp + 2], low_after - low
    pop bp
    iret
low_isr:
    mov word ptr ds:[4], 0x600d
    clc
    iret
low_bad:
    mov al, 13
    out DEBUG_EXIT, al
    cli
    hlt
low_end:
.code64
long2:
    mov esp, saved_esp
    mov eax, KDATA
    mov ss, eax
    # The upper halves are undefined after the way down; RSP's are clear now.
    int3
    cmp dword ptr [counts + 3 * 4], 1
    check e, 14
    ret
.data
real_idtr:
    .word 0x3ff
    .long 0
.bss
.balign 4096
pd32:   .skip 4096
pdpt_pae: .skip 4096
pd_pae: .skip 4096
value:  .skip 8
saved_esp: .skip 8
.text
