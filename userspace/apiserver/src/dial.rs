//! Addresses that the server connects to because an object names them: of nodes, pods, services, other API servers and
//! webhooks. Users write these objects, and what the server reaches is not what they may reach: its own loopback, the
//! metadata service of a cloud.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

/// An address that a connection may be opened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RemoteAddress(SocketAddr);

/// Upstream's words for an address that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address not allowed")]
pub(crate) struct AddressNotAllowed;

impl RemoteAddress {
    /// Refuses what is not the address of one machine: loopback, link-local, unspecified, multicast and broadcast.
    pub(crate) fn new(address: SocketAddr) -> Result<RemoteAddress, AddressNotAllowed> {
        let ip = address.ip().to_canonical();
        let special = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.octets()[0] == 0,
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if special || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(AddressNotAllowed);
        }
        Ok(RemoteAddress(SocketAddr::new(ip, address.port())))
    }

    /// An address in a URL of a webhook's configuration, which may be on this machine, as upstream: the right to write
    /// such a configuration is an administrator's.
    pub(crate) fn of_webhook_url(address: SocketAddr) -> RemoteAddress {
        RemoteAddress(address)
    }

    pub(crate) fn get(self) -> SocketAddr {
        self.0
    }

    pub(crate) async fn connect(self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0).await?;
        // Only latency depends on it.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_one_machine_are_dialled() {
        for (address, allowed) in [
            ("10.0.0.1:80", true),
            ("192.0.2.1:80", true),
            ("[2001:db8::1]:80", true),
            ("[fd00::1]:80", true),
            ("127.0.0.1:80", false),
            ("127.9.9.9:80", false),
            ("0.0.0.0:80", false),
            ("0.1.2.3:80", false),
            ("169.254.169.254:80", false),
            ("224.0.0.1:80", false),
            ("239.1.1.1:80", false),
            ("255.255.255.255:80", false),
            ("[::]:80", false),
            ("[::1]:80", false),
            ("[fe80::1]:80", false),
            ("[ff02::1]:80", false),
            ("[::ffff:127.0.0.1]:80", false),
            ("[::ffff:169.254.169.254]:80", false),
        ] {
            let parsed: SocketAddr = address.parse().unwrap();
            assert_eq!(RemoteAddress::new(parsed).is_ok(), allowed, "{address}");
        }
    }
}
