# pvh: a PVH kernel: the start info's magic, the command line, the memory map.
# load: kernel
# status: 0
# stdout: OK
# cmdline: hello pvh
# needs: pvh
.include "long.inc"
main:
    mov ebx, [start_info]
    test ebx, ebx
    check nz, 1
    cmp dword ptr [rbx], 0x336ec578
    check e, 2
    mov rsi, [rbx + 24]         # cmdline_paddr
    test rsi, rsi
    check nz, 3
    # It may begin with a file name.
1:  lodsb
    test al, al
    check nz, 4
    cmp al, 'h'
    jne 1b
    cmp dword ptr [rsi], 'e' | 'l' << 8 | 'l' << 16 | 'o' << 24
    jne 1b
    cmp dword ptr [rsi + 5], 'p' | 'v' << 8 | 'h' << 16
    check e, 5
    cmp dword ptr [rbx + 4], 1  # version 1 has the memory map
    check ae, 6
    mov ecx, [rbx + 48]         # entries
    test ecx, ecx
    check nz, 7
    mov rsi, [rbx + 40]         # memmap_paddr
2:  cmp dword ptr [rsi + 16], 1 # RAM
    jne 3f
    mov rax, [rsi]
    cmp rax, 0x100000
    ja 3f
    add rax, [rsi + 8]
    cmp rax, 0x200000
    jae 4f
3:  add rsi, 24
    loop 2b
    mov al, 8                   # no RAM at 1 MiB
    jmp failed
4:  ret
