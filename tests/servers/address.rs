//! A loopback address for a server that a test starts.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};

/// An address that the kernel chooses for no other socket during the next minute, but that a server can bind by its number.
///
/// A port that was only free a moment ago can be the local port of any connection of another test before the server
/// listens. So this leaves a connection in TIME-WAIT at the port (tcp(7)): the kernel does not choose such a port by
/// itself, and a listener with `SO_REUSEADDR` may have it. Servers here set that option: tokio, Go, busybox.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("take a port")?;
    let address = listener.local_addr()?;
    let mut client = TcpStream::connect(address).context("connect to a port of this test")?;
    // The end that closes first is the one that waits.
    drop(listener.accept()?);
    client.read_to_end(&mut Vec::new())?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_kernel_gives_no_port_twice_and_a_server_can_have_it() {
        let given: Vec<SocketAddr> = (0..64).map(|_| free_address().unwrap()).collect();
        let ports: BTreeSet<u16> = given.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), given.len());
        // 64 of some 28,000 ports: 2,000 choices hit one of them, were they not kept, in 99 of 100 runs.
        for _ in 0..4 {
            let chosen: Vec<TcpListener> =
                (0..500).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let hit = chosen.iter().find(|other| ports.contains(&other.local_addr().unwrap().port()));
            assert!(hit.is_none(), "{hit:?}");
        }
        for address in given {
            TcpListener::bind(address).unwrap();
        }
    }
}
