//! Notices changes of a folder's entries by inotify.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
pub(crate) use rustix::fs::inotify::WatchFlags;
use tokio::io::unix::AsyncFd;

pub(crate) struct WatchedFolder {
    fd: AsyncFd<OwnedFd>,
}

impl WatchedFolder {
    /// Notices the changes of `flags` from now on.
    pub(crate) fn new(folder: &Path, flags: WatchFlags) -> std::io::Result<WatchedFolder> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, folder, flags)?;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd provides the required I/O safety")]
        let fd = AsyncFd::new(fd)?;
        Ok(WatchedFolder { fd })
    }

    /// Returns after one or more changes.
    pub(crate) async fn changed(&self) -> std::io::Result<()> {
        let mut ready = self.fd.readable().await?;
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(self.fd.get_ref(), &mut buffer).is_ok_and(|n| n > 0) {}
        ready.clear_ready();
        Ok(())
    }
}
