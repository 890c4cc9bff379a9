//! Netlink calls on a thread of their own, in a chosen network namespace.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rtnetlink::Handle;

use crate::error::DatapathError;

/// Runs `work` with a netlink handle in the namespace at `netns`, or in this process's; waits for it.
///
/// A namespace belongs to a thread, so a thread is made that ends with the work.
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

/// Moves this thread into the namespace at `path`; not to be called on a thread that does anything else later.
pub(crate) fn enter(path: &Path) -> Result<(), DatapathError> {
    let failed = |source: std::io::Error| DatapathError::Namespace { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).map_err(|e| failed(e.into()))
}

pub(crate) fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
