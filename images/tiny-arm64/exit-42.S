// exit-42: the debug exit's value is the status.
// load: elf
// status: 42
// stdout:
.include "arm64.inc"
main:
    exit 42
