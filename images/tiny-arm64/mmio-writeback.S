// mmio-writeback: a load with writeback from a device: the processor does not say what
// it does, so no accelerator can emulate it, and the run ends by naming it.
// load: elf
// status: 126
// stdout:
.include "arm64.inc"
main:
    ldr x19, =TEST_WINDOW
    ldr w0, [x19], #4
    exit 1
