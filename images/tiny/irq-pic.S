# irq-pic: the PIC delivers the PIT's ticks through LINT0 (ExtINT), wakes HLT,
# obeys its mask, and latches an edge while interrupts are off.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
.include "irq.inc"
main:
    call lapic_init
    call pic_init
    in al, PIC1 + 1
    cmp al, 0xff                # the mask reads back
    check e, 1
    outb PIC1 + 1, 0xfe
    in al, PIC1 + 1
    cmp al, 0xfe
    check e, 2
    mov byte ptr [eoi], EOI_PIC
    call pit_start
    await 0x20, 5
    # Interrupts off: the request shows in the IRR, and nothing is delivered.
    mov ecx, 2000000
1:  outb PIC1, 0x0a             # OCW3: read the IRR
    in al, PIC1
    test al, 1
    loopz 1b
    check nz, 3
    mov ebx, [counts + 0x20 * 4]
    nop
    cmp [counts + 0x20 * 4], ebx
    check e, 4
    # STI's shadow: nothing is delivered before the instruction after it ended.
    sti
    mov edi, [counts + 0x20 * 4]
    mov ecx, 1000               # a KVM that emulates takes its time
11: cmp [counts + 0x20 * 4], ebx
    loope 11b
    cli
    check a, 6
    cmp edi, ebx
    check e, 5
    # sti; cli never lets one in.
    mov ecx, 2000000
2:  outb PIC1, 0x0a
    in al, PIC1
    test al, 1
    loopz 2b
    mov ebx, [counts + 0x20 * 4]
    sti
    cli
    cmp [counts + 0x20 * 4], ebx
    check e, 7
    # POPF that sets IF lets it in.
    pushfq
    or qword ptr [rsp], 0x200
    popfq
    mov ecx, 1000
12: cmp [counts + 0x20 * 4], ebx
    loope 12b
    cli
    check a, 8
    # Masked: no more of them.
    outb PIC1 + 1, 0xff
    mov ebx, [counts + 0x20 * 4]
    sti
    mov ecx, 3000
3:  in al, 0x80
    loop 3b
    cli
    cmp [counts + 0x20 * 4], ebx
    check e, 9
    # In service until the end of interrupt: the ISR reads back as empty.
    outb PIC1, 0x0b
    in al, PIC1
    test al, al
    check z, 10
    call pit_stop
    # The PIT's counter counts down.
    outb PIT_MODE, 0x30
    outb PIT0, 0xff
    outb PIT0, 0xff
    outb PIT_MODE, 0
    in al, PIT0
    mov bl, al
    in al, PIT0
    mov bh, al
    mov ecx, 100000
4:  outb PIT_MODE, 0
    in al, PIT0
    mov dl, al
    in al, PIT0
    mov dh, al
    cmp bx, dx
    loope 4b
    check a, 11
    ret
