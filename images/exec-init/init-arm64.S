// The first process of a guest of `vm-accel exec` on AArch64: init.S once more, a static
// program without libc.
//
// The command channel is no port here but memory outside of RAM. It has 64 KiB for
// itself: /dev/mem maps whole pages, however large the kernel's are, and a kernel with
// CONFIG_IO_STRICT_DEVMEM maps none that a driver has a register on.
//
// A load or store of the channel's registers must be one of a single register without
// writeback: a hypervisor is told of no other what it does.
//
// System calls change X0 only. X19 is the channel; W20 the command's process id; X21 its
// wait status, or -1 while it runs. X16 is the macros'.

PAGE_MAX    = 65536
.include "exec-init.inc"

CHANNEL     = 0x3efe0000

SYS_DUP3 = 24; SYS_FCNTL = 25; SYS_IOCTL = 29; SYS_MKDIRAT = 34; SYS_SYMLINKAT = 36
SYS_MOUNT = 40; SYS_CHDIR = 49; SYS_OPENAT = 56; SYS_CLOSE = 57; SYS_PIPE2 = 59
SYS_READ = 63; SYS_WRITE = 64; SYS_PPOLL = 73; SYS_SIGNALFD4 = 74; SYS_EXIT = 93
SYS_SIGPROCMASK = 135; SYS_REBOOT = 142; SYS_SETSID = 157; SYS_SETHOSTNAME = 161
SYS_SOCKET = 198; SYS_CLONE = 220; SYS_EXECVE = 221; SYS_MMAP = 222; SYS_WAIT4 = 260

AT_FDCWD    = -100
O_SYNC      = 0x101000
PROT_READ   = 1
PROT_WRITE  = 2
MAP_SHARED  = 1

.macro call_kernel number
    mov x8, #\number
    svc #0
.endm

.macro address register, place
    adrp \register, \place
    add \register, \register, :lo12:\place
.endm

// Loads and stores a variable, which is aligned.
.macro get register, variable
    adrp x16, \variable
    ldr \register, [x16, :lo12:\variable]
.endm
.macro put register, variable
    adrp x16, \variable
    str \register, [x16, :lo12:\variable]
.endm

// Ends the guest with words on the console if X0 is an error.
.macro need text
    .pushsection .rodata
.Lword\@:
    .ascii "vm-accel: init: \text\n"
.Lend\@:
    .popsection
    tbz x0, #63, .Lgood\@
    address x1, .Lword\@
    mov x2, #.Lend\@ - .Lword\@
    b fail
.Lgood\@:
.endm

// Opens the file whose name is at \path.
.macro open path, flags
    mov x0, #AT_FDCWD
    address x1, \path
    ldr x2, =\flags
    mov x3, #0
    call_kernel SYS_OPENAT
.endm

// Makes a pipe; \text is said if there is none.
.macro pipe slot, text
    address x0, \slot
    mov x1, #O_CLOEXEC
    call_kernel SYS_PIPE2
    need "\text"
.endm

// Makes the file descriptor at \slot non-blocking.
.macro nonblock slot
    get w0, \slot
    mov x1, #F_SETFL
    mov x2, #O_NONBLOCK
    call_kernel SYS_FCNTL
.endm

.macro close slot
    get w0, \slot
    call_kernel SYS_CLOSE
.endm

// Stores a struct pollfd at offset \at of X22: the fd at \slot, for the events in W2. A
// negative fd is skipped.
.macro watch at, slot
    get w0, \slot
    stp w0, w2, [x22, #\at]
.endm

// Calls carry for the pipe at \slot.
.macro carry_from slot, register
    address x22, \slot
    add x23, x19, #\register
    bl carry
.endm

.text
.globl _start
_start:
    // The kernel's file systems. What a kernel lacks is the command's to miss.
    address x22, mounts
1:  ldr x1, [x22, #8]
    mov x0, #AT_FDCWD
    mov x2, #0755
    call_kernel SYS_MKDIRAT
    ldp x0, x1, [x22]
    ldr x2, [x22, #16]
    mov x3, #0
    ldr x4, [x22, #24]
    call_kernel SYS_MOUNT
    ldr x0, [x22, #32]!
    cbnz x0, 1b
    address x22, links
2:  ldr x0, [x22]
    mov x1, #AT_FDCWD
    ldr x2, [x22, #8]
    call_kernel SYS_SYMLINKAT
    ldr x0, [x22, #16]!
    cbnz x0, 2b

    // Without a console nothing is open yet, and the pipes must not be 0, 1 and 2.
3:  open dev_null, O_RDWR
    cmp x0, #2
    b.ls 3b
    tbnz x0, #63, 4f
    call_kernel SYS_CLOSE
4:
    address x0, hostname
    mov x1, #8
    call_kernel SYS_SETHOSTNAME
    // The loopback interface.
    mov x0, #2                  // AF_INET
    mov x1, #2                  // SOCK_DGRAM
    mov x2, #0
    call_kernel SYS_SOCKET
    tbnz x0, #63, 5f
    mov x22, x0
    mov x1, #SIOCSIFFLAGS
    address x2, loopback
    call_kernel SYS_IOCTL
    mov x0, x22
    call_kernel SYS_CLOSE
5:
    // The way to the host.
    open dev_mem, (O_RDWR | O_SYNC | O_CLOEXEC)
    need "no /dev/mem: the kernel needs CONFIG_DEVMEM, and no lockdown"
    mov x22, x0
    mov x4, x0
    mov x0, #0
    mov x1, #CHANNEL_BYTES
    mov x2, #PROT_READ | PROT_WRITE
    mov x3, #MAP_SHARED
    ldr x5, =CHANNEL
    call_kernel SYS_MMAP
    need "no device memory through /dev/mem: the kernel must have no lockdown"
    mov x19, x0
    mov x0, x22
    call_kernel SYS_CLOSE
    ldr w0, [x19, #MAGIC]
    ldr w1, =CHANNEL_MAGIC
    cmp w0, w1
    csetm x0, ne
    need "this is no guest of vm-accel exec"

    bl read_command

    // A line on COM2 says that there is input after there was none.
    open bell_path, (O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)
    put w0, bell

    pipe stdin_pipe, "no pipe for stdin"
    pipe stdout_pipe, "no pipe for stdout"
    pipe stderr_pipe, "no pipe for stderr"
    nonblock stdin_pipe+4
    nonblock stdout_pipe
    nonblock stderr_pipe

    mov x0, #SIG_BLOCK
    address x1, sigchld
    mov x2, #0
    mov x3, #8
    call_kernel SYS_SIGPROCMASK
    mov x0, #-1
    address x1, sigchld
    mov x2, #8
    ldr x3, =(O_CLOEXEC | O_NONBLOCK)
    call_kernel SYS_SIGNALFD4
    need "no signalfd"
    put w0, children

    // As fork does.
    mov x0, #SIGCHLD
    mov x1, #0
    mov x2, #0
    mov x3, #0
    mov x4, #0
    call_kernel SYS_CLONE
    need "no process for the command"
    cbz x0, child
    mov w20, w0
    mov x21, #-1

    close stdin_pipe
    close stdout_pipe+4
    close stderr_pipe+4

again:
    bl feed
    address x22, polls
    get x24, input_left
    cmp x24, #0
    mov w2, #POLLOUT
    csel w2, wzr, w2, eq
    watch 0, stdin_pipe+4
    mov w25, w0
    mov w2, #POLLIN
    watch 8, stdout_pipe
    watch 16, stderr_pipe
    watch 24, children
    watch 32, bell
    mov w26, w0
    // Without input to wait for, there is no need to look for it.
    mov x2, #0
    tbnz w25, #31, 1f
    cbnz x24, 1f
    address x2, patience
    mov x0, #1                  // second
    mov x1, #0
    tbz w26, #31, 2f
    mov x0, #0
    ldr x1, =10000000           // nanoseconds
2:  stp x0, x1, [x2]
1:  mov x0, x22
    mov x1, #5
    mov x3, #0
    mov x4, #0
    call_kernel SYS_PPOLL

    ldrh w0, [x22, #6]
    tst w0, #POLLERR
    b.eq 3f
    bl close_input              // nobody reads it any more
3:  ldrh w0, [x22, #38]
    cbz w0, 4f
    get w0, bell
    address x1, output
    mov x2, #4096
    call_kernel SYS_READ
    cmp x0, #0
    b.gt 4f
    cmn x0, #EAGAIN
    b.eq 4f
    close bell
    mov w0, #-1
    put w0, bell
4:  ldrh w24, [x22, #14]
    ldrh w25, [x22, #22]
    ldrh w26, [x22, #30]
    cbz w24, 5f
    carry_from stdout_pipe, STDOUT
5:  cbz w25, 6f
    carry_from stderr_pipe, STDERR
6:  cbz w26, again
    bl reap
    cmn x21, #1
    b.eq again

    // What the command has left in the pipes; others may still hold them open.
    mov w24, #DRAINS
7:  carry_from stdout_pipe, STDOUT
    mov x25, x0
    carry_from stderr_pipe, STDERR
    orr x0, x0, x25
    cbz x0, 8f
    subs w24, w24, #1
    b.ne 7b
8:  str w21, [x19, #STATUS]
    b power_off

// Gives the command input, as much as there is and it takes.
feed:
    get w0, stdin_pipe+4
    tbnz w0, #31, 4f
    get x0, input_left
    cbnz x0, 1f
    ldr w3, [x19, #INPUT]
    and w0, w3, #~(1 << INPUT_END)
    cbz w0, 3f
    put x0, input_left
    address x1, input
    put x1, input_next
5:  ldr w2, [x19, #DATA]
    str w2, [x1], #4
    subs w0, w0, #4
    b.gt 5b
1:  get w0, stdin_pipe+4
    get x1, input_next
    get x2, input_left
    call_kernel SYS_WRITE
    cmp x0, #0
    b.le 2f
    add x1, x1, x0
    put x1, input_next
    sub x2, x2, x0
    put x2, input_left
    b feed
2:  cmn x0, #EAGAIN
    b.ne close_input
    ret
3:  tbnz w3, #INPUT_END, close_input
4:  ret

// The command's standard input ends.
close_input:
    close stdin_pipe+4
    mov w0, #-1
    put w0, stdin_pipe+4
    put xzr, input_left
    ret

// Carries one chunk from the pipe [X22] to the host, by the register at X23. X0: how much.
carry:
    ldr w0, [x22]
    address x1, output
    mov x2, #CHUNK
    call_kernel SYS_READ
    cmp x0, #0
    b.le 1f
    str w0, [x23]
    mov x3, x0
4:  ldr w2, [x1], #4
    str w2, [x19, #DATA]
    subs x3, x3, #4
    b.gt 4b
    ret
1:  b.eq 2f
    cmn x0, #EAGAIN
    b.eq 3f
2:  ldr w0, [x22]
    call_kernel SYS_CLOSE
    mov w0, #-1
    str w0, [x22]
3:  mov x0, #0
    ret

// Waits for all children that have ended; X21 becomes the command's status.
reap:
    get w0, children
    address x1, output
    mov x2, #4096
    call_kernel SYS_READ
1:  mov x0, #-1
    address x1, status
    mov x2, #WNOHANG
    mov x3, #0
    call_kernel SYS_WAIT4
    cmp x0, #0
    b.le 2f
    cmp w0, w20
    b.ne 1b
    ldr w21, [x1]
    b 1b
2:  ret

// Becomes the command. The mapping and the other files do not outlive execve.
child:
    call_kernel SYS_SETSID
    mov x2, #0
    get w0, stdin_pipe
    mov x1, #0
    call_kernel SYS_DUP3
    get w0, stdout_pipe+4
    mov x1, #1
    call_kernel SYS_DUP3
    get w0, stderr_pipe+4
    mov x1, #2
    call_kernel SYS_DUP3
    mov x0, #SIG_SETMASK
    address x1, no_signals
    mov x2, #0
    mov x3, #8
    call_kernel SYS_SIGPROCMASK
    get x0, directory
    call_kernel SYS_CHDIR
    mov w22, #WORKDIR
    tbnz x0, #63, 1f
    get x0, program
    address x1, pointers
    get x2, environment
    call_kernel SYS_EXECVE
    mov w22, #0
1:  sub w0, w22, w0
    str w0, [x19, #FAILED]
    mov x0, #127
    call_kernel SYS_EXIT

// Reads /.vm-accel/command: program, directory, pointers, environment. X0 is the next
// string in it, X22 where the next pointer goes.
read_command:
    mov x28, x30
    open command_path, 0
    need "cannot open /.vm-accel/command"
    mov x24, x0
    address x22, command
    address x25, command_end
1:  mov x0, x24
    mov x1, x22
    sub x2, x25, x22
    call_kernel SYS_READ
    need "cannot read /.vm-accel/command"
    add x22, x22, x0
    cbnz x0, 1b
    mov x0, x24
    call_kernel SYS_CLOSE
    // The host bounds the numbers and the length.
    address x0, command
    ldp w2, w3, [x0], #8
    put x0, program
    bl next_string
    put x0, directory
    bl next_string
    address x22, pointers
    bl fill
    put x22, environment
    mov w2, w3
    mov x30, x28
    // falls through

// Stores pointers to the next W2 strings, and a null pointer.
fill:
    mov x27, x30
    cbz w2, 2f
1:  str x0, [x22], #8
    bl next_string
    subs w2, w2, #1
    b.ne 1b
2:  str xzr, [x22], #8
    ret x27

// X0 goes behind the next NUL.
next_string:
    ldrb w1, [x0], #1
    cbnz w1, next_string
    ret

// Says the X2 bytes at X1 on the console, and powers off.
fail:
    mov x0, #2
    call_kernel SYS_WRITE
power_off:
    ldr w0, =0xfee1dead
    ldr w1, =0x28121969
    ldr w2, =0x4321fedc
    mov x3, #0
    call_kernel SYS_REBOOT
1:  mov x0, #0
    mov x1, #0
    mov x2, #0
    mov x3, #0
    call_kernel SYS_PPOLL       // for ever
    b 1b

.section .rodata
dev_mem:      .asciz "/dev/mem"

.bss
.balign 8
patience:     .zero 16
