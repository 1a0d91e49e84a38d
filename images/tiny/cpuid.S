# cpuid: the leaves make sense and agree: the vendor, what long mode needs, the
# APIC id in leaves 1 and 0xB, the hypervisor's leaf; RDTSC goes forward.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
main:
    xor eax, eax
    cpuid
    cmp eax, 1
    check ae, 1
    mov [highest], eax
    test ebx, ebx
    check nz, 2
    # Leaf 1: fpu, tsc, msr, pae, cx8, apic, sep, pge, cmov, pat, clfsh, mmx,
    # fxsr, sse, sse2: what x86-64 kernels take for granted.
    mov eax, 1
    xor ecx, ecx
    cpuid
    mov [leaf1_ecx], ecx
    shr ebx, 24
    mov [apic_id], ebx
    and edx, 0x0789a371
    cmp edx, 0x0789a371
    check e, 3
    mov eax, LAPIC              # the LAPIC's id is the initial APIC id
    mov eax, [rax + 0x20]
    shr eax, 24
    cmp eax, [apic_id]
    check e, 4
    # Leaf 0xB: x2APIC id, if the leaf is there.
    cmp dword ptr [highest], 0xb
    jb 1f
    mov eax, 0xb
    xor ecx, ecx
    cpuid
    test ebx, ebx
    jz 1f
    cmp dl, [apic_id]
    check e, 5
    shr ecx, 8
    cmp cl, 1                   # level 0 is the SMT level
    check e, 6
    mov eax, 0xb
    mov ecx, 1
    cpuid
    shr ecx, 8
    cmp cl, 2                   # level 1 is the core level
    check e, 7
1:  # Extended leaves: syscall, nx, long mode; address widths.
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000008
    check ae, 8
    mov eax, 0x80000001
    cpuid
    and edx, 0x20100800
    cmp edx, 0x20100800
    check e, 9
    mov eax, 0x80000008
    cpuid
    cmp al, 32                  # physical
    check ae, 10
    cmp al, 52
    check be, 11
    cmp ah, 48                  # linear
    check ae, 12
    # The hypervisor bit promises leaf 0x40000000.
    test dword ptr [leaf1_ecx], 1 << 31
    jz 2f
    mov eax, 0x40000000
    cpuid
    test ebx, ebx
    check nz, 13
    print "hypervisor "
    mov [signature], ebx
    mov [signature + 4], ecx
    mov [signature + 8], edx
    mov esi, offset signature
    call puts
    print "\n"
2:  # OSXSAVE mirrors CR4, and CPUID answers the same twice.
    bt dword ptr [leaf1_ecx], 27
    check nc, 14
    # CPUID clears the upper halves.
    mov rax, -1
    mov rbx, rax
    mov rcx, rax
    mov rdx, rax
    mov eax, eax
    xor ecx, ecx
    mov eax, 0
    cpuid
    shr rbx, 32
    check z, 15
    shr rdx, 32
    check z, 16

    # The time stamp counter.
    call tsc
    mov rbx, rax
    mov ebp, 1000
3:  call tsc
    cmp rax, rbx
    check ae, 20
    mov rbx, rax
    dec ebp
    jnz 3b
.ifndef QEMU                        # QEMU reads 0
    mov ecx, 0x10               # the MSR is the same counter
    rdmsr
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    check ae, 21
.endif
    mov rbx, rax
    call tsc
    cmp rax, rbx
    check ae, 22
    ret
tsc:
    rdtsc
    shl rdx, 32
    or rax, rdx
    ret
.bss
highest:    .skip 4
apic_id:    .skip 4
leaf1_ecx:  .skip 4
signature:  .skip 16
.text
