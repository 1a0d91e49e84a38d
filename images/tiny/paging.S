# paging: accessed and dirty bits, read-only pages with and without CR0.WP, NX,
# user pages, SMEP and SMAP where they are offered, 2 MiB and 1 GiB pages, INVLPG,
# CR3 and global pages, a page table that is changed under a walk.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
P = 1
W = 2
U = 4
A = 0x20
D = 0x40
G = 0x100
main:
    mov ebx, WINDOW
    # Accessed by a read, dirty by a write, at each level.
    mov qword ptr [window], offset page1 + P + W
    mov al, [rbx]
    mov eax, [window]
    and eax, A + D
    cmp eax, A
    check e, 1
    mov [rbx], al
    mov eax, [window]
    and eax, A + D
    cmp eax, A + D
    check e, 2
    test byte ptr [pd1], A
    check nz, 3
    test byte ptr [pd1], D      # not a leaf
    check z, 4
    test byte ptr [pdpt + 8], A
    check nz, 5
    test byte ptr [pml4], A
    check nz, 6
    # Cleared and flushed, the bits come again; a write to a clean page, too.
    and qword ptr [window], ~(A + D)
    invlpg [rbx]
    cmp byte ptr [rbx], 0
    test byte ptr [window], D
    check z, 7
    inc byte ptr [rbx]
    test byte ptr [window], D
    check nz, 8
    # A faulting access sets no dirty bit.
    mov qword ptr [window], offset page1 + P
    invlpg [rbx]
    faults 14, 3, 9, mov [rbx], al
    test byte ptr [window], D
    check z, 10
    # WP off: the supervisor may write to it.
    mov rax, cr0
    btr eax, 16
    mov cr0, rax
    mov dword ptr [rbx], 0x600d
    bts eax, 16
    mov cr0, rax
    cmp dword ptr [page1], 0x600d
    check e, 11
    test byte ptr [window], D
    check nz, 12
    faults 14, 3, 13, mov [rbx], al
    # Read-only in a directory entry is read-only.
    mov qword ptr [window], offset page1 + P + W
    and qword ptr [pd1], ~W
    mov rax, cr3
    mov cr3, rax
    faults 14, 3, 14, mov [rbx], al
    or qword ptr [pd1], W
    mov rax, cr3
    mov cr3, rax
    mov [rbx], al
    # An entry that becomes present needs no flush; one that goes does.
    mov qword ptr [window + 8], 0
    invlpg [rbx + 0x1000]
    faults 14, 0, 15, mov al, [rbx + 0x1000]
    mov qword ptr [window + 8], offset page2 + P + W
    mov dword ptr [rbx + 0x1000], 0x22
    cmp dword ptr [page2], 0x22
    check e, 16
    mov qword ptr [window + 8], offset page1 + P + W
    invlpg [rbx + 0x1000]
    mov dword ptr [rbx + 0x1000], 0x11
    cmp dword ptr [page1], 0x11
    check e, 17
    mov qword ptr [window + 8], 0
    mov rax, cr3
    mov cr3, rax
    faults 14, 0, 18, mov al, [rbx + 0x1000]
    # Global pages are kept over CR3, and go with INVLPG and with CR4.PGE.
    mov rax, cr4
    or eax, 0x80
    mov cr4, rax
    mov qword ptr [window + 16], offset page1 + P + W + G
    mov eax, [rbx + 0x2000]
    mov qword ptr [window + 16], 0
    invlpg [rbx + 0x2000]
    faults 14, 0, 19, mov al, [rbx + 0x2000]
    mov qword ptr [window + 16], offset page1 + P + W + G
    mov eax, [rbx + 0x2000]
    mov qword ptr [window + 16], offset page2 + P + W + G
    mov rax, cr4
    and eax, ~0x80
    mov cr4, rax
    cmp dword ptr [rbx + 0x2000], 0x22
    check e, 20
    # NX, in the leaf and above it.
    mov byte ptr [page1], 0xc3
    mov eax, offset page1 + P + W
    bts rax, 63
    mov [window], rax
    invlpg [rbx]
    mov al, [rbx]               # data it may be
    faults 14, 0x11, 21, call rbx
    mov qword ptr [window], offset page1 + P + W
    bts qword ptr [pd1], 63
    mov rax, cr3
    mov cr3, rax
    faults 14, 0x11, 22, call rbx
    btr qword ptr [pd1], 63
    mov rax, cr3
    mov cr3, rax
    call rbx
    # Without EFER.NXE the bit is reserved.
    mov ecx, 0xc0000080
    rdmsr
    mov edi, eax
    btr eax, 11
    wrmsr
    mov eax, offset page1 + P + W
    bts rax, 63
    mov [window], rax
    invlpg [rbx]
    faults 14, RSVD_ERROR, 23, mov al, [rbx]
    mov ecx, 0xc0000080
    xor edx, edx
    mov eax, edi
    wrmsr
    # Pages of 2 MiB and 1 GiB.
    mov qword ptr [pd1 + 8], 0x400000 + 0x80 + P + W
    mov dword ptr [WINDOW + 0x200000 + 0x12345], 0x2222
    cmp dword ptr [0x412345], 0x2222
    check e, 24
    test byte ptr [pd1 + 8], D
    check nz, 25
    mov eax, 0x80000001
    cpuid
    mov ebx, WINDOW
    bt edx, 26
    jnc 1f
    mov qword ptr [pdpt + 16], 0x80 + P + W
    mov eax, 0x80000000 + 0x412345
    cmp dword ptr [rax], 0x2222
    check e, 26
    test byte ptr [pdpt + 16], A
    check nz, 27
1:  # SMEP and SMAP: the supervisor's hands off user pages.
    mov qword ptr [window], offset page1 + P + W + U
    invlpg [rbx]
    mov al, [rbx]               # allowed without them
    call rbx
    xor eax, eax
    cpuid
    cmp eax, 7
    mov ebx, WINDOW
    jb 3f
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov esi, ebx
    mov ebx, WINDOW
    bt esi, 7
    jnc 2f
    mov rdi, cr4
    bts rdi, 20
    mov cr4, rdi
    faults 14, 0x11, 30, call rbx
    mov al, [rbx]
    btr rdi, 20
    mov cr4, rdi
2:  bt esi, 20
    jnc 3f
    mov rdi, cr4
    bts rdi, 21
    mov cr4, rdi
    faults 14, 1, 31, mov al, [rbx]
    faults 14, 3, 32, mov [rbx], al
    pushfq                      # RFLAGS.AC lifts it, as STAC does
    or qword ptr [rsp], 1 << 18
    popfq
    mov al, [rbx]
    mov [rbx], al
    pushfq
    and qword ptr [rsp], ~(1 << 18)
    popfq
    faults 14, 1, 33, mov al, [rbx]
    call rbx
    btr rdi, 21
    mov cr4, rdi
3:  # Another CR3 altogether: a copy whose window shows page 2.
    mov qword ptr [window], offset page1 + P + W
    mov dword ptr [page1], 0x1111
    mov esi, offset pml4
    mov edi, offset pml4b
    mov ecx, 512
    rep movsq
    mov esi, offset pdpt
    mov edi, offset pdptb
    mov ecx, 512
    rep movsq
    mov qword ptr [pml4b], offset pdptb + P + W
    mov qword ptr [pdptb + 8], offset pdb + P + W
    mov qword ptr [pdb], offset windowb + P + W
    mov qword ptr [windowb], offset page2 + P + W
    invlpg [rbx]
    cmp dword ptr [rbx], 0x1111
    check e, 34
    mov rdi, cr3
    mov eax, offset pml4b
    mov cr3, rax
    cmp dword ptr [rbx], 0x22
    check e, 35
    mov cr3, rdi
    cmp dword ptr [rbx], 0x1111
    check e, 36
    ret
.bss
.balign 4096
page1:  .skip 4096
page2:  .skip 4096
pml4b:  .skip 4096
pdptb:  .skip 4096
pdb:    .skip 4096
windowb: .skip 4096
.text
