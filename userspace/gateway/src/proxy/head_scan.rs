//! Looks at the bytes of a head of HTTP/1 for one fact that the parser drops: whether a Content-Length came beside a Transfer-Encoding.
//! Such a request is refused (RFC 9112, 6.1). PURE.

const NAME: &[u8] = b"content-length:";

/// Of one connection; heads may come in any pieces.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Bytes of the line so far that are those of the name; `None`: the line has another name.
    matched: Option<usize>,
    /// The line has no byte but carriage returns.
    is_empty: bool,
    /// The head is complete; what follows is a body, or the next head, which begins with [`HeadScan::restart`].
    is_complete: bool,
    has_length: bool,
}

impl HeadScan {
    /// The next byte is of a new head.
    pub(super) fn restart(&mut self) {
        *self = HeadScan::default();
    }

    pub(super) fn has_length(&self) -> bool {
        self.has_length
    }

    pub(super) fn scan(&mut self, mut bytes: &[u8]) {
        while !self.is_complete && !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, rest) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..]),
                None => (bytes, &[][..]),
            };
            self.take(line);
            if end.is_some() {
                self.is_complete = self.is_empty;
                (self.matched, self.is_empty) = (Some(0), true);
            }
            bytes = rest;
        }
    }

    /// A piece of a line.
    fn take(&mut self, piece: &[u8]) {
        self.is_empty &= piece.iter().all(|byte| *byte == b'\r');
        let Some(matched) = self.matched else { return };
        let wanted = &NAME[matched..];
        let length = wanted.len().min(piece.len());
        self.matched = piece[..length].eq_ignore_ascii_case(&wanted[..length]).then_some(matched + length);
        if matched + length == NAME.len() && self.matched.is_some() {
            self.has_length = true;
        }
        // The rest of the line says nothing.
        if piece.len() > length {
            self.matched = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_seen_in_the_head_only_whatever_the_pieces() {
        for (head, has_length) in [
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncOnTeNt-LeNgTh: 4\r\n\r\n", true),
            ("POST / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 4\n\n", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nContent-Length: 4\r\n", false),
            ("POST / HTTP/1.1\r\nX-Content-Length: 4\r\nX: Content-Length\r\n\r\n", false),
            ("content-length / HTTP/1.1\r\nContent-Len: 4\r\n\r\n", false),
        ] {
            for size in [1, 2, 3, 7, 1_000] {
                let mut scan = HeadScan::default();
                head.as_bytes().chunks(size).for_each(|piece| scan.scan(piece));
                assert_eq!(scan.has_length(), has_length, "{head:?} in pieces of {size}");
                scan.restart();
                scan.scan(b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
                assert!(scan.has_length());
            }
        }
    }
}
