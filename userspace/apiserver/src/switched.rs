//! A connection after its protocol was switched: a pipe between a client and another server.
//!
//! A pipe that breaks on the other side ends with a reason where the protocol has room for one: a WebSocket is closed with
//! it (RFC 6455, 7.4.1), and the channels of exec and attach get a Status before (KEP-4006). Exec and attach over SPDY get it on
//! their stream of errors: without one, kubectl takes the end of the connection for success.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use skep_api::Status;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};

use crate::spdy_frames::{SpdyFrames, last_data};

/// Names the version of the protocol of exec and attach over SPDY.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// The channel of errors, in all versions of the protocol that have one.
const ERROR_CHANNEL: u8 = 3;
const BINARY_FRAME: u8 = 0x82;
const CLOSE_FRAME: u8 = 0x88;
/// "An unexpected condition prevented the request from being fulfilled."
const INTERNAL_ERROR: u16 = 1011;
/// Of a control frame.
const MAX_CLOSE_BYTES: usize = 125;

/// What can be said at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// exec and attach over WebSocket.
    Channels,
    WebSocket,
    /// exec and attach over SPDY.
    Spdy,
    Other,
}

/// Passes bytes both ways until either end closes. `answer`: the headers of the switch.
pub(crate) async fn pipe(client: OnUpgrade, backend: OnUpgrade, answer: &HeaderMap) {
    let protocol = protocol(answer);
    let (Ok(client), Ok(backend)) = (client.await, backend.await) else { return };
    let mut client = Client::new(client, protocol);
    let ended = copy_bidirectional(&mut client, &mut TokioIo::new(backend)).await;
    // No request is left to report an error to.
    if let Err(error) = ended
        && !client.frames.is_closed
    {
        let last = match protocol {
            Protocol::Spdy => last_of_spdy(&client.opened, &client.spdy, &error.to_string()),
            _ => last_words(protocol, &client.frames, &error.to_string()),
        };
        let _ = client.stream.write_all(&last).await;
        let _ = client.stream.shutdown().await;
    }
}

fn protocol(answer: &HeaderMap) -> Protocol {
    let text = |name| answer.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text(UPGRADE).eq_ignore_ascii_case("spdy/3.1") {
        return if text(STREAM_PROTOCOL) == "v4.channel.k8s.io" { Protocol::Spdy } else { Protocol::Other };
    }
    if !text(UPGRADE).eq_ignore_ascii_case("websocket") {
        return Protocol::Other;
    }
    match text(SEC_WEBSOCKET_PROTOCOL) {
        "v4.channel.k8s.io" | "v5.channel.k8s.io" => Protocol::Channels,
        _ => Protocol::WebSocket,
    }
}

/// The bytes that end a stream for this reason; none within a frame.
fn last_words(protocol: Protocol, frames: &Frames, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if !matches!(protocol, Protocol::Channels | Protocol::WebSocket) || !frames.is_between() {
        return out;
    }
    if protocol == Protocol::Channels && !frames.is_within_message {
        let mut message = vec![ERROR_CHANNEL];
        message.extend_from_slice(Status::internal(why).to_value().to_string().as_bytes());
        push_frame(BINARY_FRAME, &message, &mut out);
    }
    let mut reason = why;
    while reason.len() > MAX_CLOSE_BYTES - 2 {
        // A text ends between characters.
        reason = reason.char_indices().next_back().map_or("", |(at, _)| &reason[..at]);
    }
    push_frame(CLOSE_FRAME, &[&INTERNAL_ERROR.to_be_bytes(), reason.as_bytes()].concat(), &mut out);
    out
}

/// The Status on the first stream that the client opened; nothing within a frame to the client.
fn last_of_spdy(opened: &SpdyFrames, passed: &SpdyFrames, why: &str) -> Vec<u8> {
    let stream = opened.first_stream().filter(|_| passed.is_between());
    let status = Status::internal(why).to_value().to_string();
    stream.map_or_else(Vec::new, |stream| last_data(stream, status.as_bytes()))
}

fn push_frame(head: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(head);
    match u16::try_from(payload.len()) {
        Ok(length @ ..=125) => out.extend(u8::try_from(length).ok()),
        Ok(length) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// The client's end. Notes where the frames end that pass to the client, and the first stream that the client opens.
struct Client {
    stream: TokioIo<Upgraded>,
    protocol: Protocol,
    frames: Frames,
    opened: SpdyFrames,
    spdy: SpdyFrames,
}

impl Client {
    fn new(client: Upgraded, protocol: Protocol) -> Client {
        let stream = TokioIo::new(client);
        let (opened, spdy) = (SpdyFrames::default(), SpdyFrames::default());
        Client { stream, protocol, frames: Frames::default(), opened, spdy }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.protocol == Protocol::Spdy && self.opened.first_stream().is_none() {
            self.opened.pass(&buffer.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            match self.protocol {
                Protocol::Spdy => self.spdy.pass(&bytes[..count]),
                _ => self.frames.pass(&bytes[..count]),
            }
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Frames of a WebSocket as they pass (RFC 6455, 5.2). Means nothing for other protocols.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frames {
    /// The beginning of a frame's head.
    head: [u8; 14],
    head_bytes: usize,
    /// What is left of the payload.
    payload_bytes: u64,
    /// The message has more frames.
    is_within_message: bool,
    /// The last frame has passed.
    is_closed: bool,
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_bytes > 0 {
                let count = self.payload_bytes.min(bytes.len() as u64);
                self.payload_bytes -= count;
                bytes = &bytes[usize::try_from(count).unwrap_or(bytes.len())..];
                continue;
            }
            self.head[self.head_bytes] = *first;
            self.head_bytes += 1;
            bytes = rest;
            if let Some(length) = self.length() {
                self.begin(length);
            }
        }
    }

    /// Of the payload, once the head is whole.
    fn length(&self) -> Option<u64> {
        let short = self.head[1] & 0x7f;
        let extended: &[u8] = match short {
            126 => &self.head[2..4],
            127 => &self.head[2..10],
            _ => &[],
        };
        let mask_bytes = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        if self.head_bytes < 2 || self.head_bytes < 2 + extended.len() + mask_bytes {
            return None;
        }
        let long = extended.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Some(if extended.is_empty() { u64::from(short) } else { long })
    }

    fn begin(&mut self, length: u64) {
        let (is_final, code) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
        // Control frames may come between the frames of a message.
        if code < 8 {
            self.is_within_message = !is_final;
        }
        self.is_closed |= code == CLOSE_FRAME & 0x0f;
        self.payload_bytes = length;
        self.head_bytes = 0;
    }

    fn is_between(&self) -> bool {
        self.head_bytes == 0 && self.payload_bytes == 0 && !self.is_closed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_frame(head, payload, &mut out);
        out
    }

    #[test]
    fn a_reason_is_given_only_between_frames() {
        let mut frames = Frames::default();
        let words = |frames: &Frames, protocol| last_words(protocol, frames, "why");
        let status = words(&frames, Protocol::Channels);
        assert!(status[0] == BINARY_FRAME && status[4] == ERROR_CHANNEL || status[2] == ERROR_CHANNEL);
        assert!(String::from_utf8_lossy(&status).contains(r#""status":"Failure""#));
        assert_eq!(words(&frames, Protocol::WebSocket), frame(CLOSE_FRAME, b"\x03\xf3why"));
        assert!(words(&frames, Protocol::Other).is_empty());
        // The first frame of a message that has more: only a control frame may follow.
        frames.pass(&frame(0x02, b"a"));
        assert_eq!(words(&frames, Protocol::Channels), words(&frames, Protocol::WebSocket));
        frames.pass(&frame(0x80, b"b")[..2]);
        assert!(words(&frames, Protocol::Channels).is_empty());
        frames.pass(b"b");
        assert_eq!(words(&frames, Protocol::Channels), status);
        frames.pass(&frame(CLOSE_FRAME, &[]));
        assert!(frames.is_closed && words(&frames, Protocol::Channels).is_empty());
    }

    #[test]
    fn exec_by_spdy_gets_a_status_on_its_first_stream() {
        let (mut opened, mut passed) = (SpdyFrames::default(), SpdyFrames::default());
        assert!(last_of_spdy(&opened, &passed, "why").is_empty(), "no stream is open");
        opened.pass(&[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let last = last_of_spdy(&opened, &passed, "why");
        assert_eq!(last[..5], [0, 0, 0, 1, 1]);
        assert!(String::from_utf8_lossy(&last).contains(r#""status":"Failure""#));
        passed.pass(&last_data(3, b"output")[..10]);
        assert!(last_of_spdy(&opened, &passed, "why").is_empty(), "within a frame");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let words = last_words(Protocol::WebSocket, &Frames::default(), &"ü".repeat(100));
        let reason = std::str::from_utf8(&words[4..]).unwrap();
        assert_eq!((usize::from(words[1]), reason.len()), (2 + 122, 122));
    }

    proptest! {
        #[test]
        fn frames_end_where_they_end_however_they_are_cut(
            payloads in prop::collection::vec(prop_oneof![0usize..200, 65_000usize..67_000], 0..6),
            cuts in prop::collection::vec(1usize..5_000, 1..40),
        ) {
            let all: Vec<u8> = payloads.iter().flat_map(|count| frame(BINARY_FRAME, &vec![0x88; *count])).collect();
            let (mut frames, mut rest) = (Frames::default(), all.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                frames.pass(piece);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(frames.is_between() && !frames.is_within_message, true);
        }

        #[test]
        fn any_bytes_pass(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut frames = Frames::default();
            frames.pass(&bytes);
            prop_assert!(frames.head_bytes < frames.head.len());
        }
    }
}
