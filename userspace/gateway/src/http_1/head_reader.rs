//! When a head that comes in pieces is parsed. PURE. Each byte is looked at once for the end of the head; what is there is parsed at that
//! end, and before it each time that it has doubled, so that what is no head is found early and the work stays linear.

use bytes::{Buf, BytesMut};
use http::Method;

use super::Malformed;
use super::response_head::{MAX_HEAD_BYTES, ResponseHead};

/// Reads the heads of a connection's responses, one after the other, from an input that grows.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Bytes in which no end of a head is.
    scanned: usize,
    /// How many there were when they were parsed last.
    parsed: usize,
    /// Empty lines before the head, which are ignored (RFC 9112, 2.2).
    skipped: usize,
}

impl HeadReader {
    /// Takes the head of the response to a request with this method from what came. `None`: it is not here as a whole.
    pub fn next(&mut self, input: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, Malformed> {
        self.skip(input)?;
        let is_due = self.is_due(input);
        self.scanned = if **input == *b"\r" { 0 } else { input.len() };
        if !is_due {
            return Ok(None);
        }
        self.parsed = input.len();
        let head = ResponseHead::parse(input, method)?;
        if head.is_some() {
            *self = HeadReader::default();
        }
        Ok(head)
    }

    fn skip(&mut self, input: &mut BytesMut) -> Result<(), Malformed> {
        while self.scanned == 0 {
            let empty = match **input {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                _ => break,
            };
            input.advance(empty);
            self.skipped += empty;
            if self.skipped > MAX_HEAD_BYTES {
                return Err(Malformed::LargeHead);
            }
        }
        Ok(())
    }

    /// Where an end of the head may be: it may have begun before.
    fn unscanned<'i>(&self, input: &'i [u8]) -> &'i [u8] {
        input.get(self.scanned.saturating_sub(2)..).unwrap_or_default()
    }

    fn is_due(&self, input: &[u8]) -> bool {
        let has_doubled = input.len() >= (2 * self.parsed).max(1);
        // The search comes last: a head that is here as a whole, with a body behind it, needs none.
        has_doubled || input.len() >= MAX_HEAD_BYTES || has_end(self.unscanned(input))
    }
}

fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a head in single bytes: the head, and how many bytes were examined, by either way.
    fn read(bytes: &[u8]) -> (Result<Option<ResponseHead>, Malformed>, usize) {
        let (mut reader, mut input, mut examined) = (HeadReader::default(), BytesMut::new(), 0);
        for byte in bytes {
            input.extend_from_slice(&[*byte]);
            examined +=
                2 * reader.unscanned(&input).len() + if reader.is_due(&input) { input.len() } else { 0 };
            match reader.next(&mut input, &Method::GET) {
                Ok(None) => {}
                ended => return (ended, examined),
            }
        }
        (Ok(None), examined)
    }

    #[test]
    fn a_head_in_single_bytes_costs_work_that_grows_with_its_length_only() {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        for number in 0..100 {
            head.extend_from_slice(format!("x-{number}: {}\r\n", "v".repeat(1_200)).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        assert!(head.len() > 120_000 && head.len() < MAX_HEAD_BYTES);
        let (read, examined) = read(&head);
        assert_eq!(read.unwrap().unwrap().headers.len(), 100);
        assert!(examined < 12 * head.len(), "{examined} bytes examined of {}", head.len());
    }

    #[test]
    fn what_is_no_head_is_found_before_its_end_and_one_that_is_too_long_at_its_limit() {
        assert!(matches!(read(b"SSH-2.0-x").0, Err(Malformed::Head(_))));
        let (endless, examined) =
            read(&[b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'v'; 2 * MAX_HEAD_BYTES]].concat());
        assert!(matches!(endless, Err(Malformed::LargeHead)));
        assert!(examined < 12 * MAX_HEAD_BYTES, "{examined}");
        let (lines, examined) = read(&vec![b'\n'; 2 * MAX_HEAD_BYTES]);
        assert!(matches!(lines, Err(Malformed::LargeHead)));
        assert!(examined < 12 * MAX_HEAD_BYTES, "{examined}");
    }

    #[test]
    fn heads_follow_each_other_and_empty_lines_come_before_them() {
        let (mut reader, mut input) = (HeadReader::default(), BytesMut::new());
        let bytes = b"\r\n\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\n\n";
        let mut statuses = Vec::new();
        for byte in bytes {
            input.extend_from_slice(&[*byte]);
            statuses.extend(reader.next(&mut input, &Method::GET).unwrap().map(|head| head.status.as_u16()));
        }
        assert_eq!(statuses, [103, 204]);
        // All at once they come one by one.
        let mut input = BytesMut::from(&bytes[..]);
        let mut next = || reader.next(&mut input, &Method::GET).unwrap().map(|head| head.status.as_u16());
        assert_eq!([next(), next(), next()], [Some(103), Some(204), None]);
    }
}
