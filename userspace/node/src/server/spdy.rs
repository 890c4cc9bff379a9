//! The client side of SPDY/3.1, as far as the runtime's streaming server needs it.
//!
//! In and out: streams to open, data to send, frames received. There is no flow control, because the servers of this
//! protocol (moby/spdystream) have none. The header blocks of answers are ignored.

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
/// The most bytes of data in a frame; the length field has 24 bits.
const MAX_DATA_BYTES: usize = 1 << 20;

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// The server ended the stream.
    Reset {
        stream: u32,
    },
    /// The client returns the same id.
    Ping(u32),
    GoAway,
    /// A frame without effect on the client.
    Other,
}

/// Writes frames.
pub(super) struct Writer<W> {
    io: W,
    headers: Compress,
    next: u32,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(io: W) -> Writer<W> {
        // Without the protocol's dictionary: the zlib header states whether one was used.
        Writer { io, headers: Compress::new(Compression::fast(), true), next: 1 }
    }

    /// Opens a stream with these headers; returns its number.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> std::io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let block = self.compress(&header_block(headers))?;
        let mut body = BytesMut::with_capacity(10 + block.len());
        body.put_u32(stream);
        body.put_u32(0);
        body.put_u16(0);
        body.extend_from_slice(&block);
        self.control(SYN_STREAM, &body).await?;
        Ok(stream)
    }

    /// Sends data; `fin` closes our side of the stream.
    pub(super) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) -> std::io::Result<()> {
        let mut chunks = bytes.chunks(MAX_DATA_BYTES).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let last = chunks.peek().is_none();
            let flags = if fin && last { FIN } else { 0 };
            let mut frame = BytesMut::with_capacity(8 + chunk.len());
            frame.put_u32(stream & 0x7fff_ffff);
            frame.put_u32(u32::from(flags) << 24 | length(chunk.len())?);
            frame.extend_from_slice(chunk);
            self.io.write_all(&frame).await?;
            if last {
                return self.io.flush().await;
            }
        }
    }

    pub(super) async fn pong(&mut self, id: u32) -> std::io::Result<()> {
        self.control(PING, &id.to_be_bytes()).await
    }

    async fn control(&mut self, kind: u16, body: &[u8]) -> std::io::Result<()> {
        let mut frame = BytesMut::with_capacity(8 + body.len());
        frame.put_u16(0x8000 | VERSION);
        frame.put_u16(kind);
        frame.put_u32(length(body.len())?);
        frame.extend_from_slice(body);
        self.io.write_all(&frame).await?;
        self.io.flush().await
    }

    /// All header blocks of a connection are one compressed stream, flushed after each.
    fn compress(&mut self, block: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(block.len() + 128);
        let mut taken = 0;
        loop {
            let before = self.headers.total_in();
            let rest = block.get(taken..).unwrap_or_default();
            self.headers.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(std::io::Error::other)?;
            taken += usize::try_from(self.headers.total_in() - before).unwrap_or(rest.len());
            // Unused capacity means that the compressor has no more output.
            if taken >= block.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

fn length(length: usize) -> std::io::Result<u32> {
    u32::try_from(length).ok().filter(|l| *l < 1 << 24).ok_or_else(|| std::io::Error::other("frame too long"))
}

fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = BytesMut::new();
    let number = |n: usize| u32::try_from(n).unwrap_or(0);
    block.put_u32(number(headers.len()));
    for (name, value) in headers {
        for text in [name, value] {
            block.put_u32(number(text.len()));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block.to_vec()
}

/// Reads one frame; `None` at the end of the connection.
pub(super) async fn read<R: AsyncRead + Unpin>(io: &mut R) -> std::io::Result<Option<Frame>> {
    let head = match io.read_u32().await {
        Ok(head) => head,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let flags_and_length = io.read_u32().await?;
    let size = usize::try_from(flags_and_length & 0x00ff_ffff).map_err(std::io::Error::other)?;
    let fin = (flags_and_length >> 24) & u32::from(FIN) != 0;
    let mut body = vec![0; size];
    io.read_exact(&mut body).await?;
    if head & 0x8000_0000 == 0 {
        return Ok(Some(Frame::Data { stream: head, fin, bytes: Bytes::from(body) }));
    }
    let first = body.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).unwrap_or(0);
    let kind = u16::try_from(head & 0xffff).unwrap_or(0);
    Ok(Some(match kind {
        RST_STREAM => Frame::Reset { stream: first & 0x7fff_ffff },
        PING => Frame::Ping(first),
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn header_blocks_are_one_zlib_stream() {
        let mut writer = Writer::new(Vec::new());
        assert_eq!(writer.open(&[("streamtype", "error")]).await.expect("opened"), 1);
        let long = "x".repeat(5000);
        assert_eq!(writer.open(&[("streamtype", "stdin"), ("a", &long)]).await.expect("opened"), 3);
        let mut input = writer.io.as_slice();
        let mut compressed = Vec::new();
        while !input.is_empty() {
            let size = usize::from(input[6]) << 8 | usize::from(input[7]);
            compressed.extend_from_slice(&input[18..8 + size]);
            input = &input[8 + size..];
        }
        let mut plain = vec![0; 4 + 4 + 10 + 4 + 5 + 4 + 4 + 10 + 4 + 5 + 4 + 1 + 4 + 5000];
        flate2::read::ZlibDecoder::new(compressed.as_slice()).read_exact(&mut plain).expect("inflates");
        assert_eq!(&plain[..27], b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error");
        assert!(plain.ends_with(b"xxx"));
    }

    #[tokio::test]
    async fn data_frames_come_back_as_sent() {
        let mut writer = Writer::new(Vec::new());
        writer.data(5, b"hello", false).await.expect("sent");
        writer.data(5, b"", true).await.expect("sent");
        let mut input = writer.io.as_slice();
        let data = |text: &'static [u8], fin| Frame::Data { stream: 5, fin, bytes: Bytes::from_static(text) };
        assert_eq!(read(&mut input).await.expect("read"), Some(data(b"hello", false)));
        assert_eq!(read(&mut input).await.expect("read"), Some(data(b"", true)));
        assert_eq!(read(&mut input).await.expect("read"), None);
    }
}
