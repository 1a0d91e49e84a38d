# irq-lapic: the LAPIC: its registers, the timer once and periodically, HLT woken
# by it, self IPIs with priorities, the TPR, NMI to itself.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
.include "irq.inc"
main:
    call pic_init
    call lapic_init
    mov dword ptr [rbx + LAPIC_LINT0], 0x10000
    mov byte ptr [eoi], EOI_LAPIC
    mov eax, [rbx + 0x30]       # version
    and eax, 0xf0
    cmp eax, 0x10
    check e, 1
    mov eax, [rbx + LAPIC_SVR]
    and eax, 0x1ff
    cmp eax, 0x1ff
    check e, 2
    mov dword ptr [rbx + LAPIC_TPR], 0x50
    cmp dword ptr [rbx + LAPIC_TPR], 0x50
    check e, 3
    mov rax, cr8                # CR8 is the TPR's upper half
    cmp eax, 5
    check e, 4
    xor eax, eax
    mov cr8, rax
    cmp dword ptr [rbx + LAPIC_TPR], 0
    check e, 5

    # One shot.
    mov dword ptr [rbx + LAPIC_TDCR], 0xb       # divide by 1
    mov dword ptr [rbx + LAPIC_LVTT], 0x40
    mov dword ptr [rbx + LAPIC_TICR], 100000
    await 0x40, 1
    cmp dword ptr [rbx + LAPIC_TCCR], 0
    check e, 10
    sti
    mov ecx, 2000
1:  in al, 0x80
    loop 1b
    cli
    cmp dword ptr [counts + 0x40 * 4], 1
    check e, 11
    # Periodic.
    mov dword ptr [rbx + LAPIC_LVTT], 0x20041
    mov dword ptr [rbx + LAPIC_TICR], 1000000
    await 0x41, 4
    cmp dword ptr [rbx + LAPIC_TCCR], 1000000
    check be, 12
    mov dword ptr [rbx + LAPIC_LVTT], 0x10041   # masked
    mov dword ptr [rbx + LAPIC_TICR], 0
    sti
    nop
    cli
    # The counter counts down.
    mov dword ptr [rbx + LAPIC_TICR], -1
    mov eax, [rbx + LAPIC_TCCR]
    mov ecx, 100000
2:  cmp [rbx + LAPIC_TCCR], eax
    loope 2b
    check b, 13
    mov dword ptr [rbx + LAPIC_TICR], 0

    # Two self IPIs while interrupts are off: the higher one goes first.
    mov qword ptr [on_interrupt], offset note
    mov dword ptr [rbx + LAPIC_ICR], 0x44042
    mov dword ptr [rbx + LAPIC_ICR], 0x44063
    mov dword ptr [rbx + LAPIC_ICR], 0x44063    # a second one merges
    mov eax, [rbx + 0x200 + 0x10 * 2]           # IRR 64..95
    cmp eax, 1 << 2
    check e, 20
    mov eax, [rbx + 0x200 + 0x10 * 3]           # IRR 96..127
    cmp eax, 1 << 3
    check e, 21
    sti
    mov ecx, 1000               # a KVM that emulates takes its time
5:  cmp dword ptr [counts + 0x42 * 4], 1
    loopne 5b
    cli
    check e, 22
    cmp dword ptr [counts + 0x63 * 4], 1
    check e, 23
    cmp word ptr [order], 0x6342
    check e, 24
    # The TPR holds back what is not above it.
    mov eax, 6
    mov cr8, rax
    mov dword ptr [rbx + LAPIC_ICR], 0x44063
    sti
    nop
    nop
    cli
    cmp dword ptr [counts + 0x63 * 4], 1
    check e, 25
    xor eax, eax
    sti
    mov cr8, rax
    mov ecx, 1000
6:  cmp dword ptr [counts + 0x63 * 4], 2
    loopne 6b
    cli
    check e, 26
    # In service until the end of interrupt.
    cmp dword ptr [rbx + 0x100 + 0x10 * 3], 0
    check e, 27
    # HLT is woken by an IPI that is pending already.
    mov dword ptr [rbx + LAPIC_ICR], 0x44042
    sti
    hlt
    cli
    cmp dword ptr [counts + 0x42 * 4], 2
    check e, 28

    # NMI to itself, although interrupts are off; by its id, physically.
    mov eax, [rbx + LAPIC_ID]
    mov [rbx + LAPIC_ICR2], eax
    mov dword ptr [rbx + LAPIC_ICR], 0x400
    mov ecx, 100000
3:  cmp dword ptr [counts + 2 * 4], 1
    loopne 3b
    check e, 30
    # A fixed IPI to itself by its id.
    mov dword ptr [rbx + LAPIC_ICR], 0x4044
    mov ecx, 100000
    sti
4:  cmp dword ptr [counts + 0x44 * 4], 1
    loopne 4b
    check e, 31
    cli
    ret
note:                           # EAX is the vector
    shl dword ptr [order], 8
    mov [order], al
    ret
.bss
order:  .skip 8
.text
