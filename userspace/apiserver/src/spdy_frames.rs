//! Frames of SPDY/3.1 as they pass: where they end, and which stream was opened first.
//!
//! client-go and kubectl open the stream of errors first, in exec and attach of every version of their protocol, and its headers
//! are compressed over the whole connection. So the number alone is kept.

/// Bytes of a frame's head: four of kind or stream, flags, three of the length.
const HEAD_BYTES: usize = 8;
const CONTROL: u8 = 0x80;
/// The type of a control frame that opens a stream.
const SYN_STREAM: [u8; 2] = [0, 1];
const FINISHED: u8 = 1;

/// One direction of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SpdyFrames {
    /// The head of a frame, and the number of a stream that it opens.
    head: [u8; HEAD_BYTES + 4],
    head_bytes: usize,
    payload_bytes: usize,
    first_stream: Option<u32>,
}

impl SpdyFrames {
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_bytes > 0 && !self.is_opening() {
                let count = self.payload_bytes.min(bytes.len());
                self.take(count);
                bytes = &bytes[count..];
                continue;
            }
            self.head[self.head_bytes] = *first;
            self.head_bytes += 1;
            bytes = rest;
            if self.head_bytes == HEAD_BYTES {
                self.payload_bytes = self.length();
                self.end_if_whole();
            } else if self.head_bytes > HEAD_BYTES {
                self.take(1);
                self.note_stream();
            }
        }
    }

    /// Whether the bytes of the payload that come next are the number of the first stream.
    fn is_opening(&self) -> bool {
        let opens = self.head[0] & CONTROL != 0 && self.head[2..4] == SYN_STREAM;
        opens && self.first_stream.is_none() && self.head_bytes >= HEAD_BYTES
    }

    fn length(&self) -> usize {
        usize::from(self.head[5]) << 16 | usize::from(self.head[6]) << 8 | usize::from(self.head[7])
    }

    fn take(&mut self, count: usize) {
        self.payload_bytes -= count;
        self.end_if_whole();
    }

    fn end_if_whole(&mut self) {
        if self.payload_bytes == 0 {
            self.note_stream();
            self.head_bytes = 0;
        }
    }

    fn note_stream(&mut self) {
        if self.head_bytes == self.head.len() && self.first_stream.is_none() {
            let number = self.head[HEAD_BYTES..].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            self.first_stream = Some(number & u32::MAX >> 1);
        }
    }

    pub(crate) fn is_between(&self) -> bool {
        self.head_bytes == 0 && self.payload_bytes == 0
    }

    /// The first stream that was opened in this direction.
    pub(crate) fn first_stream(&self) -> Option<u32> {
        self.first_stream
    }
}

/// A frame with the last data of a stream; longer data than a frame takes is cut.
pub(crate) fn last_data(stream: u32, data: &[u8]) -> Vec<u8> {
    let data = &data[..data.len().min(0xff_ffff)];
    let [_, length @ ..] = u32::try_from(data.len()).unwrap_or_default().to_be_bytes();
    [&stream.to_be_bytes()[..], &[FINISHED], &length, data].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(stream: u32, payload: &[u8]) -> Vec<u8> {
        let body = [&stream.to_be_bytes()[..], &[0; 6], payload].concat();
        let [_, length @ ..] = (body.len() as u32).to_be_bytes();
        [&[0x80, 3, 0, 1, 0], &length[..], &body].concat()
    }

    #[test]
    fn an_empty_frame_is_whole_and_a_ping_opens_nothing() {
        let mut frames = SpdyFrames::default();
        frames.pass(&last_data(3, b""));
        assert!(frames.is_between());
        frames.pass(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
        assert!(frames.is_between() && frames.first_stream().is_none());
        frames.pass(&open(1, b"headers")[..10]);
        assert!(!frames.is_between());
    }

    proptest! {
        #[test]
        fn frames_end_where_they_end_however_they_are_cut(
            sizes in prop::collection::vec(0usize..3_000, 0..6),
            cuts in prop::collection::vec(1usize..700, 1..40),
        ) {
            let mut all = open(5, b"headers of the stream of errors");
            for (size, stream) in sizes.iter().zip(7u32..) {
                all.extend(open(stream, &vec![0x80; *size]));
                all.extend(last_data(stream, &vec![0x80; *size]));
            }
            let (mut frames, mut rest) = (SpdyFrames::default(), all.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                frames.pass(piece);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(frames.is_between());
            prop_assert_eq!(frames.first_stream(), Some(5));
        }

        #[test]
        fn any_bytes_pass(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut frames = SpdyFrames::default();
            frames.pass(&bytes);
            prop_assert!(frames.head_bytes < frames.head.len() || frames.payload_bytes > 0);
        }
    }
}
