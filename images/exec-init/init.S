# The first process of a guest of `vm-accel exec`: a static program without libc.
#
# It mounts the kernel's file systems, starts the command that the host has written to
# /.vm-accel/command, carries bytes between it and the host through the command
# channel (a device at ports 0x700 on, src/exec/channel.rs), reaps orphans, and tells
# the host how the command ended.
#
# /.vm-accel/command: the numbers of arguments and of environment variables (32 bits,
# little-endian), then strings that end in NUL: program, working directory, arguments,
# environment.
#
# System calls clobber RCX and R11 only. R12 is the channel's port; R13 the command's
# process id; R14 its wait status, or -1 while it runs.
.intel_syntax noprefix

PAGE_MAX    = 4096
.include "exec-init.inc"

CHANNEL     = 0x700

SYS_READ = 0; SYS_WRITE = 1; SYS_OPEN = 2; SYS_CLOSE = 3; SYS_POLL = 7
SYS_SIGPROCMASK = 14; SYS_IOCTL = 16; SYS_DUP2 = 33; SYS_PAUSE = 34; SYS_SOCKET = 41
SYS_FORK = 57; SYS_EXECVE = 59; SYS_EXIT = 60; SYS_WAIT4 = 61; SYS_FCNTL = 72
SYS_CHDIR = 80; SYS_MKDIR = 83; SYS_SYMLINK = 88; SYS_SETSID = 112; SYS_MOUNT = 165
SYS_REBOOT = 169; SYS_SETHOSTNAME = 170; SYS_IOPL = 172; SYS_SIGNALFD4 = 289
SYS_PIPE2 = 293

.macro call_kernel number
    mov eax, \number
    syscall
.endm

# Ends the guest with words on the console if RAX is an error.
.macro need text
    test rax, rax
    jns .Lgood\@
    lea rsi, [rip + .Lword\@]
    mov edx, offset .Lend\@ - .Lword\@
    jmp fail
.Lgood\@:
    .pushsection .rodata
.Lword\@:
    .ascii "vm-accel: init: \text\n"
.Lend\@:
    .popsection
.endm

# Makes the file descriptor at \slot non-blocking.
.macro nonblock slot
    mov edi, \slot
    mov esi, F_SETFL
    mov edx, O_NONBLOCK
    call_kernel SYS_FCNTL
.endm

.text
.globl _start
_start:
    # The kernel's file systems. What a kernel lacks is the command's to miss.
    lea rbx, [rip + mounts]
1:  mov rsi, [rbx + 8]
    mov rdi, rsi
    push rsi
    mov esi, 0755
    call_kernel SYS_MKDIR
    pop rsi
    mov rdi, [rbx]
    mov rdx, [rbx + 16]
    xor r10d, r10d
    mov r8, [rbx + 24]
    call_kernel SYS_MOUNT
    add rbx, 32
    cmp qword ptr [rbx], 0
    jne 1b
    lea rbx, [rip + links]
2:  mov rdi, [rbx]
    mov rsi, [rbx + 8]
    call_kernel SYS_SYMLINK
    add rbx, 16
    cmp qword ptr [rbx], 0
    jne 2b

    # Without a console nothing is open yet, and the pipes must not be 0, 1 and 2.
3:  lea rdi, [rip + dev_null]
    mov esi, O_RDWR
    call_kernel SYS_OPEN
    cmp rax, 2
    jbe 3b
    test rax, rax
    js 4f
    mov edi, eax
    call_kernel SYS_CLOSE
4:
    lea rdi, [rip + hostname]
    mov esi, 8
    call_kernel SYS_SETHOSTNAME
    # The loopback interface.
    mov edi, 2                  # AF_INET
    mov esi, 2                  # SOCK_DGRAM
    xor edx, edx
    call_kernel SYS_SOCKET
    test rax, rax
    js 5f
    mov ebx, eax
    mov edi, eax
    mov esi, SIOCSIFFLAGS
    lea rdx, [rip + loopback]
    call_kernel SYS_IOCTL
    mov edi, ebx
    call_kernel SYS_CLOSE
5:
    # The way to the host.
    mov edi, 3
    call_kernel SYS_IOPL
    need "no I/O ports: the kernel needs CONFIG_X86_IOPL_IOPERM, and no lockdown"
    mov r12d, CHANNEL
    lea edx, [r12 + MAGIC]
    in eax, dx
    cmp eax, CHANNEL_MAGIC
    mov eax, 0
    je 6f
    dec rax
6:  need "this is no guest of vm-accel exec"

    call read_command

    # A line on COM2 says that there is input after there was none.
    lea rdi, [rip + bell_path]
    mov esi, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC
    call_kernel SYS_OPEN
    mov [rip + bell], eax

    mov esi, O_CLOEXEC
    lea rdi, [rip + stdin_pipe]
    call_kernel SYS_PIPE2
    need "no pipe for stdin"
    mov esi, O_CLOEXEC
    lea rdi, [rip + stdout_pipe]
    call_kernel SYS_PIPE2
    need "no pipe for stdout"
    mov esi, O_CLOEXEC
    lea rdi, [rip + stderr_pipe]
    call_kernel SYS_PIPE2
    need "no pipe for stderr"
    nonblock [rip+stdin_pipe+4]
    nonblock [rip+stdout_pipe]
    nonblock [rip+stderr_pipe]

    mov edi, SIG_BLOCK
    lea rsi, [rip + sigchld]
    xor edx, edx
    mov r10d, 8
    call_kernel SYS_SIGPROCMASK
    mov edi, -1
    lea rsi, [rip + sigchld]
    mov edx, 8
    mov r10d, O_CLOEXEC | O_NONBLOCK
    call_kernel SYS_SIGNALFD4
    need "no signalfd"
    mov [rip + children], eax

    # Port input to a page that is not there yet might be lost.
    lea rdi, [rip + input]
    mov ecx, CHUNK / 8
    xor eax, eax
    rep stosq

    call_kernel SYS_FORK
    need "no process for the command"
    test eax, eax
    jz child
    mov r13d, eax
    mov r14, -1

    mov edi, [rip + stdin_pipe]
    call_kernel SYS_CLOSE
    mov edi, [rip + stdout_pipe + 4]
    call_kernel SYS_CLOSE
    mov edi, [rip + stderr_pipe + 4]
    call_kernel SYS_CLOSE

again:
    call feed
    # struct pollfd: fd, events, revents. A negative fd is skipped.
    lea rdi, [rip + polls]
    mov eax, [rip + stdin_pipe + 4]
    mov [rdi], eax
    xor eax, eax
    cmp qword ptr [rip + input_left], 0
    je 1f
    mov eax, POLLOUT
1:  mov [rdi + 4], eax
    mov eax, [rip + stdout_pipe]
    mov [rdi + 8], eax
    mov dword ptr [rdi + 12], POLLIN
    mov eax, [rip + stderr_pipe]
    mov [rdi + 16], eax
    mov dword ptr [rdi + 20], POLLIN
    mov eax, [rip + children]
    mov [rdi + 24], eax
    mov dword ptr [rdi + 28], POLLIN
    mov eax, [rip + bell]
    mov [rdi + 32], eax
    mov dword ptr [rdi + 36], POLLIN
    # Without input to wait for, there is no need to look for it.
    mov edx, -1
    cmp dword ptr [rip + stdin_pipe + 4], 0
    jl 2f
    cmp qword ptr [rip + input_left], 0
    jne 2f
    mov edx, 1000
    cmp dword ptr [rip + bell], 0
    jge 2f
    mov edx, 10
2:  mov esi, 5
    call_kernel SYS_POLL

    lea rbx, [rip + polls]
    test dword ptr [rbx + 4], POLLERR << 16
    jz 3f
    call close_input            # nobody reads it any more
3:  cmp word ptr [rbx + 38], 0
    je 4f
    mov edi, [rip + bell]
    lea rsi, [rip + output]
    mov edx, 4096
    call_kernel SYS_READ
    test rax, rax
    jg 4f
    cmp rax, -EAGAIN
    je 4f
    mov edi, [rip + bell]
    mov dword ptr [rip + bell], -1
    call_kernel SYS_CLOSE
4:  cmp word ptr [rbx + 14], 0
    je 5f
    lea rbx, [rip + stdout_pipe]
    mov ebp, STDOUT
    call carry
5:  lea rbx, [rip + polls]
    cmp word ptr [rbx + 22], 0
    je 6f
    lea rbx, [rip + stderr_pipe]
    mov ebp, STDERR
    call carry
6:  lea rbx, [rip + polls]
    cmp word ptr [rbx + 30], 0
    je again
    call reap
    cmp r14, -1
    je again

    # What the command has left in the pipes; others may still hold them open.
    mov r15d, DRAINS
7:  lea rbx, [rip + stdout_pipe]
    mov ebp, STDOUT
    call carry
    push rax
    lea rbx, [rip + stderr_pipe]
    mov ebp, STDERR
    call carry
    pop rdx
    or eax, edx
    jz 8f
    dec r15d
    jnz 7b
8:  mov eax, r14d
    lea edx, [r12 + STATUS]
    out dx, eax
    jmp power_off

# Gives the command input, as much as there is and it takes.
feed:
    cmp dword ptr [rip + stdin_pipe + 4], 0
    jl 4f
    mov rdx, [rip + input_left]
    test rdx, rdx
    jnz 1f
    lea edx, [r12 + INPUT]
    in eax, dx
    btr eax, INPUT_END
    setc bl
    test eax, eax
    jz 3f
    mov [rip + input_left], rax
    lea rdi, [rip + input]
    mov [rip + input_next], rdi
    mov ecx, eax
    add ecx, 3
    shr ecx, 2
    lea edx, [r12 + DATA]
    rep insd
1:  mov edi, [rip + stdin_pipe + 4]
    mov rsi, [rip + input_next]
    mov rdx, [rip + input_left]
    call_kernel SYS_WRITE
    test rax, rax
    jle 2f
    add [rip + input_next], rax
    sub [rip + input_left], rax
    jmp feed
2:  cmp rax, -EAGAIN
    jne close_input
    ret
3:  test bl, bl
    jnz close_input
4:  ret

# The command's standard input ends.
close_input:
    mov edi, [rip + stdin_pipe + 4]
    mov dword ptr [rip + stdin_pipe + 4], -1
    mov qword ptr [rip + input_left], 0
    call_kernel SYS_CLOSE
    ret

# Carries one chunk from the pipe [RBX] to the host, as EBP says. EAX: how much.
carry:
    mov edi, [rbx]
    lea rsi, [rip + output]
    mov edx, CHUNK
    call_kernel SYS_READ
    test rax, rax
    jle 1f
    push rax
    lea edx, [r12 + rbp]
    out dx, eax
    mov ecx, eax
    add ecx, 3
    shr ecx, 2
    lea rsi, [rip + output]
    lea edx, [r12 + DATA]
    rep outsd
    pop rax
    ret
1:  jz 2f
    cmp rax, -EAGAIN
    je 3f
2:  mov edi, [rbx]
    mov dword ptr [rbx], -1
    call_kernel SYS_CLOSE
3:  xor eax, eax
    ret

# Waits for all children that have ended; R14 becomes the command's status.
reap:
    mov edi, [rip + children]
    lea rsi, [rip + output]
    mov edx, 4096
    call_kernel SYS_READ
1:  mov rdi, -1
    lea rsi, [rip + status]
    mov edx, WNOHANG
    xor r10d, r10d
    call_kernel SYS_WAIT4
    test rax, rax
    jle 2f
    cmp eax, r13d
    jne 1b
    mov r14d, [rip + status]
    jmp 1b
2:  ret

# Becomes the command.
child:
    call_kernel SYS_SETSID
    mov edi, [rip + stdin_pipe]
    xor esi, esi
    call_kernel SYS_DUP2
    mov edi, [rip + stdout_pipe + 4]
    mov esi, 1
    call_kernel SYS_DUP2
    mov edi, [rip + stderr_pipe + 4]
    mov esi, 2
    call_kernel SYS_DUP2
    mov edi, SIG_SETMASK
    lea rsi, [rip + no_signals]
    xor edx, edx
    mov r10d, 8
    call_kernel SYS_SIGPROCMASK
    mov rdi, [rip + directory]
    call_kernel SYS_CHDIR
    mov ebx, WORKDIR
    test rax, rax
    js 1f
    # The right to the ports would outlive execve.
    xor edi, edi
    call_kernel SYS_IOPL
    mov rdi, [rip + program]
    lea rsi, [rip + pointers]
    mov rdx, [rip + environment]
    call_kernel SYS_EXECVE
    xor ebx, ebx
1:  sub ebx, eax
    mov edi, 3
    call_kernel SYS_IOPL
    mov eax, ebx
    lea edx, [r12 + FAILED]
    out dx, eax
    mov edi, 127
    call_kernel SYS_EXIT

# Reads /.vm-accel/command: program, directory, pointers, environment.
read_command:
    lea rdi, [rip + command_path]
    xor esi, esi
    call_kernel SYS_OPEN
    need "cannot open /.vm-accel/command"
    mov r8d, eax
    lea rbx, [rip + command]
    lea rbp, [rbx + COMMAND_MAX]
1:  mov edi, r8d
    mov rsi, rbx
    mov rdx, rbp
    sub rdx, rbx
    call_kernel SYS_READ
    need "cannot read /.vm-accel/command"
    add rbx, rax
    test rax, rax
    jnz 1b
    mov edi, r8d
    call_kernel SYS_CLOSE
    # The host bounds the numbers and the length.
    lea rdi, [rip + command]
    mov r8d, [rdi]
    mov r9d, [rdi + 4]
    add rdi, 8
    mov [rip + program], rdi
    call next_string
    mov [rip + directory], rdi
    call next_string
    lea rbx, [rip + pointers]
    call fill
    mov [rip + environment], rbx
    mov r8d, r9d
    # falls through

# Stores pointers to R8D strings at RDI to RBX, and a null pointer.
fill:
    test r8d, r8d
    jz 1f
    mov [rbx], rdi
    add rbx, 8
    call next_string
    dec r8d
    jmp fill
1:  mov qword ptr [rbx], 0
    add rbx, 8
    ret

# RDI goes behind the next NUL.
next_string:
    xor eax, eax
    mov rcx, -1
    repne scasb
    ret

# Says the RDX bytes at RSI on the console, and powers off.
fail:
    mov edi, 2
    call_kernel SYS_WRITE
power_off:
    mov edi, 0xfee1dead
    mov esi, 0x28121969
    mov edx, 0x4321fedc
    call_kernel SYS_REBOOT
1:  call_kernel SYS_PAUSE
    jmp 1b
