# pio: port I/O of each size and direction, rep ins and outs, in real mode.
# load: flat 0x1000 real
# status: 0
# stdout: strings go up and down
.include "real.inc"
.include "tiny/pio.inc"
