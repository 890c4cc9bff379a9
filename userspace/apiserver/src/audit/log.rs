//! The audit log's file: one line for each event; rotated by size, old files removed.
//!
//! Events go through a bounded queue to a thread. A request waits only while the queue is full.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// Where the log goes and how much of it is kept, as kube-apiserver's flags of these names.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// `-` is the standard output.
    pub path: PathBuf,
    /// Days; 0 keeps files without limit.
    pub max_age: u32,
    /// Number of rotated files; 0 keeps all.
    pub max_backups: usize,
    /// Megabytes of a file before it is rotated; 0 never rotates.
    pub max_size: u64,
    pub compress: bool,
}

/// Events that may wait for the writer.
const QUEUE_LENGTH: usize = 4_096;

/// The sending end; cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    lines: mpsc::Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Log {
    /// Opens the file and starts the thread that writes it, which ends with the last clone.
    pub(super) fn open(options: LogOptions) -> io::Result<Log> {
        let (lines, queue) = mpsc::channel(QUEUE_LENGTH);
        let lost = Arc::new(AtomicU64::new(0));
        let mut output = Output::open(options)?;
        let log = Log { lines, lost: lost.clone() };
        std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || output.run(queue, &lost))?;
        Ok(log)
    }

    pub(super) async fn write(&self, line: Vec<u8>) {
        if self.lines.send(line).await.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For callers that cannot wait: if the queue is full, the event is lost and counted.
    pub(super) fn try_write(&self, line: Vec<u8>) {
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that could not be written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

struct Output {
    options: LogOptions,
    file: BufWriter<Box<dyn Write + Send>>,
    size: u64,
}

impl Output {
    fn open(options: LogOptions) -> io::Result<Output> {
        let (file, size) = open(&options.path)?;
        Ok(Output { options, file, size })
    }

    fn run(&mut self, mut queue: mpsc::Receiver<Vec<u8>>, lost: &AtomicU64) {
        let mut lines = Vec::new();
        while queue.blocking_recv_many(&mut lines, QUEUE_LENGTH) > 0 {
            let count = lines.len() as u64;
            let written =
                lines.drain(..).try_for_each(|line| self.line(&line)).and_then(|()| self.file.flush());
            if let Err(error) = written {
                lost.fetch_add(count, Ordering::Relaxed);
                tracing::error!(%error, path = %self.options.path.display(), "write audit log failed");
                // A new writer: the old one would retry its buffer without end.
                if let Ok((file, size)) = open(&self.options.path) {
                    let (_, _) = std::mem::replace(&mut self.file, file).into_parts();
                    self.size = size;
                }
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let limit = self.options.max_size * 1_000_000;
        if limit > 0
            && self.size > 0
            && self.size + line.len() as u64 > limit
            && !is_standard(&self.options.path)
        {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let path = self.options.path.clone();
        let rotated = rotated_path(&path, &Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.6f").to_string());
        fs::rename(&path, &rotated)?;
        (self.file, self.size) = open(&path)?;
        if self.options.compress {
            compress(&rotated)?;
        }
        self.remove_old()
    }

    /// Removes rotated files that are too old or too many.
    fn remove_old(&self) -> io::Result<()> {
        let LogOptions { path, max_age, max_backups, .. } = &self.options;
        let mut backups = backups(path)?;
        // Names contain the time of rotation: newest first.
        backups.sort_by(|a, b| b.cmp(a));
        let oldest = SystemTime::now().checked_sub(Duration::from_secs(u64::from(*max_age) * 86_400));
        for (at, backup) in backups.iter().enumerate() {
            let old = *max_age > 0 && fs::metadata(backup)?.modified().is_ok_and(|made| Some(made) < oldest);
            if old || *max_backups > 0 && at >= *max_backups {
                fs::remove_file(backup)?;
            }
        }
        Ok(())
    }
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

fn open(path: &Path) -> io::Result<(BufWriter<Box<dyn Write + Send>>, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if is_standard(path) {
        return Ok((BufWriter::new(Box::new(io::stdout())), 0));
    }
    let file = File::options().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((BufWriter::new(Box::new(file)), size))
}

/// `audit.log` becomes `audit-TIME.log`.
fn rotated_path(path: &Path, time: &str) -> PathBuf {
    let (stem, extension) = stem_and_extension(path);
    path.with_file_name(format!("{stem}-{time}{extension}"))
}

fn stem_and_extension(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    (stem, extension.unwrap_or_default())
}

fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = stem_and_extension(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let time = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(&extension);
        let time = time.and_then(|rest| rest.strip_prefix(&stem)).and_then(|rest| rest.strip_prefix('-'));
        if time.is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()) && time.contains('T')) {
            found.push(folder.join(name));
        }
    }
    Ok(found)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let mut encoder = GzEncoder::new(File::create(&name)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn options(folder: &Path, max_backups: usize, compress: bool) -> LogOptions {
        LogOptions { path: folder.join("audit.log"), max_age: 0, max_backups, max_size: 1, compress }
    }

    fn fill(options: &LogOptions, lines: usize) {
        let mut output = Output::open(options.clone()).unwrap();
        for at in 0..lines {
            output.line(format!("{}{at:05}\n", "0".repeat(99_994)).as_bytes()).unwrap();
        }
        output.file.flush().unwrap();
    }

    #[test]
    fn a_large_file_is_rotated_and_no_line_is_split_or_lost() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), 0, true);
        fill(&options, 25);
        fill(&options, 3);
        let mut all = fs::read_to_string(&options.path).unwrap();
        let rotated = backups(&options.path).unwrap();
        assert_eq!(rotated.len(), 2);
        for file in rotated {
            assert!(file.to_string_lossy().ends_with(".log.gz"));
            flate2::read::GzDecoder::new(File::open(file).unwrap()).read_to_string(&mut all).unwrap();
        }
        let mut numbers: Vec<usize> = all.lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..3).flat_map(|n| [n, n]).chain(3..25).collect::<Vec<_>>());
    }

    #[test]
    fn only_max_backups_are_kept_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), 2, false);
        fs::write(folder.path().join("audit-notes.log"), "mine").unwrap();
        fill(&options, 55);
        assert_eq!(backups(&options.path).unwrap().len(), 2);
        assert!(folder.path().join("audit-notes.log").exists());
    }
}
