//! A connection that is held: its other end does not see that its owner is gone.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use skep_holder::{Holder, MAX_SOCKETS, Purpose, listen};

const SOCKET: &str = "held.sock";

fn holder(folder: &Path, purpose: Purpose) -> Holder {
    Holder::new(folder.join(SOCKET), purpose, Box::new(start))
}

fn start(path: &Path) -> std::io::Result<()> {
    let process = listen(path)?;
    std::thread::spawn(move || process.hold());
    Ok(())
}

#[tokio::test]
async fn a_connection_lives_until_the_holder_has_another() {
    let folder = tempfile::tempdir().unwrap();
    let holder = holder(folder.path(), Purpose::Runtime);
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
async fn purposes_do_not_meet_and_a_second_holder_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let (dns, runtime) = (holder(folder.path(), Purpose::Dns), holder(folder.path(), Purpose::Runtime));
    let (ours, _peer) = UnixStream::pair().unwrap();
    runtime.keep(&[ours.as_fd()]).await.unwrap();
    assert!(dns.fetch().is_empty());
    let path = folder.path().join(SOCKET);
    assert_eq!(listen(&path).err().map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    dns.keep(&[ours.as_fd(), ours.as_fd()]).await.unwrap();
    dns.keep(&[]).await.unwrap();
    assert_eq!((dns.fetch().len(), runtime.fetch().len()), (0, 1), "the other set stays");
    runtime.keep(&[]).await.unwrap();
    // It has ended, and another one may start.
    while listen(&path).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn more_sockets_than_one_message_takes_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let holder = holder(folder.path(), Purpose::Runtime);
    let (ours, _peer) = UnixStream::pair().unwrap();
    holder.keep(&[ours.as_fd()]).await.unwrap();
    assert!(holder.keep(&[ours.as_fd(); MAX_SOCKETS + 1]).await.is_err());
    assert_eq!(holder.fetch().len(), 1, "what was held is kept");
}
