# ring3-full: as ring3, and SYSCALL and SYSRET; INT n from user mode: gates of DPL 3
# and DPL 0, and a gate with an IST stack.
# load: kernel
# status: 0
# stdout: OK
# needs: full-kernel
FULL = 1
.include "tiny/ring3.inc"
