// ok-image: the same as a Linux Image; X0 has a device tree, and it is
// entered at EL1 with translation off and interrupts masked.
// load: image
// status: 0
// stdout: OK
IMAGE = 1
.include "arm64.inc"
main:
    ldr x0, =device_tree
    ldr x0, [x0]
    tst x0, #7
    check eq, 2
    ldr w1, [x0]
    rev w1, w1
    same x1, 0xd00dfeed, 3
    mrs x0, currentel
    cmp x0, #1 << 2
    check eq, 4
    mrs x0, daif
    cmp x0, #0x3c0
    check eq, 5
    mrs x0, sctlr_el1
    tst x0, #1
    check eq, 6
    adr x0, image_start
    ldr x1, =image_start
    cmp x0, x1
    check eq, 7
    b pass
