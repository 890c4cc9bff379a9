//! Netlink calls in a chosen network namespace.
//!
//! In: a namespace and the calls. Out: their result; the calls run on a thread of their own, since a thread enters a namespace
//! for good.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use netlink_packet_route::link::LinkMessage;
use rtnetlink::Handle;

use crate::error::DatapathError;

/// Runs `work` with a netlink handle in the namespace at `netns`, or in this process's, on a new thread; waits for it.
pub(crate) fn run<T, F, W>(netns: Option<&Path>, work: W) -> Result<T, DatapathError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, DatapathError>>,
    W: FnOnce(Handle) -> F + Send + 'static,
{
    let netns = netns.map(Path::to_owned);
    let thread = std::thread::Builder::new().name("netlink".to_owned());
    let thread =
        thread.spawn(move || on_thread(netns, work)).map_err(DatapathError::file("start", "a thread"))?;
    thread.join().map_err(|_| DatapathError::Aborted)?
}

fn on_thread<T, F, W>(netns: Option<PathBuf>, work: W) -> Result<T, DatapathError>
where
    F: Future<Output = Result<T, DatapathError>>,
    W: FnOnce(Handle) -> F,
{
    if let Some(path) = netns {
        enter(&path)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(DatapathError::file("start", "a runtime"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(DatapathError::file("open", "a netlink socket"))?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

/// Moves this thread into the namespace at `path`. Call it only on a thread that does nothing else afterwards.
pub(crate) fn enter(path: &Path) -> Result<(), DatapathError> {
    let failed = |source: std::io::Error| DatapathError::Namespace { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).map_err(|e| failed(e.into()))
}

/// The link with that name; `None`: there is none.
pub(crate) async fn get_link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, DatapathError> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(message) => Ok(message),
        Err(error) if is_errno(&error, libc::ENODEV) => Ok(None),
        Err(error) => Err(DatapathError::netlink(format!("look up {name}"))(error)),
    }
}

/// Deletes the link; returns its index, or `None` if there was none.
pub(crate) async fn remove_link(handle: &Handle, name: &str) -> Result<Option<u32>, DatapathError> {
    let Some(found) = get_link(handle, name).await? else { return Ok(None) };
    match handle.link().del(found.header.index).execute().await {
        Err(error) if !is_errno(&error, libc::ENODEV) => {
            Err(DatapathError::netlink(format!("delete {name}"))(error))
        }
        _ => Ok(Some(found.header.index)),
    }
}

/// Whether the kernel answered with that error number.
pub(crate) fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
