//! The flow log on a unix socket that only root can open: for `skep flows --socket`, also where no API server of ours is.
//!
//! In: one line with a query ([`skep_api::flow_log::FlowQuery`]). Out: the answer's lines, or one that begins with `error: `.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::FlowLog;

const MAX_QUERY_BYTES: u64 = 1_024;
const MAX_READERS: usize = 16;
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, log: FlowLog) {
    let readers = Arc::new(Semaphore::new(MAX_READERS));
    loop {
        let Ok(permit) = readers.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let log = log.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &log).await {
                        tracing::debug!(%error, "answer a reader of the flow log failed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a reader of the flow log failed");
                sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, log: &FlowLog) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read.take(MAX_QUERY_BYTES));
    let mut query = String::new();
    timeout(QUERY_TIMEOUT, read.read_line(&mut query)).await??;
    let lines = match log.read(query.trim()) {
        Ok(lines) => lines,
        Err(error) => return write.write_all(format!("error: {error}\n").as_bytes()).await,
    };
    pin_mut!(lines);
    let mut end = [0];
    loop {
        tokio::select! {
            line = lines.next() => match line {
                Some(line) => write.write_all(line.as_bytes()).await?,
                None => return Ok(()),
            },
            // The reader went away, though there is nothing to write.
            _ = read.read(&mut end) => return Ok(()),
        }
    }
}
