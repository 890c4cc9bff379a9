//! The logs of services: from the journal, or, of a service that has none there, from its file.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::super::answer::{Body, answer};
use super::files;
use super::source::Filter;
use crate::config::SystemLogs;

/// The time of one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
const PIECE_BYTES: usize = 32 << 10;

type Sink = mpsc::Sender<io::Result<Bytes>>;

/// The lines as they come. What fails after the first is a line at the end, since the status is sent.
pub(super) async fn serve(settings: &SystemLogs, services: Vec<String>, filter: Filter) -> Response<Body> {
    let (sink, pieces) = mpsc::channel(4);
    let settings = settings.clone();
    tokio::spawn(async move {
        let copied = timeout(TIMEOUT, copy(&settings, &services, &filter, &sink)).await;
        let why = match copied {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the logs took more than {} s", TIMEOUT.as_secs()),
        };
        let _ = sink.send(Ok(format!("\n{why}\n").into())).await;
    });
    let frames = ReceiverStream::new(pieces).map(|piece| piece.map(Frame::data));
    answer(StatusCode::OK, "text/plain;charset=UTF-8", BodyExt::boxed(StreamBody::new(frames)))
}

#[derive(Debug, thiserror::Error)]
enum JournalError {
    #[error("options present and query resolved to log files for [{0}]\ntry without specifying options")]
    OptionsWithFiles(String),
    #[error("log not found for {0}")]
    NotFound(String),
    #[error("error getting log for {service}: {source}")]
    File { service: String, source: io::Error },
    #[error("error: journal output not available: {0}")]
    Journal(io::Error),
}

async fn copy(
    settings: &SystemLogs,
    services: &[String],
    filter: &Filter,
    sink: &Sink,
) -> Result<(), JournalError> {
    let units = units(settings).await;
    let has_unit = |service: &&String| units.lines().any(|unit| is_unit(unit, service));
    let (native, in_files): (Vec<&String>, Vec<&String>) = services.iter().partition(has_unit);
    if !in_files.is_empty() && *filter != Filter::default() {
        let names: Vec<&str> = in_files.iter().map(|name| name.as_str()).collect();
        return Err(JournalError::OptionsWithFiles(names.join(" ")));
    }
    for service in in_files {
        copy_file(&settings.folder, service, sink).await?;
    }
    if native.is_empty() {
        return Ok(());
    }
    let mut command = journalctl(settings);
    command.args(arguments(&native, filter));
    run(command, sink).await.map_err(JournalError::Journal)
}

fn is_unit(unit: &str, service: &str) -> bool {
    unit == service || unit.strip_suffix(".service") == Some(service)
}

/// The units of the journal. Without journalctl there are none.
async fn units(settings: &SystemLogs) -> String {
    let mut command = journalctl(settings);
    let output = command.args(["--field", "_SYSTEMD_UNIT"]).output().await;
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn journalctl(settings: &SystemLogs) -> Command {
    let mut command = Command::new("journalctl");
    command.stdin(Stdio::null()).kill_on_drop(true);
    if let Some(folder) = &settings.journal {
        command.arg("--directory").arg(folder);
    }
    command
}

fn arguments(services: &[&String], filter: &Filter) -> Vec<String> {
    let mut all = vec!["--utc".to_owned(), "--no-pager".to_owned(), "--output=short-precise".to_owned()];
    // Seconds since 1970: a time of day would be one of the node's time zone.
    all.extend(filter.since.map(|time| format!("--since=@{}", time.as_second())));
    all.extend(filter.until.map(|time| format!("--until=@{}", time.as_second())));
    all.extend(filter.tail.map(|lines| format!("--lines={lines}")));
    all.extend(services.iter().map(|service| format!("--unit={service}")));
    all.extend(filter.pattern.as_ref().map(|pattern| format!("--grep={pattern}")));
    all.extend(filter.boot.map(|boot| format!("--boot={boot}")));
    all
}

/// Both outputs of the command in one stream; what it has to say of a failure is there.
async fn run(mut command: Command, sink: &Sink) -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // It holds the ends for writing; the stream would not end before it goes.
    drop(command);
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        if reader.read_buf(&mut piece).await? == 0 {
            break;
        }
        if sink.send(Ok(piece.into())).await.is_err() {
            return Ok(());
        }
    }
    child.wait().await.map(drop)
}

/// `SERVICE`, `SERVICE.log` or `SERVICE/SERVICE.log`, the first that is a file.
async fn copy_file(folder: &Path, service: &str, sink: &Sink) -> Result<(), JournalError> {
    let names = [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")];
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => JournalError::NotFound(service.to_owned()),
        _ => JournalError::File { service: service.to_owned(), source },
    };
    let root = folder.to_owned();
    let found = tokio::task::spawn_blocking(move || files::first(&root, &names)).await;
    let (file, bytes) = found.map_err(io::Error::other).flatten().map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file).take(bytes);
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        if file.read_buf(&mut piece).await.map_err(failed)? == 0 || sink.send(Ok(piece.into())).await.is_err()
        {
            return Ok(());
        }
    }
}
