//! SCTP's checksum after a change of ports.
//!
//! CRC32c is linear: of two messages of one length the checksums differ by the CRC, begun with zero, of what the
//! messages differ in. Here that is at most the first four bytes, followed by zeros to the end; so it is enough to
//! shift the difference through as many bytes as the message has. Shifts by powers of two are tables, by half-bytes.

use aya_ebpf::programs::TcContext;

use crate::checksum::is_partial;
use crate::packet::Packet;

/// RFC 9260, appendix A, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Offset of the checksum in the header.
const CHECK: usize = 8;

/// `SHIFTS[k][n][v]`: what the half-byte `v` at place `n` becomes behind 2^k bytes of zero.
static SHIFTS: [[[u32; 16]; 8]; 16] = shifts();

const fn shifts() -> [[[u32; 16]; 8]; 16] {
    let mut tables = [[[0; 16]; 8]; 16];
    let mut k = 0;
    while k < 16 {
        let mut place = 0;
        while place < 32 {
            let bit = 1 << place;
            let image =
                if k == 0 { shift_byte(bit) } else { through(&tables[k - 1], through(&tables[k - 1], bit)) };
            let mut value = 0;
            while value < 16 {
                if value >> (place % 4) & 1 == 1 {
                    tables[k][place / 4][value] ^= image;
                }
                value += 1;
            }
            place += 1;
        }
        k += 1;
    }
    tables
}

const fn shift_byte(mut crc: u32) -> u32 {
    let mut i = 0;
    while i < 8 {
        crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
        i += 1;
    }
    crc
}

#[inline(always)]
const fn through(table: &[[u32; 16]; 8], crc: u32) -> u32 {
    let mut shifted = 0;
    let mut n = 0;
    while n < 8 {
        shifted ^= table[n][(crc >> (4 * n) & 15) as usize];
        n += 1;
    }
    shifted
}

/// Corrects the checksum for ports that change by `difference`, the header's first word as it stands in memory.
#[inline(never)]
pub(crate) fn correct(ctx: &TcContext, packet: &Packet, difference: u32) -> bool {
    let check_at = packet.l4 + CHECK;
    let Ok(before) = ctx.load::<u32>(check_at) else { return false };
    // A device that is to fill it in wants the zero it finds. A checksum may also be zero by chance.
    if before == 0 && is_partial(ctx, check_at).unwrap_or(false) {
        return true;
    }
    let Some(length) = packet.transport_len(ctx) else { return false };
    let mut change = difference;
    for k in 0..16 {
        if length >> k & 1 != 0 {
            change = through(&SHIFTS[k], change);
        }
    }
    ctx.store(check_at, &(before ^ change), 0).is_ok()
}
