//! Reads one container's log file.
//!
//! In: the file, the lines that `kubectl logs` selects. Out: the text in pieces, and what the container appends while
//! the client follows.

use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader, SeekFrom};
use tokio::sync::{mpsc, watch};

use super::parse;
use crate::watched_folder::{WatchFlags, WatchedFolder};

/// The lines that the client selects, and their form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit_bytes: Option<u64>,
    /// Only stdout (`Some(false)`) or only stderr (`Some(true)`).
    pub(crate) stream: Option<bool>,
}

/// Pieces of the answer. A closed channel means that the client is gone.
pub(crate) type Sink = mpsc::Sender<std::io::Result<Bytes>>;

struct Reader<'a> {
    selection: &'a Selection,
    sink: &'a Sink,
    /// Bytes that may still be sent.
    left: Option<u64>,
    /// The runtime split the last line; the next one continues it.
    partial: bool,
    buffer: Vec<u8>,
}

/// The buffer is sent when it reaches this size.
const BUFFER_BYTES: usize = 32 << 10;

/// Sends the log at `path`. While the client follows, `ended` tests whether the container has ended: at each change of
/// the file and of `changes`.
pub(crate) async fn stream(
    path: &Path,
    selection: &Selection,
    sink: &Sink,
    ended: impl Fn() -> bool + Send,
    mut changes: watch::Receiver<u64>,
) -> std::io::Result<()> {
    let watcher = if selection.follow { Some(watch(path)?) } else { None };
    let mut file = BufReader::new(File::open(path).await?);
    let start = match selection.tail {
        Some(lines) => tail_offset(file.get_mut(), lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let mut reader =
        Reader { selection, sink, left: selection.limit_bytes, partial: false, buffer: Vec::new() };
    let mut line = Vec::new();
    loop {
        // Test before reading: then everything that was written before the end is still read.
        let over = watcher.is_none() || ended();
        while file.read_until(b'\n', &mut line).await? > 0 && line.ends_with(b"\n") {
            if !reader.add(&line).await {
                return reader.flush().await;
            }
            line.clear();
        }
        reader.flush().await?;
        let Some(watcher) = &watcher else { return Ok(()) };
        if rotated(&file, path).await {
            file = BufReader::new(File::open(path).await?);
            line.clear();
            continue;
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            changed = watcher.changed() => changed?,
            _ = changes.changed() => {}
            () = sink.closed() => return Ok(()),
        }
    }
}

impl Reader<'_> {
    /// Adds a line with its newline; false when the limit is reached or the client is gone.
    async fn add(&mut self, raw: &[u8]) -> bool {
        let Some(line) = parse(raw.strip_suffix(b"\n").unwrap_or(raw)) else { return true };
        if self.selection.stream.is_some_and(|stderr| stderr != line.stderr) {
            return true;
        }
        if let Some(since) = self.selection.since
            && line.timestamp.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return true;
        }
        if self.selection.timestamps && !self.partial {
            self.buffer.extend_from_slice(line.timestamp.as_bytes());
            self.buffer.push(b' ');
        }
        self.buffer.extend_from_slice(line.text);
        if !line.partial {
            self.buffer.push(b'\n');
        }
        self.partial = line.partial;
        if self.left.is_some_and(|left| u64::try_from(self.buffer.len()).unwrap_or(u64::MAX) >= left) {
            return false;
        }
        self.buffer.len() < BUFFER_BYTES || self.flush().await.is_ok()
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        if let Some(left) = &mut self.left {
            self.buffer.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= u64::try_from(self.buffer.len()).unwrap_or(*left);
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        self.sink.send(Ok(bytes)).await.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

/// The offset at which the last `lines` lines begin.
async fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 16 << 10;
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let mut newlines = 0;
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(begin)).await?;
        let mut block = Vec::new();
        (&mut *file).take(end - begin).read_to_end(&mut block).await?;
        for (index, byte) in block.iter().enumerate().rev() {
            let at = begin + u64::try_from(index).unwrap_or(0);
            // The newline at the end of the file begins no line.
            if *byte == b'\n' && at + 1 < length {
                newlines += 1;
                if newlines == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

/// Whether the path names another, readable file now.
async fn rotated(open: &BufReader<File>, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(ours), Ok(named)) = (open.get_ref().metadata().await, tokio::fs::metadata(path).await) else {
        return false;
    };
    ours.ino() != named.ino()
}

/// Notices writes to a file and its replacement.
fn watch(path: &Path) -> std::io::Result<WatchedFolder> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    WatchedFolder::new(folder, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str, selection: Selection) -> String {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("0.log");
        std::fs::write(&path, text).expect("log");
        let (sink, mut pieces) = mpsc::channel(8);
        let (_kept, changes) = watch::channel(0);
        stream(&path, &selection, &sink, || true, changes).await.expect("reads");
        drop(sink);
        let mut out = Vec::new();
        while let Some(piece) = pieces.recv().await {
            out.extend_from_slice(&piece.expect("bytes"));
        }
        String::from_utf8(out).expect("text")
    }

    const LOG: &str = "2024-01-01T00:00:00Z stdout F one\n2024-01-01T00:00:01Z stderr F two\n\
                       2024-01-01T00:00:02Z stdout P thr\n2024-01-01T00:00:02Z stdout F ee\n";

    #[tokio::test]
    async fn partial_lines_join() {
        assert_eq!(read(LOG, Selection::default()).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn tail_since_stream_and_limit_select() {
        let query = |tail, since: Option<&str>, stream, limit_bytes| Selection {
            tail,
            since: since.and_then(|s| s.parse().ok()),
            stream,
            limit_bytes,
            ..Selection::default()
        };
        assert_eq!(read(LOG, query(Some(2), None, None, None)).await, "three\n");
        assert_eq!(read(LOG, query(Some(0), None, None, None)).await, "");
        assert_eq!(read(LOG, query(Some(99), None, None, None)).await, "one\ntwo\nthree\n");
        assert_eq!(read(LOG, query(None, Some("2024-01-01T00:00:01Z"), None, None)).await, "two\nthree\n");
        assert_eq!(read(LOG, query(None, None, Some(true), None)).await, "two\n");
        assert_eq!(read(LOG, query(None, None, None, Some(5))).await, "one\nt");
    }

    #[tokio::test]
    async fn following_sees_what_is_appended_until_the_end() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("0.log");
        std::fs::write(&path, "2024-01-01T00:00:00Z stdout F one\n").expect("log");
        let (sink, mut pieces) = mpsc::channel(8);
        let (end, changes) = watch::channel(0);
        let file = path.clone();
        let reading = tokio::spawn(async move {
            let query = Selection { follow: true, ..Selection::default() };
            let over = changes.clone();
            stream(&file, &query, &sink, move || *over.borrow() > 0, changes).await
        });
        assert_eq!(pieces.recv().await.and_then(Result::ok).as_deref(), Some(&b"one\n"[..]));
        let mut log = std::fs::File::options().append(true).open(&path).expect("log");
        std::io::Write::write_all(&mut log, b"2024-01-01T00:00:01Z stdout F two\n").expect("append");
        assert_eq!(pieces.recv().await.and_then(Result::ok).as_deref(), Some(&b"two\n"[..]));
        end.send_replace(1);
        assert!(pieces.recv().await.is_none());
        reading.await.expect("joined").expect("reads");
    }
}
