# The built-in guest: what `vm-accel run` starts when it is given no kernel. It
# looks at the machine, prints what it finds, and powers off by ACPI. If something
# is wrong it says so and ends with status 1.
# load: kernel
# status: 0
# stdout: all is well
.include "long.inc"
.include "irq.inc"

# Goes on if the condition holds; else says what is wrong and ends the run.
.macro need cond, text
    j\cond .Lneeded\@
    print "FAILED: \text\n"
    exit 1
.Lneeded\@:
.endm

main:
    print "vm-accel built-in guest\n"
    call show_mode
    call show_memory
    call show_cpu
    call show_acpi
    call show_timer
    call show_serial
    jmp power_off

show_mode:
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0x500
    cmp eax, 0x500
    need e, "EFER.LMA is not set in long mode"
    faults 6, 0, 1, ud2
    print "mode        64-bit, entered by "
    cmp dword ptr [start_info], 0
    je 1f
    print "PVH\n"
    ret
1:  print "the ELF entry\n"
    ret

# The memory map of PVH's start info or of boot_params, and the sum of the RAM.
show_memory:
    xor r14d, r14d              # bytes of RAM
    mov ebx, [start_info]
    test ebx, ebx
    jz 1f
    cmp dword ptr [rbx], 0x336ec578
    need e, "PVH's start info has a wrong magic number"
    cmp dword ptr [rbx + 4], 0
    need ne, "PVH's start info has no memory map"
    mov r12d, [rbx + 48]
    mov rbx, [rbx + 40]
    mov r13d, 24
    jmp 2f
1:  mov rbx, [boot_params]
    test rbx, rbx
    need nz, "there is neither a PVH start info nor boot_params"
    movzx r12d, byte ptr [rbx + 0x1e8]
    add rbx, 0x2d0
    mov r13d, 20
2:  test r12d, r12d
    need nz, "the memory map is empty"
    cmp r12d, 128
    need be, "the memory map has no end"
3:  print "memory      "
    mov rax, [rbx]
    call hex16
    print " - "
    mov rax, [rbx]
    add rax, [rbx + 8]
    dec rax
    call hex16
    cmp dword ptr [rbx + 16], 1
    je 4f
    print " type "
    mov eax, [rbx + 16]
    call decimal
    jmp 5f
4:  print " RAM"
    add r14, [rbx + 8]
5:  print "\n"
    add rbx, r13
    dec r12d
    jnz 3b
    print "memory      "
    mov rax, r14
    shr rax, 20
    call decimal
    print " MiB of RAM\n"
    cmp r14, 0x200000
    need ae, "that is less than 2 MiB"
    ret

show_cpu:
    print "processor   "
    xor eax, eax
    cpuid
    mov [text], ebx
    mov [text + 4], edx
    mov [text + 8], ecx
    mov dword ptr [text + 12], 0
    call puts_text
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000008
    need ae, "CPUID has no extended leaves"
    mov r12d, 0x80000002
    mov r13d, offset text
1:  mov eax, r12d
    cpuid
    mov [r13], eax
    mov [r13 + 4], ebx
    mov [r13 + 8], ecx
    mov [r13 + 12], edx
    add r13d, 16
    inc r12d
    cmp r12d, 0x80000004
    jbe 1b
    cmp byte ptr [text], 0
    je 2f
    print ", "
    call puts_text
2:  print "\nhypervisor  "
    mov eax, 1
    cpuid
    bt ecx, 31
    jnc 3f
    mov eax, 0x40000000
    cpuid
    mov [text], ebx
    mov [text + 4], ecx
    mov [text + 8], edx
    mov dword ptr [text + 12], 0
    call puts_text
    print "\n"
    ret
3:  print "none announced\n"
    ret

# The RSDP: from the start info, boot_params, or the BIOS area. Then the MADT and
# the FADT.
show_acpi:
    print "processors  "
    xor ebx, ebx
    mov eax, [start_info]
    test eax, eax
    jz 1f
    mov rbx, [rax + 32]
    jmp 2f
1:  mov rax, [boot_params]
    test rax, rax
    jz 2f
    mov rbx, [rax + 0x70]
2:  test rbx, rbx
    jnz 4f
    mov rax, 0x2052545020445352 # "RSD PTR "
    mov ebx, 0xe0000
3:  cmp [rbx], rax
    je 4f
    add ebx, 16
    cmp ebx, 0x100000
    jb 3b
    print "1 (there is no ACPI)\n"
    ret
4:  mov rax, 0x2052545020445352
    cmp [rbx], rax
    need e, "the RSDP has no signature"
    mov ecx, 20
    mov rsi, rbx
    call checksum
    need z, "the RSDP has a wrong checksum"
    mov r13d, 4                 # bytes a pointer: RSDT, or XSDT
    mov r12d, [rbx + 16]
    cmp byte ptr [rbx + 15], 2
    jb 5f
    cmp qword ptr [rbx + 24], 0
    je 5f
    mov r13d, 8
    mov r12, [rbx + 24]
5:  mov rsi, r12
    call table_ok
    mov r14d, [r12 + 4]
    add r14, r12                # its end
    add r12, 36
6:  cmp r12, r14
    jae 10f
    mov esi, [r12]
    cmp r13d, 8
    jne 7f
    mov rsi, [r12]
7:  add r12, r13
    call table_ok
    cmp dword ptr [rsi], 'A' | 'P' << 8 | 'I' << 16 | 'C' << 24
    jne 8f
    mov [madt], rsi
8:  cmp dword ptr [rsi], 'F' | 'A' << 8 | 'C' << 16 | 'P' << 24
    jne 6b
    mov [fadt], rsi
    jmp 6b

10: mov rsi, [madt]
    test rsi, rsi
    need nz, "ACPI has no MADT"
    mov ecx, [rsi + 4]
    add rcx, rsi
    add rsi, 44
    xor ebx, ebx
11: cmp rsi, rcx
    jae 14f
    movzx eax, byte ptr [rsi]
    cmp eax, 9                  # local x2APIC
    mov edx, [rsi + 8]
    je 12f
    cmp eax, 0                  # local APIC
    mov edx, [rsi + 4]
    jne 13f
12: and edx, 1                  # enabled
    add ebx, edx
13: movzx eax, byte ptr [rsi + 1]
    cmp eax, 2
    need ae, "an entry of the MADT has no length"
    add rsi, rax
    jmp 11b
14: test ebx, ebx
    need nz, "the MADT has no processor"
    mov eax, ebx
    call decimal
    print " (ACPI MADT)\n"
    ret

# The table at RSI must be mapped and its bytes add up to 0. Keeps RSI.
table_ok:
    lea rax, [rsi - 1]
    cmp rax, 0x3ff00000
    need b, "an ACPI table is not in the first GiB"
    mov ecx, [rsi + 4]
    cmp ecx, 36
    need ae, "an ACPI table is too short"
    cmp ecx, 0x100000
    need b, "an ACPI table is too long"
    push rsi
    call checksum
    pop rsi
    need z, "an ACPI table has a wrong checksum"
    ret
checksum:                       # of ECX bytes at RSI: ZF
    xor eax, eax
1:  add al, [rsi]
    inc rsi
    loop 1b
    test al, al
    ret

# Fifty ticks of the PIT at 1 kHz, as interrupts through the IOAPIC.
show_timer:
    print "timer       "
    call pic_init
    call lapic_init
    mov dword ptr [rbx + LAPIC_LINT0], 0x10000
    mov byte ptr [eoi], EOI_LAPIC
    mov eax, 0x40
    mov ecx, 2                  # pin 2 by the usual override, or pin 0
    call route
    mov eax, 0x40
    xor ecx, ecx
    call route
    call pit_start
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r12, rax
    sti
    mov ecx, 100000             # at most about 0.1 s or more for the first one
1:  in al, 0x80
    cmp dword ptr [counts + 0x40 * 4], 0
    loope 1b
    cli
    need ne, "no interrupt of the PIT arrived"
    await 0x40, 50
    call pit_stop
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, r12
    mov r12, rax
    mov eax, [counts + 0x40 * 4]
    call decimal
    print " PIT interrupts, HLT in between; the TSC ran "
    mov rax, r12
    mov ecx, 50000              # 50 ms: cycles a microsecond
    xor edx, edx
    div rcx
    call decimal
    print " MHz\n"
    ret

# The interrupt of the serial port's empty transmitter.
show_serial:
    print "serial      "
    mov eax, 0x41
    mov ecx, 4
    call route
    mov qword ptr [on_interrupt], offset serial
    mov edx, COM1 + 4
    mov al, 0x0b
    out dx, al
    mov edx, COM1 + 1
    mov al, 2
    out dx, al
    sti
    mov ecx, 100000
1:  in al, 0x80
    cmp dword ptr [counts + 0x41 * 4], 0
    loope 1b
    cli
    need ne, "no interrupt of the serial port arrived"
    mov edx, COM1 + 1
    xor eax, eax
    out dx, al
    mov al, [identified]
    and al, 0x0f
    cmp al, 2
    need e, "the serial port's interrupt is not the transmitter's"
    print "transmitter interrupt taken\n"
    ret
serial:
    push rdx
    mov edx, COM1 + 2
    in al, dx
    mov [identified], al
    pop rdx
    ret

# Routes the IOAPIC's pin ECX to vector EAX of this CPU.
route:
    push rax
    push rcx
    mov eax, LAPIC
    mov eax, [rax + LAPIC_ID]
    and eax, 0xff000000
    lea ecx, [rcx * 2 + 0x11]
    call ioapic_write
    pop rcx
    pop rax
    lea ecx, [rcx * 2 + 0x10]
    jmp ioapic_write

# S5 through the FADT's sleep control register; without an FADT through the port
# where this machine has it.
power_off:
    mov r12d, SLEEP_CTRL
    mov rsi, [fadt]
    test rsi, rsi
    jz 1f
    test dword ptr [rsi + 112], 1 << 20     # hardware-reduced
.ifdef QEMU
    jz 3f
.endif
    need nz, "the machine is not hardware-reduced"
    cmp dword ptr [rsi + 4], 256
    need ae, "the FADT has no sleep control register"
    mov r12, [rsi + 248]
    cmp byte ptr [rsi + 244], 1             # in I/O space
    je 1f
    cmp byte ptr [rsi + 244], 0             # in memory
    need e, "the FADT's sleep control register is nowhere"
    call farewell
    mov byte ptr [r12], 5 << 2 | 0x20
    jmp 2f
1:  call farewell
    mov edx, r12d
    mov al, 5 << 2 | 0x20
    out dx, al
2:  mov ecx, 100000
4:  in al, 0x80
    loop 4b
    print "FAILED: the machine is still on\n"
    exit 1
.ifdef QEMU
3:  mov r12d, [rsi + 64]                    # PM1a control: S5 is type 0
    call farewell
    mov edx, r12d
    mov ax, 0x2000
    out dx, ax
    jmp 2b
.endif
farewell:
    print "all is well: powering off by ACPI\n"
    ret

puts_text:                      # without the spaces that come first
    mov esi, offset text
1:  cmp byte ptr [rsi], ' '
    jne puts
    inc esi
    jmp 1b
hex16:                          # prints RAX as 16 digits
    mov rdi, rax
    mov ecx, 16
1:  rol rdi, 4
    mov eax, edi
    and eax, 15
    mov al, [rax + hex_digits]
    call putc
    loop 1b
    ret
decimal:                        # prints RAX
    mov ecx, 10
    xor edx, edx
    div rcx
    push rdx
    test rax, rax
    jz 1f
    call decimal
1:  pop rax
    add al, '0'
    jmp putc
.bss
.balign 16
text:   .skip 64
madt:   .skip 8
fadt:   .skip 8
identified: .skip 8
.text
