# irq-ioapic: the IOAPIC's registers; the PIT's ticks through its pin 2 or 0, as
# edges; a masked pin; the serial port's transmitter interrupt through pin 4, as
# a level; the remote IRR and the end of interrupt.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
.include "irq.inc"
main:
    call lapic_init
    call pic_init
    mov ebx, LAPIC
    mov dword ptr [rbx + LAPIC_LINT0], 0x10000
    mov byte ptr [eoi], EOI_LAPIC
    # The version register has 24 pins; a redirection entry reads back.
    mov ecx, 1
    call ioapic_read
    shr eax, 16
    cmp al, 23
    check ae, 1
    mov ecx, 0x10 + 2 * 9
    mov eax, 0x10031
    call ioapic_write
    call ioapic_read
    cmp eax, 0x10031
    check e, 2
    mov ecx, 0x11 + 2 * 9
    mov eax, 0x05000000
    call ioapic_write
    call ioapic_read
    cmp eax, 0x05000000
    check e, 3
    # The PIT: pin 2 on machines with the usual override, else pin 0.
    mov ecx, 0x11 + 2 * 2
    call own_id
    call ioapic_write
    mov ecx, 0x11 + 2 * 0
    call own_id
    call ioapic_write
    mov ecx, 0x10 + 2 * 2
    mov eax, 0x40
    call ioapic_write
    mov ecx, 0x10 + 2 * 0
    call ioapic_write
    call pit_start
    await 0x40, 5
    # Masked.
    mov ecx, 0x10 + 2 * 2
    mov eax, 0x10040
    call ioapic_write
    mov ecx, 0x10 + 2 * 0
    call ioapic_write
    sti
    nop
    nop
    cli
    mov ebx, [counts + 0x40 * 4]
    sti
    mov ecx, 3000
1:  in al, 0x80
    loop 1b
    cli
    cmp [counts + 0x40 * 4], ebx
    check e, 4
    call pit_stop

    # The transmitter's interrupt, once for each time that it is enabled.
    mov ecx, 0x11 + 2 * 4
    call own_id
    call ioapic_write
    mov ecx, 0x10 + 2 * 4
    mov eax, 0x41
    call ioapic_write
    mov edx, COM1 + 4
    mov al, 0x0b                # MCR: OUT2 lets the interrupt out
    out dx, al
    mov qword ptr [on_interrupt], offset serial
    mov edx, COM1 + 1
    mov al, 2
    out dx, al
    await 0x41, 1
    mov al, [identified]
    and al, 0x0f
    cmp al, 2                   # IIR: transmitter empty
    check e, 5
    mov edx, COM1               # a character that is gone: one more
    mov al, '.'
    out dx, al
    await 0x41, 2
    mov edx, COM1 + 1
    xor eax, eax
    out dx, al
    mov al, 2
    out dx, al                  # enabled anew while empty: one more
    await 0x41, 3
    mov edx, COM1 + 1
    xor eax, eax
    out dx, al
    mov edx, COM1 + 2
    in al, dx
    test al, 1                  # none pending
    check nz, 6
    mov edx, COM1 + 5
    in al, dx
    and al, 0x60
    cmp al, 0x60                # LSR: empty
    check e, 7
    ret
serial:
    push rdx
    mov edx, COM1 + 2
    in al, dx
    mov [identified], al
    pop rdx
    ret
# EAX = this CPU's APIC id in bits 31..24.
own_id:
    mov eax, LAPIC
    mov eax, [rax + LAPIC_ID]
    and eax, 0xff000000
    ret
.bss
identified: .skip 8
.text
