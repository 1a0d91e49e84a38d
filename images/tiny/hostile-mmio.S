# hostile-mmio: reads and writes of each size at every fourth page of the hole
# below 4 GiB, at each offset of the IOAPIC's and the LAPIC's pages, aligned and
# not, and above the RAM. Nothing may stop, crash or hang the machine; interrupts
# stay off, and the registers that would send an IPI are read only.
# load: kernel
# status: 0
# stdout: OK
# timeout: 120s
.include "long.inc"
main:
    # The hole from 3 GiB up to the IOAPIC: one touch in each 64 KiB.
    mov ebx, 0xc0000000
1:  call touch
    add ebx, 0x10000
    cmp ebx, 0xfec00000
    jb 1b
    # The IOAPIC: all offsets in steps of 3.
    mov ebx, IOAPIC
2:  call touch
    add ebx, 3
    cmp ebx, IOAPIC + 0x200
    jb 2b
    # And all its registers with all their values; then masked again.
    mov ebx, IOAPIC
    xor ecx, ecx
3:  mov [rbx], ecx
    mov eax, [rbx + 16]
    cmp ecx, 0x10
    jb 4f
    mov dword ptr [rbx + 16], -1
    mov dword ptr [rbx + 16], 0x10000
4:  inc ecx
    cmp ecx, 0x100
    jb 3b
    # The LAPIC: reads everywhere, writes except to SVR, ICR and the timer.
    mov ebx, LAPIC
5:  mov al, [rbx]
    mov ax, [rbx]
    mov eax, [rbx]
    mov rax, [rbx]
    mov eax, ebx
    and eax, 0xff0
    cmp eax, 0x300
    jae 6f
    cmp eax, 0xf0
    je 6f
    call touch
6:  add ebx, 3
    cmp ebx, LAPIC + 0xffc - 8
    jb 5b
    # Pages far above the RAM, through the window.
    mov rdi, 0x100000000
    mov ebp, 36 - 32
7:  lea rax, [rdi + 3]
    mov [window], rax
    add rax, 0x1000
    mov [window + 8], rax
    mov ebx, WINDOW
    invlpg [rbx]
    invlpg [rbx + 0x1000]
    call touch
    shl rdi, 1
    dec ebp
    jnz 7b
    ret
touch:
    mov al, [rbx]
    mov ax, [rbx]
    mov eax, [rbx]
    mov rax, [rbx]
    mov [rbx], al
    mov [rbx], ax
    mov [rbx], eax
    mov [rbx], rax
    mov rax, [rbx + 0xffd]      # across an edge
    mov [rbx + 0xffd], eax
    lock inc dword ptr [rbx]
    xchg al, [rbx]
    ret
