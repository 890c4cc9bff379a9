//! SCTP's checksum after a change of ports.
//!
//! CRC32c is linear. The checksums of two messages of the same length differ by the CRC, with initial value zero, of the
//! messages' difference. Here the difference is the ports, the first four bytes, followed by zeros to the end. So the
//! port difference is shifted through as many zero bytes as the message has. Shifts by powers of two are tables, indexed
//! by half-byte.

use aya_ebpf::programs::TcContext;

use crate::checksum::{UPDATE_SUM, is_partial};
use crate::packet::Packet;

/// RFC 9260, appendix A, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Offset of the checksum in the header.
const CHECK_AT: usize = 8;

/// `SHIFTS[k][n][v]`: the CRC of the half-byte `v` at position `n` followed by 2^k zero bytes.
static SHIFTS: [[[u32; 16]; 8]; 16] = shifts();

const fn shifts() -> [[[u32; 16]; 8]; 16] {
    let mut tables = [[[0; 16]; 8]; 16];
    let mut k = 0;
    while k < 16 {
        let mut position = 0;
        while position < 32 {
            let bit = 1 << position;
            let image =
                if k == 0 { shift_byte(bit) } else { through(&tables[k - 1], through(&tables[k - 1], bit)) };
            let mut value = 0;
            while value < 16 {
                if value >> (position % 4) & 1 == 1 {
                    tables[k][position / 4][value] ^= image;
                }
                value += 1;
            }
            position += 1;
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

/// Updates the checksum for ports that change by `difference`, the XOR of the header's first word before and after. False:
/// the packet is truncated.
#[inline(never)]
pub(crate) fn correct(ctx: &TcContext, packet: &Packet, difference: u32) -> bool {
    let check_at = packet.l4 + CHECK_AT;
    let Ok(before) = ctx.load::<u32>(check_at) else { return false };
    // Zero is what a device that computes the checksum expects; a checksum may also be zero by chance.
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
    ctx.store(check_at, &(before ^ change), UPDATE_SUM).is_ok()
}
