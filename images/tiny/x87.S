# x87: the floating-point unit in kernel mode: 80-bit arithmetic, constants,
# comparisons, the stack, FNSTENV, TS.
# load: kernel
# status: 0
# stdout: OK
# needs: sse-kernel
.include "long.inc"
main:
    fninit
    fnstcw [buffer]
    cmp word ptr [buffer], 0x37f
    check e, 1
    fnstsw ax
    test ax, ax
    check z, 2
    # 80 bits: (2^63 + 1) survives.
    mov rax, 0x4000000000000001
    mov [buffer], rax
    fild qword ptr [buffer]
    fadd st(0), st(0)
    fld1
    faddp
    fld st(0)
    fstp tbyte ptr [buffer]
    mov rax, 0x8000000000000003
    cmp [buffer], rax
    check e, 3
    cmp word ptr [buffer + 8], 0x403e
    check e, 4
    fstp st(0)
    # Pi.
    fldpi
    fstp qword ptr [buffer]
    mov rax, 0x400921fb54442d18
    cmp [buffer], rax
    check e, 5
    # 10 / 4, square root of 2.25, compare.
    mov dword ptr [buffer], 10
    fild dword ptr [buffer]
    mov dword ptr [buffer], 4
    fidiv dword ptr [buffer]
    fistp dword ptr [buffer]    # 2.5 to even
    cmp dword ptr [buffer], 2
    check e, 6
    fld qword ptr [number]
    fsqrt
    fld1
    fcomip st(0), st(1)
    check b, 7
    fistp word ptr [buffer]
    cmp word ptr [buffer], 2
    check e, 8
    # The stack is empty again: a pop is invalid, and answers the indefinite.
    fnstsw ax
    and ah, 0x38
    check z, 9
    fstp qword ptr [buffer]
    fnstsw ax
    and al, 0x41
.ifndef QEMU                        # QEMU doesn't notice stack faults
    cmp al, 0x41
    check e, 10
.endif
    fnclex
    fnstsw ax
    test al, al
    check z, 11
    # Packed decimal.
    mov dword ptr [buffer], 1234567
    fild dword ptr [buffer]
    fbstp tbyte ptr [buffer]
    cmp dword ptr [buffer], 0x1234567
    check e, 12
    # MMX is on the same registers.
    mov eax, 0x01020304
    movd mm0, eax
    paddb mm0, mm0
    movd ecx, mm0
    cmp ecx, 0x02040608
    check e, 13
    emms
    # An unmasked exception is #MF at the next waiting instruction.
    mov word ptr [buffer], 0x37b        # divide by zero
    fldcw [buffer]
    fld1
    fldz
    fdivp
    faults 16, 0, 14, fwait
    fninit
    # TS: #NM.
    mov rbx, cr0
    mov rax, rbx
    or eax, 8
    mov cr0, rax
    faults 7, 0, 15, fld1
    mov cr0, rbx
    ret
.data
number: .double 2.25
.bss
.balign 16
buffer: .skip 16
.text
