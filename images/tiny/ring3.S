# ring3: IRET to user mode; faults from user mode on the TSS's stack, with
# the U bit; privileged instructions; the I/O permission map; 32-bit
# user code.
# load: kernel
# status: 0
# stdout: OK
.include "tiny/ring3.inc"
