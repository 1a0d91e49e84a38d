# xsave: CR4.OSXSAVE, CPUID's mirror of it, and XCR0, where XSAVE is offered.
# load: kernel
# status: 0
# stdout: OK
# needs: sse-kernel
.include "long.inc"
main:
    # XCR0, if XSAVE is there: x87 and SSE.
    mov eax, 1
    cpuid
    bt ecx, 26
    jnc 1f
    mov rdi, cr4
    mov rax, rdi
    bts rax, 18
    mov cr4, rax
    mov eax, 1
    cpuid
    bt ecx, 27                  # OSXSAVE shows it
    check c, 50
    xor ecx, ecx
    xgetbv
    test eax, 1
    check nz, 51
    mov eax, 3
    xor edx, edx
    xsetbv
    xgetbv
    cmp eax, 3
    check e, 52
    mov cr4, rdi
1:  ret
