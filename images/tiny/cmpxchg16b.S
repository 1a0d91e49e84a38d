# cmpxchg16b: equal, different, misaligned, without LOCK, and 8 bytes.
# load: kernel
# status: 0
# stdout: OK
# needs: cmpxchg16b-kernel
.include "long.inc"
main:
    mov esi, offset cell
    mov rax, [rsi]
    mov rdx, [rsi + 8]
    mov rbx, 0x5555555555555555
    mov rcx, 0x6666666666666666
    lock cmpxchg16b [rsi]
    check z, 1
    cmp [rsi], rbx
    check e, 2
    cmp [rsi + 8], rcx
    check e, 3
    xor eax, eax
    cdq
    stc
    lock cmpxchg16b [rsi]
    check nz, 4
.ifndef QEMU                        # QEMU loses the carry
    check c, 5                  # no other flag changes
.endif
    cmp rax, rbx
    check e, 6
    cmp rdx, rcx
    check e, 7
    cmpxchg16b [rsi]            # equal now
    check z, 8
    faults 13, 0, 9, lock cmpxchg16b [rsi + 8]
    mov esi, offset cell
    mov eax, [rsi]
    mov edx, [rsi + 4]
    mov ebx, 1
    mov ecx, 2
    lock cmpxchg8b [rsi]
    check z, 10
    mov rax, 0x200000001
    cmp [rsi], rax
    check e, 11
    ret
.data
.balign 16
cell:   .quad 0x1111111111111111, 0x2222222222222222, 0, 0
.text
