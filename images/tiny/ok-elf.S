# ok-elf: an ELF file with a PVH note and a 64-bit entry; sets up long mode, an
# IDT and page tables of its own, prints OK and ends with 0.
# load: kernel
# status: 0
# stdout: OK
.include "long.inc"
main:
    ret
