# mmio: reads and writes of each size where no device answers, by each form of
# instruction, and across a page edge from RAM to nowhere and inside nowhere.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
FILL = UNMAPPED & 0xff
main:
    mov ebx, NOWHERE
    # Sizes and offsets.
    mov rax, 0x1122334455667788
    mov al, [rbx]
    mov rcx, (0x1122334455667700 | FILL)
    cmp rax, rcx
    check e, 1
    mov ax, [rbx + 2]
    cmp ax, UNMAPPED
    check e, 2
    mov eax, [rbx + 4]
    mov ecx, UNMAPPED
    cmp rax, rcx
    check e, 3
    mov rax, [rbx + 8]
    cmp rax, UNMAPPED
    check e, 4
    mov rax, [rbx + 3]          # misaligned
    cmp rax, UNMAPPED
    check e, 5
    mov [rbx], al
    mov [rbx + 2], ax
    mov [rbx + 4], eax
    mov [rbx + 8], rax
    mov [rbx + 3], rax
    mov byte ptr [rbx], 1
    mov word ptr [rbx], 1
    mov dword ptr [rbx], 1
    mov qword ptr [rbx], -2
    cmp qword ptr [rbx], UNMAPPED   # nothing was stored
    check e, 6
    movabs al, [NOWHERE]
    cmp al, FILL
    check e, 7
    movabs rax, [NOWHERE]
    cmp rax, UNMAPPED
    check e, 8
    movabs [NOWHERE], rax

    # Extensions.
    movzx eax, byte ptr [rbx]
    cmp eax, FILL
    check e, 10
    movzx rax, word ptr [rbx]
    cmp rax, UNMAPPED & 0xffff
    check e, 11
    movsx rax, byte ptr [rbx]
    cmp rax, UNMAPPED
    check e, 12
    movsx eax, word ptr [rbx]
    cmp eax, UNMAPPED
    check e, 13
    movsxd rax, dword ptr [rbx]
    cmp rax, UNMAPPED
    check e, 14

    # Arithmetic with the operand in memory: flags and register results.
    mov eax, 5
    add eax, [rbx]
    cmp eax, 5 + UNMAPPED
    check e, 20
    mov eax, 0x0f
    and eax, [rbx]
    cmp eax, 0x0f & UNMAPPED
    check e, 21
    add dword ptr [rbx], 1      # ones + 1: carry and zero
    setc al
    cmp al, UNMAPPED & 1
    check e, 22
    or byte ptr [rbx], 0x80
    check s, 23
    xor word ptr [rbx], -1
    setz al
    cmp al, UNMAPPED & 1
    check e, 24
    sub qword ptr [rbx], UNMAPPED
    check z, 25
    inc dword ptr [rbx]
    neg dword ptr [rbx]
    not dword ptr [rbx]
    test dword ptr [rbx], 0x100
    setnz al
    cmp al, UNMAPPED & 1
    check e, 26
    bt dword ptr [rbx], 7
    setc al
    cmp al, UNMAPPED & 1
    check e, 27
    shl dword ptr [rbx], 4
    mov eax, 123
    xchg eax, [rbx]
    cmp eax, UNMAPPED
    check e, 28
    mov eax, UNMAPPED
    mov ecx, 7
    lock cmpxchg [rbx], ecx     # equal
    check z, 29
    mov eax, 17
    lock cmpxchg [rbx], ecx     # different: EAX gets the memory's value
    check nz, 30
    cmp eax, UNMAPPED
    check e, 31
    mov eax, 1
    lock xadd [rbx], eax
    cmp eax, UNMAPPED
    check e, 32
    imul eax, [rbx], 3
    cmp eax, UNMAPPED * 3
    check e, 33

    # The stack in nowhere: pushes vanish, pops give ones.
    mov rdx, rsp
    lea rsp, [rbx + 0x100]
    push 0x55
    pop rax
    mov rcx, rsp
    mov rsp, rdx
    cmp rax, UNMAPPED
    check e, 34
    lea rdx, [rbx + 0x100]
    cmp rcx, rdx
    check e, 35
    push qword ptr [rbx]
    pop qword ptr [rbx + 16]

    # Strings.
    lea rdi, [rbx + 0x10]
    mov ecx, 40
    mov eax, 0x11223344
    rep stosd
    lea rcx, [rbx + 0x10 + 160]
    cmp rdi, rcx
    check e, 40
    mov rsi, rbx
    mov edi, offset buffer
    mov ecx, 9
    rep movsb                   # from nowhere to RAM
    mov rax, UNMAPPED
    cmp [buffer], rax
    check e, 41
    cmp byte ptr [buffer + 9], 0
    check e, 42
    mov esi, offset buffer
    mov rdi, rbx
    mov ecx, 3
    rep movsq                   # from RAM to nowhere
    cmp esi, offset buffer + 24
    check e, 43
    mov rsi, rbx
    lea rdi, [rbx + 0x800]
    mov ecx, 5
    rep movsw                   # from nowhere to nowhere
    lea rcx, [rbx + 0x80a]
    cmp rdi, rcx
    check e, 44
    std
    lea rsi, [rbx + 0x20]
    mov edi, offset buffer + 32
    mov ecx, 2
    rep movsd
    cld
    cmp edi, offset buffer + 24
    check e, 45
    mov rdi, rbx
    mov rax, UNMAPPED
    mov ecx, 4
    repe scasq
    check e, 46
    test ecx, ecx
    check z, 47
    lodsb

    # Across the edge from RAM to nowhere: the window's first page is RAM.
    mov qword ptr [window], offset page + 3
    mov eax, NOWHERE + 3
    mov [window + 8], rax
    mov eax, NOWHERE + 0x1003
    mov [window + 16], rax
    mov rax, 0x8877665544332211
    mov [page + 0xff8], rax
    mov ebx, WINDOW + 0x1000
    mov eax, [rbx - 2]          # two bytes of each
    cmp eax, (UNMAPPED & 0xffff0000) | 0x8877
    check e, 50
    mov rax, [rbx - 4]
    mov rcx, (UNMAPPED & 0xffffffff) << 32 | 0x88776655
    cmp rax, rcx
    check e, 51
    mov ax, [rbx - 1]
    cmp ax, (UNMAPPED & 0xff00) | 0x88
    check e, 52
    mov rax, 0x0102030405060708
    mov [rbx - 3], rax          # three bytes reach RAM
    mov rcx, 0x0607085544332211
    cmp [page + 0xff8], rcx
    check e, 53
    add ebx, 0x1000             # from nowhere to nowhere
    mov rax, [rbx - 4]
    cmp rax, UNMAPPED
    check e, 54
    mov ax, [rbx - 1]
    cmp ax, UNMAPPED
    check e, 55
    mov [rbx - 3], rax
    mov qword ptr [window + 24], offset page + 3
    mov eax, [rbx + 0xfff]      # one byte of nowhere, then RAM
    and eax, 0xffff
    mov cl, [page]
    cmp ah, cl
    check e, 56
    ret
.bss
.balign 4096
page:   .skip 4096
buffer: .skip 64
.text
