# wake: two CPUs wake each other from HLT by IPIs, thousands of times; each is woken by
# its own timer, from short counts to long ones, at the same time as the other; the
# TSC never goes back from one CPU to the other; a TSC deadline reads back until it is
# over, then it reads 0, and the interrupt has come.
# load: kernel
# cpus: 2
# status: 0
# stdout: OK
# needs: smp
# timeout: 120s
.include "long.inc"
.include "irq.inc"
.include "smp.inc"
.ifndef ROUNDS
ROUNDS      = 5000
.endif
TIMERS      = 400
DEADLINES   = 50
LVT_DEADLINE = 0x40000
MSR_DEADLINE = 0x6e0

# Halts until the vector has been counted more often than EBP says, which then counts it.
.macro await_next vector
.Lnext\@:
    cli
    cmp [counts + \vector * 4], ebp
    ja .Lcame\@
    sti
    hlt
    jmp .Lnext\@
.Lcame\@:
    inc ebp
.endm

# Waits until the other CPU has come here as often.
.macro meet
    call rendezvous
.endm

main:
    call pic_init
    call lapic_init
    mov dword ptr [rbx + LAPIC_LINT0], 0x10000
    mov byte ptr [eoi], EOI_LAPIC
    mov eax, [rbx + LAPIC_ID]
    mov [bsp_id], eax
    call start_cpus
1:  pause
    cmp dword ptr [awake], 2
    jb 1b
    meet

    # To the other one and back.
    mov ebx, LAPIC
    xor ebp, ebp
2:  mov eax, [ap_id]
    mov [rbx + LAPIC_ICR2], eax
    mov dword ptr [rbx + LAPIC_ICR], 0x4050
    await_next 0x51
    cmp ebp, ROUNDS
    jb 2b
    meet

    mov edi, 0x40
    call timers
    meet

    # The TSC: the one who has the turn must not read less than the other has read.
    mov r8d, 1
3:  mov ecx, [turn]
    test ecx, 1
    jnz 3b
    call compare_tsc
    inc dword ptr [turn]
    cmp dword ptr [turn], 2 * ROUNDS
    jb 3b
    cmp dword ptr [gone_back], 0
    check e, 10
    meet

    mov edi, 0x42
    call deadlines
    meet
    cmp dword ptr [wrong], 0
    check e, 20
    ret

ap_main:
    mov eax, [rbx + LAPIC_ID]
    mov [ap_id], eax
    meet
    xor ebp, ebp
1:  await_next 0x50
    mov eax, [bsp_id]
    mov [rbx + LAPIC_ICR2], eax
    mov dword ptr [rbx + LAPIC_ICR], 0x4051
    cmp ebp, ROUNDS
    jb 1b
    meet

    mov edi, 0x41
    call timers
    meet

2:  mov ecx, [turn]
    test ecx, 1
    jz 2b
    call compare_tsc
    inc dword ptr [turn]
    cmp dword ptr [turn], 2 * ROUNDS
    jb 2b
    meet

    mov edi, 0x43
    call deadlines
    meet
3:  cli
    hlt
    jmp 3b

# Counts of 1 ns to about 130 us, each of which wakes the CPU once. EDI is the vector.
timers:
    mov dword ptr [rbx + LAPIC_TDCR], 0xb
    mov [rbx + LAPIC_LVTT], edi
    xor ebp, ebp
1:  mov ecx, ebp
    and ecx, 15
    mov eax, 4
    shl eax, cl
    or eax, ebp
    mov [rbx + LAPIC_TICR], eax
2:  cli
    cmp [counts + rdi * 4], ebp
    ja 3f
    sti
    hlt
    jmp 2b
3:  inc ebp
    cmp ebp, TIMERS
    jb 1b
    mov dword ptr [rbx + LAPIC_LVTT], 0x10000
    ret

compare_tsc:
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, [last_tsc]
    jae 1f
    lock inc dword ptr [gone_back]
1:  mov [last_tsc], rax
    ret

# Deadlines of 0.1 ms to 2 ms ahead, read back; then HLT until they are over. EDI is the vector.
deadlines:
    push rbx
    mov eax, 1
    cpuid
    pop rbx
    bt ecx, 24
    jnc 9f
    mov eax, edi
    or eax, LVT_DEADLINE
    mov [rbx + LAPIC_LVTT], eax
    mfence
    xor ebp, ebp
1:  cli
    mov r9d, ebp
    and r9d, 15
    inc r9d
    imul r9, r9, 128000
    rdtsc
    shl rdx, 32
    or rax, rdx
    add r9, rax                 # the deadline
    mov ecx, MSR_DEADLINE
    mov rax, r9
    mov rdx, r9
    shr rdx, 32
    wrmsr
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov r10, rax
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp r10, r9
    je 2f
    # It is no more: then it must be over, and read as 0.
    test r10, r10
    jnz 8f
    cmp rax, r9
    jb 8f
2:  cli
    cmp [counts + rdi * 4], ebp
    ja 3f
    sti
    hlt
    jmp 2b
3:  rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, r9                 # not too early
    jb 8f
    mov ecx, MSR_DEADLINE
    rdmsr
    or eax, edx                 # disarmed
    jnz 8f
    inc ebp
    cmp ebp, DEADLINES
    jb 1b
    ret
8:  lock inc dword ptr [wrong]
9:  ret

rendezvous:
    mov eax, 1
    lock xadd [met], eax
    or eax, 1                   # the count at which both are here
    inc eax
1:  pause
    cmp [met], eax
    jb 1b
    ret

.bss
.balign 64
bsp_id: .skip 4
ap_id:  .skip 4
wrong:  .skip 4
gone_back: .skip 4
.balign 64
met:    .skip 64
turn:   .skip 64
last_tsc: .skip 64
.text
