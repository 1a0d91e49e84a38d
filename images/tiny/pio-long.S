# pio-long: port I/O of each size and direction, rep ins and outs, in long mode.
# load: kernel
# status: 0
# stdout: strings go up and down
.include "long.inc"
.include "tiny/pio.inc"
