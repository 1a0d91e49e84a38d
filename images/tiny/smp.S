# smp: INIT and SIPI start the second CPU; each counts under a lock and with
# atomic instructions; CPUID and LAPIC ids agree on each; fixed and NMI IPIs go to
# and fro; HLT is woken by an IPI; a shootdown of the TLB.
# load: kernel
# cpus: 2
# status: 0
# stdout: OK
# needs: smp
.include "long.inc"
.include "irq.inc"
.include "smp.inc"
ROUNDS = 2000
main:
    call pic_init
    call lapic_init
    mov dword ptr [rbx + LAPIC_LINT0], 0x10000
    mov byte ptr [eoi], EOI_LAPIC
    mov eax, [rbx + LAPIC_ID]
    shr eax, 24
    mov [bsp_id], eax
    mov ecx, 0x1b
    rdmsr
    test eax, 0x100             # this is the BSP
    check nz, 1
    mov qword ptr [window], offset page1 + 3
    call start_cpus
1:  pause
    cmp dword ptr [awake], 2
    jb 1b
    mov dword ptr [go], 1
    call count
2:  pause
    cmp dword ptr [finished], 2
    jb 2b
    cmp dword ptr [locked_count], 2 * ROUNDS
    check e, 2
    cmp dword ptr [atomic_count], 2 * ROUNDS
    check e, 3
    cmp dword ptr [exchange_count], 2 * ROUNDS
    check e, 4
    cmp dword ptr [wrong], 0
    check e, 5
    mov eax, [ap_id]
    cmp eax, [bsp_id]
    check ne, 6

    # To the other one and back, ten times; it halts in between.
    mov ebp, 1
3:  mov ebx, LAPIC
    mov eax, [ap_id]
    shl eax, 24
    mov [rbx + LAPIC_ICR2], eax
    mov dword ptr [rbx + LAPIC_ICR], 0x4050
4:  sti
    hlt
    cli
    cmp [counts + 0x51 * 4], ebp
    jb 4b
    inc ebp
    cmp ebp, 10
    jbe 3b
    cmp dword ptr [counts + 0x50 * 4], 10
    check e, 10

    # An NMI.
    mov dword ptr [rbx + LAPIC_ICR], 0x4400
5:  pause
    cmp dword ptr [counts + 2 * 4], 1
    jb 5b
    # The other CPU has the page's old translation; change it and tell it.
    mov dword ptr [page1], 0x11
    mov dword ptr [page2], 0x22
    mov dword ptr [rbx + LAPIC_ICR], 0x4052
6:  pause
    cmp dword ptr [answers], 1
    jb 6b
    cmp dword ptr [seen], 0x11
    check e, 11
    mov qword ptr [window], offset page2 + 3
    mov dword ptr [rbx + LAPIC_ICR], 0x4052
7:  pause
    cmp dword ptr [answers], 2
    jb 7b
    cmp dword ptr [seen], 0x22
    check e, 12
    # INIT parks it.
    mov dword ptr [rbx + LAPIC_ICR], 0x4500
    mov ecx, 1000
    call delay
    mov dword ptr [rbx + LAPIC_ICR], 0x4052
    mov ecx, 1000
    call delay
    cmp dword ptr [counts + 0x52 * 4], 2
    check e, 13
    ret

ap_main:
    mov ecx, 0x1b
    rdmsr
    test eax, 0x100             # not the BSP
    jz 1f
    lock inc dword ptr [wrong]
1:  mov eax, 1
    cpuid
    shr ebx, 24
    mov [ap_id], ebx
    mov eax, LAPIC
    mov eax, [rax + LAPIC_ID]
    shr eax, 24
    cmp eax, ebx
    je 2f
    lock inc dword ptr [wrong]
2:  pause
    cmp dword ptr [go], 1
    jne 2b
    call count
    mov qword ptr [on_interrupt], offset interrupted
3:  sti
    hlt
    jmp 3b

# On either CPU: the vectors 0x50 and 0x52 are only sent to the second.
interrupted:
    cmp eax, 0x50
    je 1f
    cmp eax, 0x52
    je 2f
    ret
1:  push rbx
    mov ebx, LAPIC
    mov eax, [bsp_id]
    shl eax, 24
    mov [rbx + LAPIC_ICR2], eax
    mov dword ptr [rbx + LAPIC_ICR], 0x4051
    pop rbx
    ret
2:  invlpg [WINDOW]
    mov eax, [WINDOW]
    mov [seen], eax
    lock inc dword ptr [answers]
    ret

count:
    mov ecx, ROUNDS
1:  mov eax, 1                  # a spin lock
    xchg [lock_word], eax
    test eax, eax
    jz 2f
    pause
    jmp 1b
2:  mov eax, [locked_count]
    inc eax
    mov [locked_count], eax
    mov dword ptr [lock_word], 0
    lock inc dword ptr [atomic_count]
    mov eax, [exchange_count]   # a loop of cmpxchg
3:  lea edx, [rax + 1]
    lock cmpxchg [exchange_count], edx
    jnz 3b
    dec ecx
    jnz 1b
    lock inc dword ptr [finished]
    ret
.bss
.balign 4096
page1:  .skip 4096
page2:  .skip 4096
bsp_id: .skip 4
ap_id:  .skip 4
go:     .skip 4
wrong:  .skip 4
seen:   .skip 4
answers: .skip 4
finished: .skip 4
.balign 64
lock_word: .skip 64
locked_count: .skip 64
atomic_count: .skip 64
exchange_count: .skip 64
.text
