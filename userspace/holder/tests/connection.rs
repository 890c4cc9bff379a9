//! A connection that is held: its other end does not see that its owner is gone.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use skep_holder::{Holder, MAX_SOCKETS, hold, listen};

fn start(path: &Path) -> std::io::Result<()> {
    let listener = listen(path)?;
    let path = path.to_owned();
    std::thread::spawn(move || hold(&listener, &path));
    Ok(())
}

#[tokio::test]
async fn a_connection_lives_until_the_holder_has_another() {
    let folder = tempfile::tempdir().unwrap();
    let holder = Holder::new(folder.path().join("sockets.sock"), Box::new(start));
    assert!(holder.fetch().is_empty(), "there is no holder");
    let (ours, mut peer) = UnixStream::pair().unwrap();
    holder.keep(&[ours.as_fd()]).await.unwrap();
    drop(ours);
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the connection is open");
    let held = holder.fetch();
    assert_eq!(held.len(), 1);
    UnixStream::from(held.into_iter().next().unwrap()).write_all(b"x").unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 1, "who has fetched it can use it");
    let (other, _peer) = UnixStream::pair().unwrap();
    holder.keep(&[other.as_fd()]).await.unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the connection was ended");
}

#[tokio::test]
async fn more_sockets_than_one_message_takes_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let holder = Holder::new(folder.path().join("sockets.sock"), Box::new(start));
    let (ours, _peer) = UnixStream::pair().unwrap();
    holder.keep(&[ours.as_fd()]).await.unwrap();
    assert!(holder.keep(&[ours.as_fd(); MAX_SOCKETS + 1]).await.is_err());
    assert_eq!(holder.fetch().len(), 1, "what was held is kept");
}
