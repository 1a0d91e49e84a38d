# smc: self-modifying code: the next instruction but one after a jump, a loop
# body, another page, through another virtual address, by rep movs, and a patch
# across a page edge.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
main:
    # Patch the immediate of an instruction ahead, jump to it.
    mov dword ptr [patch1 + 1], 0x1234
    jmp patch1
patch1:
    mov eax, 0
    cmp eax, 0x1234
    check e, 1

    # The very next instruction, in the same straight line: x86 sees the store.
    mov byte ptr [patch2 + 1], 7
patch2:
    mov al, 0
    cmp al, 7
    check e, 2

    # A loop whose body is rewritten each time round.
    xor ebx, ebx
    xor ecx, ecx
1:  mov [patch3 + 2], cl
patch3:
    add ebx, 0x11
    inc ecx
    cmp ecx, 100
    jb 1b
    cmp ebx, 4950
    check e, 3

    # A function on a page of its own, called hot, then replaced.
    mov esi, offset give1
    call copy
    mov ebp, 300
2:  call code
    cmp eax, 1
    check e, 4
    dec ebp
    jnz 2b
    mov esi, offset give2
    call copy
    call code
    cmp eax, 2
    check e, 5

    # The same page through another linear address.
    mov qword ptr [window], offset code + 3
    mov byte ptr [WINDOW + 1], 3
    call code
    cmp eax, 3
    check e, 6
    mov byte ptr [code + 1], 4
    mov eax, WINDOW
    call rax
    cmp eax, 4
    check e, 7

    # An instruction that straddles a page edge; each half is patched alone.
    mov byte ptr [code + 0xffd], 0xb8       # mov eax, imm32; ret
    mov dword ptr [code + 0xffe], 0x01010101
    mov byte ptr [code + 0x1002], 0xc3
    mov ebx, offset code + 0xffd
    call rbx
    cmp eax, 0x01010101
    check e, 8
    mov byte ptr [code + 0x1001], 2
    call rbx
    cmp eax, 0x02010101
    check e, 9
    mov byte ptr [code + 0xffe], 3
    call rbx
    cmp eax, 0x02010103
    check e, 10

    # A linear address that gets another physical page.
    mov word ptr [code + 0x1000], 0xb0 | 21 << 8
    mov byte ptr [code + 0x1002], 0xc3
    mov eax, WINDOW
    call rax
    cmp al, 4
    check e, 11
    mov qword ptr [window], offset code + 0x1003
    invlpg [WINDOW]
    mov eax, WINDOW
    call rax
    cmp al, 21
    check e, 12

    # A return address's code, rewritten by the callee.
    call rewrite
patch4:
    mov al, 1
    cmp al, 9
    check e, 13

    # An atomic write to code.
    mov al, 33
    lock xchg [patch5 + 1], al
patch5:
    mov al, 1
    cmp al, 33
    check e, 14
    ret

rewrite:
    mov byte ptr [patch4 + 1], 9
    ret
copy:
    mov edi, offset code
    mov ecx, 6
    rep movsb
    ret
give1:
    mov eax, 1
    ret
give2:
    mov eax, 2
    ret
.bss
.balign 4096
code:   .skip 8192
.text
