//! The form of an archive: a mark, parts with a checksum each, and an end with the digest of all before it.
//!
//! A part is its kind (1 byte), the length of its body (4 bytes, big endian), the body, and the checksum of all three.

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use bytes::Bytes;

use super::error::BackupError;
use crate::{Entry, Revision};

/// All keys of a server have it.
pub(super) const PREFIX: &str = "/registry/";
const MARK: &[u8] = b"skep-backup-v1\n";
const MANIFEST: u8 = b'M';
const FILE: u8 = b'F';
const ENTRY: u8 = b'E';
const END: u8 = b'Z';
const HEADER_BYTES: usize = 5;
const CHECKSUM_BYTES: usize = 4;
/// Bounds what a reader allocates before it has seen a checksum.
const MAX_PART_BYTES: usize = 256 << 20;

/// What an archive is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub revision: Revision,
    /// Seconds since 1970.
    pub made: u64,
}

/// A file beside the store, such as a key.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// A relative path.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// One part of an archive, in their order: the manifest, files, entries.
pub enum Part {
    Manifest(Manifest),
    File(File),
    Entry(Entry),
}

/// What a complete archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub manifest: Manifest,
    pub files: u64,
    pub entries: u64,
}

/// Writes an archive into a buffer, which its caller writes out and empties at any time.
pub(super) struct Encoder {
    digest: Context,
    summary: Summary,
}

impl Encoder {
    pub(super) fn new(manifest: Manifest, out: &mut Vec<u8>) -> Encoder {
        let summary = Summary { manifest, files: 0, entries: 0 };
        let mut encoder = Encoder { digest: Context::new(&SHA256), summary };
        encoder.digest.update(MARK);
        out.extend_from_slice(MARK);
        let body = [manifest.revision.to_be_bytes(), manifest.made.to_be_bytes()].concat();
        encoder.part(MANIFEST, &body, out);
        encoder
    }

    pub(super) fn file(&mut self, file: &File, out: &mut Vec<u8>) -> Result<(), BackupError> {
        self.summary.files += 1;
        self.checked_part(FILE, [&length(&file.name), file.name.as_bytes(), &file.bytes].concat(), out)
    }

    pub(super) fn entry(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), BackupError> {
        self.summary.entries += 1;
        let Entry { key, value, created, modified } = entry;
        let numbers = [created.to_be_bytes(), modified.to_be_bytes()].concat();
        self.checked_part(ENTRY, [&numbers, &length(key)[..], key.as_bytes(), value].concat(), out)
    }

    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Summary {
        let digest = self.digest.clone().finish();
        self.part(END, digest.as_ref(), out);
        self.summary
    }

    fn checked_part(&mut self, kind: u8, body: Vec<u8>, out: &mut Vec<u8>) -> Result<(), BackupError> {
        if body.len() > MAX_PART_BYTES {
            return Err(BackupError::TooLarge(body.len()));
        }
        self.part(kind, &body, out);
        Ok(())
    }

    fn part(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        out.push(kind);
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(body);
        let sum = crc32fast::hash(&out[at..]);
        out.extend_from_slice(&sum.to_be_bytes());
        self.digest.update(&out[at..]);
    }
}

fn length(text: &str) -> [u8; 4] {
    (text.len() as u32).to_be_bytes()
}

/// Reads an archive part by part. An archive is sound only if the last call returned `Ok(None)`: use [`verify`] first.
pub struct Decoder<R> {
    input: R,
    digest: Context,
    at: u64,
    manifest: Option<Manifest>,
    files: u64,
    entries: u64,
    ended: bool,
}

/// Reads an archive to its end.
pub fn verify(input: impl Read) -> Result<Summary, BackupError> {
    let mut decoder = Decoder::new(input)?;
    while decoder.next()?.is_some() {}
    let Decoder { manifest, files, entries, .. } = decoder;
    Ok(Summary { manifest: manifest.ok_or(BackupError::Foreign)?, files, entries })
}

impl<R: Read> Decoder<R> {
    pub fn new(mut input: R) -> Result<Decoder<R>, BackupError> {
        let mut mark = [0; MARK.len()];
        match input.read_exact(&mut mark) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            Ok(()) if mark == MARK => {}
            _ => return Err(BackupError::Foreign),
        }
        let mut digest = Context::new(&SHA256);
        digest.update(MARK);
        let at = MARK.len() as u64;
        Ok(Decoder { input, digest, at, manifest: None, files: 0, entries: 0, ended: false })
    }

    /// The next part; `None` after the last one, if the whole archive is sound.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot say that the end was verified")]
    pub fn next(&mut self) -> Result<Option<Part>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let (at, before) = (self.at, self.digest.clone());
        let (kind, body) = self.read_part()?;
        let damaged = BackupError::Damaged { at };
        let part = match (kind, self.manifest) {
            (END, Some(_)) => {
                self.end(&body, before)?;
                return Ok(None);
            }
            (MANIFEST, None) => {
                let manifest = manifest(&body).ok_or(damaged)?;
                self.manifest = Some(manifest);
                Part::Manifest(manifest)
            }
            (FILE, Some(_)) => {
                self.files += 1;
                Part::File(file(&body).ok_or(damaged)?)
            }
            (ENTRY, Some(_)) => {
                self.entries += 1;
                Part::Entry(entry(&body).ok_or(damaged)?)
            }
            _ => return Err(damaged),
        };
        Ok(Some(part))
    }

    fn read_part(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let at = self.at;
        let mut part = vec![0; HEADER_BYTES];
        self.fill(&mut part)?;
        let kind = part[0];
        let length = part[1..].iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
        if length > MAX_PART_BYTES {
            return Err(BackupError::Damaged { at });
        }
        part.resize(HEADER_BYTES + length, 0);
        self.fill(&mut part[HEADER_BYTES..])?;
        let mut sum = [0; CHECKSUM_BYTES];
        self.fill(&mut sum)?;
        if crc32fast::hash(&part).to_be_bytes() != sum {
            return Err(BackupError::Damaged { at });
        }
        self.digest.update(&part);
        self.digest.update(&sum);
        Ok((kind, part.split_off(HEADER_BYTES)))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.at += bytes.len() as u64;
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::Truncated { entries: self.entries },
            _ => error.into(),
        })
    }

    fn end(&mut self, digest: &[u8], before: Context) -> Result<(), BackupError> {
        debug_assert_eq!(SHA256_OUTPUT_LEN, 32);
        if before.finish().as_ref() != digest {
            return Err(BackupError::WrongDigest);
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(BackupError::Damaged { at: self.at });
        }
        self.ended = true;
        Ok(())
    }
}

fn manifest(body: &[u8]) -> Option<Manifest> {
    let (revision, made) = body.split_first_chunk()?;
    Some(Manifest {
        revision: u64::from_be_bytes(*revision),
        made: u64::from_be_bytes(made.try_into().ok()?),
    })
}

/// A text with its length before it, and the rest.
fn text(body: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = body.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((str::from_utf8(text).ok()?, rest))
}

fn file(body: &[u8]) -> Option<File> {
    let (name, bytes) = text(body)?;
    Some(File { name: name.to_owned(), bytes: bytes.to_vec() })
}

fn entry(body: &[u8]) -> Option<Entry> {
    let (created, rest) = body.split_first_chunk()?;
    let (modified, rest) = rest.split_first_chunk()?;
    let (key, value) = text(rest)?;
    let (created, modified) = (u64::from_be_bytes(*created), u64::from_be_bytes(*modified));
    Some(Entry { key: key.into(), value: Bytes::copy_from_slice(value), created, modified })
}
