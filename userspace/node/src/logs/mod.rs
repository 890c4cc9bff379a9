//! Container logs in the CRI's format: `TIMESTAMP stdout|stderr F|P TEXT`.
//!
//! In: log files that the runtime writes. Out: parsed lines, the last text of a log, rotated files.

pub(crate) mod read;
pub(crate) mod rotate;

use std::path::Path;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

/// One line of a log file, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) timestamp: &'a str,
    pub(crate) stderr: bool,
    /// The runtime split the text here; the next line of the same stream continues it.
    pub(crate) partial: bool,
    pub(crate) text: &'a [u8],
}

/// Parses a line without its newline; `None` if it is not a CRI log line.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let timestamp = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let tags = parts.next()?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Line { timestamp, stderr, partial, text: parts.next().unwrap_or_default() })
}

/// The last `limit` bytes of a file as text.
pub(crate) async fn tail_bytes(path: &Path, limit: usize) -> std::io::Result<String> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(length.saturating_sub(limit))).await?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The texts of the last lines of a log file, at most `limit` bytes.
pub(crate) async fn tail_text(path: &Path, lines: usize, limit: usize) -> String {
    let raw = tail_bytes(path, limit.saturating_mul(4)).await.unwrap_or_default();
    let mut texts = Vec::new();
    for line in raw.lines().rev().take(lines) {
        if let Some(line) = parse(line.as_bytes()) {
            texts.push(String::from_utf8_lossy(line.text).into_owned());
        }
    }
    texts.reverse();
    let mut text: String = texts.into_iter().map(|t| t + "\n").collect();
    while text.len() > limit {
        text.remove(0);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_split_into_their_parts() {
        let line = parse(b"2024-01-02T03:04:05.6Z stderr P a b  c").expect("a line");
        let expected =
            Line { timestamp: "2024-01-02T03:04:05.6Z", stderr: true, partial: true, text: b"a b  c" };
        assert_eq!(line, expected);
        assert_eq!(parse(b"2024-01-02T03:04:05.6Z stdout F ").map(|l| l.text), Some(&b""[..]));
        assert_eq!(parse(b"not a log line"), None);
    }
}
