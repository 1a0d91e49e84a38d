//! What a kernel that goes back to real mode finds where a PC's BIOS keeps its things: the interrupt
//! vectors, the size of the low memory and the count of the timer's ticks. There is no BIOS, so each of its
//! services answers that it is not there; Xen and others then take what the boot loader told them.
#![forbid(unsafe_code)]

use super::error::LoadError;
use super::image::write;
use super::layout::{EBDA, HIGH_RAM};
use crate::memory::GuestMemory;

/// F000:FF00, below the firmware's entry.
const STUBS: u64 = 0xF_FF00;
/// Segment and offset of the services.
const SERVICE: u32 = 0xF000_FF00;
/// Segment and offset of the handler of exceptions.
const IGNORE: u32 = 0xF000_FF10;
/// Segment and offset of INT 12h.
const MEMORY_SIZE: u32 = 0xF000_FF20;
/// Segment and offset of the timer's handler.
const TICK: u32 = 0xF000_FF30;
/// Segment and offset of the handlers of the two 8259s' interrupts that no device of a BIOS has.
const MASTER: u32 = 0xF000_FF50;
const SLAVE: u32 = 0xF000_FF60;

/// `push bp; mov bp, sp; or byte [bp+6], 1; pop bp; mov ah, 0x86; iret`: carry, function not supported.
const SERVICE_CODE: [u8; 11] = [0x55, 0x89, 0xE5, 0x80, 0x4E, 0x06, 0x01, 0x5D, 0xB4, 0x86, 0xCF];
/// `iret`
const IGNORE_CODE: [u8; 1] = [0xCF];
/// `push ds; push ax; xor ax, ax; mov ds, ax; inc dword [0x46c]; mov al, 0x20; out 0x20, al; pop ax;
/// pop ds; iret`
const TICK_CODE: [u8; 18] = [
    0x1E, 0x50, 0x31, 0xC0, 0x8E, 0xD8, 0x66, 0xFF, 0x06, 0x6C, 0x04, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0x1F,
    0xCF,
];
/// `push ax; mov al, 0x20; out 0x20, al; pop ax; iret`
const MASTER_CODE: [u8; 7] = [0x50, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0xCF];
/// `push ax; mov al, 0x20; out 0xa0, al; out 0x20, al; pop ax; iret`
const SLAVE_CODE: [u8; 9] = [0x50, 0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20, 0x58, 0xCF];

/// The word with the segment of the extended BIOS data area.
const BDA_EBDA: u64 = 0x40E;
/// The word with the KiB of low memory.
const BDA_MEMORY: u64 = 0x413;

/// Writes vectors, their handlers and the BIOS data area; a machine with less than 1 MiB has none.
///
/// # Errors
/// When memory cannot be written.
pub fn write_area(memory: &GuestMemory) -> Result<(), LoadError> {
    use vm_memory::GuestMemoryBackend;
    if memory.last_addr().0 < HIGH_RAM - 1 {
        return Ok(());
    }
    let kib = (EBDA >> 10) as u16;
    // mov ax, kib; iret
    let [low, high] = kib.to_le_bytes();
    let memory_size = [0xB8, low, high, 0xCF];
    let codes: [(u32, &[u8]); 6] = [
        (SERVICE, &SERVICE_CODE),
        (IGNORE, &IGNORE_CODE),
        (MEMORY_SIZE, &memory_size),
        (TICK, &TICK_CODE),
        (MASTER, &MASTER_CODE),
        (SLAVE, &SLAVE_CODE),
    ];
    for (at, code) in codes {
        write(memory, STUBS + u64::from(at - SERVICE), code)?;
    }
    let vectors = (0..=0xFF_u8).flat_map(|vector| handler(vector).to_le_bytes());
    write(memory, 0, &vectors.collect::<Vec<_>>())?;
    write(memory, BDA_EBDA, &((EBDA >> 4) as u16).to_le_bytes())?;
    write(memory, BDA_MEMORY, &kib.to_le_bytes())?;
    // The EBDA's first byte is its size in KiB.
    write(memory, EBDA, &[((0xA_0000 - EBDA) >> 10) as u8])
}

fn handler(vector: u8) -> u32 {
    match vector {
        0x12 => MEMORY_SIZE,
        // Exceptions, and the interrupts of the 8259 pair where a BIOS has them. Eight of both share vectors.
        0..=7 => IGNORE,
        8 => TICK,
        9..=0xF => MASTER,
        0x70..=0x77 => SLAVE,
        _ => SERVICE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::testing::{memory, read, read_u32};

    #[test]
    fn vectors_lead_to_handlers_and_the_data_area_tells_the_low_memory() {
        let memory = memory(4);
        write_area(&memory).unwrap();
        for vector in 0..=255 {
            let pointer = read_u32(&memory, vector * 4);
            let handler = u64::from(pointer >> 16) * 16 + u64::from(pointer & 0xFFFF);
            let code = read(&memory, handler, 18);
            assert!(code.contains(&0xCF), "INT {vector:#x} ends by IRET");
        }
        let tick = read(&memory, u64::from(handler(8) >> 16) * 16 + u64::from(handler(8) & 0xFFFF), 18);
        assert_eq!(tick, TICK_CODE);
        assert_eq!(read(&memory, BDA_EBDA, 2), [0xC0, 0x9F]);
        assert_eq!(read(&memory, BDA_MEMORY, 2), [0x7F, 0x02]);
    }
}
