# smc-smp: one CPU rewrites code that the other one runs, and tells it by a flag;
# the other one serialises and sees the new code each time.
# load: kernel
# cpus: 2
# status: 0
# stdout: OK
# needs: smp
# qemu-accel: tcg,thread=single
.include "long.inc"
.include "irq.inc"
.include "smp.inc"
ROUNDS = 200
main:
    call pic_init
    call lapic_init
    mov byte ptr [code], 0xb8   # mov eax, imm32; ret
    mov byte ptr [code + 5], 0xc3
    call start_cpus
1:  pause
    cmp dword ptr [awake], 2
    jb 1b
    mov ebp, 1
2:  mov [code + 1], ebp
    mov [asked], ebp
3:  pause
    cmp [answered], ebp
    jne 3b
    cmp [answer], ebp
    check e, 1
    inc ebp
    cmp ebp, ROUNDS
    jbe 2b
    ret
ap_main:
    mov ebp, 1
1:  call code                   # hot while it waits
    cmp [asked], ebp
    jne 1b
    xor eax, eax
    cpuid                       # serialises
    call code
    mov [answer], eax
    mov [answered], ebp
    inc ebp
    jmp 1b
.bss
.balign 4096
code:   .skip 4096
asked:  .skip 64
answer: .skip 64
answered: .skip 64
.text
