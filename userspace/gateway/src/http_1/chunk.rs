//! The size of a chunk (RFC 9112, 7.1). PURE.

use bytes::{Buf, BytesMut};

use super::Malformed;

/// Of a size with its extensions.
const MAX_LINE_BYTES: usize = 4 << 10;
/// Of a size.
const MAX_DIGITS: usize = 16;

/// Takes the line with the size of a chunk from what came. `None`: it is not here as a whole.
pub(super) fn take_size(input: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let Some(end) = input.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if input.len() < MAX_LINE_BYTES { Ok(None) } else { Err(Malformed::Chunk) };
    };
    match input.get(end..end + 2) {
        // A line ends with both and has neither within: a reader that takes one of them would find other chunks.
        Some(b"\r\n") => {}
        None if input[end] == b'\r' => return Ok(None),
        Some(_) | None => return Err(Malformed::Chunk),
    }
    let size = parse_size(&input[..end])?;
    input.advance(end + 2);
    Ok(Some(size))
}

/// Takes the end of a chunk's data. `false`: it is not here as a whole.
pub(super) fn take_end(input: &mut BytesMut) -> Result<bool, Malformed> {
    if !b"\r\n".starts_with(&input[..input.len().min(2)]) {
        return Err(Malformed::Chunk);
    }
    let is_whole = input.len() >= 2;
    if is_whole {
        input.advance(2);
    }
    Ok(is_whole)
}

fn parse_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    // Extensions have no meaning here. White space before them is allowed to be read.
    let is_extension = rest.trim_ascii_start().first().is_none_or(|byte| *byte == b';');
    let is_text = rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if digits == 0 || digits > MAX_DIGITS || !is_extension || !is_text || line.len() > MAX_LINE_BYTES {
        return Err(Malformed::Chunk);
    }
    let size = str::from_utf8(size).map_err(|_| Malformed::Chunk)?;
    u64::from_str_radix(size, 16).map_err(|_| Malformed::Chunk)
}
