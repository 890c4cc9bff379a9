//! The body of a response, from pieces of any size. PURE.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::chunk::{take_end, take_size};
use super::fields::headers_of;
use super::{Framing, MAX_HEADERS, Malformed};

const MAX_TRAILER_BYTES: usize = 16 << 10;

/// Reads a body. [`BodyReader::next`] is called until it returns [`Piece::End`]; after [`Piece::More`] with more input.
#[derive(Debug)]
pub struct BodyReader(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    /// The size of a chunk is next.
    Size,
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// The end of a chunk's data is next.
    ChunkEnd,
    Trailers,
    Close,
    End,
}

/// What comes next of a body.
#[derive(Debug)]
pub enum Piece {
    Data(Bytes),
    /// The last piece.
    Trailers(HeaderMap),
    /// What is left of the input is no part of the body.
    End,
    /// It is not here yet.
    More,
}

impl BodyReader {
    pub fn new(framing: Framing) -> BodyReader {
        BodyReader(match framing {
            Framing::Empty => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::Close => State::Close,
        })
    }

    pub fn is_ended(&self) -> bool {
        self.0 == State::End
    }

    /// The bytes that are to come, if they are known.
    pub fn remaining(&self) -> Option<u64> {
        match self.0 {
            State::Length(length) => Some(length),
            State::End => Some(0),
            State::Size | State::Chunk(_) | State::ChunkEnd | State::Trailers | State::Close => None,
        }
    }

    /// The connection ended: whether the body did too.
    pub fn close(&mut self) -> bool {
        if self.0 == State::Close {
            self.0 = State::End;
        }
        self.is_ended()
    }

    /// The next piece.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match self.0 {
                State::End => return Ok(Piece::End),
                State::Trailers => return self.trailers(input),
                _ if input.is_empty() => return Ok(Piece::More),
                State::Close => return Ok(Piece::Data(input.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(input, left);
                    self.0 = if left == 0 { State::End } else { State::Length(left) };
                    return Ok(Piece::Data(data));
                }
                State::Chunk(left) => {
                    let (data, left) = take(input, left);
                    self.0 = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Piece::Data(data));
                }
                State::ChunkEnd => match take_end(input)? {
                    true => self.0 = State::Size,
                    false => return Ok(Piece::More),
                },
                State::Size => match take_size(input)? {
                    Some(0) => self.0 = State::Trailers,
                    Some(size) => self.0 = State::Chunk(size),
                    None => return Ok(Piece::More),
                },
            }
        }
    }

    fn trailers(&mut self, input: &mut BytesMut) -> Result<Piece, Malformed> {
        let mut parsed = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let (length, trailers) = match httparse::parse_headers(input, &mut parsed)? {
            httparse::Status::Complete((length, parsed)) => (length, headers_of(parsed)?),
            httparse::Status::Partial if input.len() < MAX_TRAILER_BYTES => return Ok(Piece::More),
            httparse::Status::Partial => return Err(Malformed::LargeTrailers),
        };
        if length > MAX_TRAILER_BYTES {
            return Err(Malformed::LargeTrailers);
        }
        self.0 = State::End;
        input.advance(length);
        Ok(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) })
    }
}

fn take(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let data = input.split_to(length).freeze();
    (data, left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX)))
}
