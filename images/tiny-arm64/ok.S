// ok: prints OK and ends with 0.
// load: elf
// status: 0
// stdout: OK
.include "arm64.inc"
main:
    b pass
