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

/// The texts of the last lines of a log file, at most `limit` bytes. A line that the runtime split has no newline until its
/// last part.
pub(crate) async fn tail_text(path: &Path, lines: usize, limit: usize) -> String {
    let raw = tail_bytes(path, limit.saturating_mul(4)).await.unwrap_or_default();
    let mut parts = Vec::new();
    let mut whole = 0;
    for line in raw.lines().rev().filter_map(|line| parse(line.as_bytes())) {
        whole += usize::from(!line.partial);
        if whole > lines {
            break;
        }
        parts.push((String::from_utf8_lossy(line.text).into_owned(), line.partial));
    }
    let joined = |(text, partial): (String, bool)| if partial { text } else { text + "\n" };
    let mut text: String = parts.into_iter().rev().map(joined).collect();
    let start = text.ceil_char_boundary(text.len().saturating_sub(limit));
    text.drain(..start);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_log_has_a_newline_only_after_whole_lines() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("0.log");
        let line = |tag: &str, text: &str| format!("2024-01-01T00:00:00Z stdout {tag} {text}\n");
        for (log, lines, limit, expected) in [
            (line("P", "DONE"), 80, 2048, "DONE"),
            (line("F", "DONE"), 80, 2048, "DONE\n"),
            (line("F", "a") + &line("P", "b") + &line("F", "c"), 80, 2048, "a\nbc\n"),
            (line("F", "a") + &line("P", "b") + &line("F", "c"), 1, 2048, "bc\n"),
            (line("F", "aéé"), 80, 4, "é\n"),
        ] {
            std::fs::write(&path, &log).expect("log");
            assert_eq!(tail_text(&path, lines, limit).await, expected, "{log:?}");
        }
    }

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
