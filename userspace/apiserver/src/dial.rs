//! Opens every connection from this server to others.
//!
//! The address of a node, or of a pod on it, is reached through the node's tunnel. Addresses of pods and Services are never
//! dialled directly: this machine's routes know nothing of them, and a default route would lead out of the cluster. What is
//! left is outside of the cluster.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use ipnetwork::IpNetwork;
use skep_tunnel::{TunnelStream, Tunnels};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::remote_address::RemoteAddress;

/// A connection, direct or through a tunnel.
pub(crate) type Stream = Either<TcpStream, TunnelStream>;

/// What the cluster's objects say about addresses.
pub(crate) trait Directory: Send + Sync {
    /// The node in whose range of pods an address is.
    fn node_of(&self, ip: IpAddr) -> Option<Arc<str>>;

    /// A ready endpoint of the Service that has an address and port.
    fn endpoint_of(&self, service: SocketAddr) -> Option<RemoteAddress>;
}

/// Opens connections. Cheap to clone; clones share the tunnels.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<Shared>);

struct Shared {
    tunnels: Tunnels,
    pods: Vec<IpNetwork>,
    services: Vec<IpNetwork>,
    directory: OnceLock<Box<dyn Directory>>,
}

/// How an address is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Direct(SocketAddr),
    Tunnel(Arc<str>, SocketAddr),
}

impl Dialer {
    /// `pods` and `services` are the cluster's networks.
    pub(crate) fn new(pods: &[IpNetwork], services: &[IpNetwork]) -> Dialer {
        let (pods, services) = (pods.to_vec(), services.to_vec());
        Dialer(Arc::new(Shared { tunnels: Tunnels::default(), pods, services, directory: OnceLock::new() }))
    }

    /// Sets what the cluster's objects say; once, when they are loaded. Until then only addresses outside of the cluster
    /// are reached.
    pub(crate) fn set_directory(&self, directory: impl Directory + 'static) {
        // A second directory would be the same one.
        let _ = self.0.directory.set(Box::new(directory));
    }

    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.0.tunnels
    }

    /// Opens a connection. The error's text is a part of the API's answers.
    pub(crate) async fn dial(&self, to: &RemoteAddress) -> io::Result<Stream> {
        match self.way(to)? {
            Way::Direct(address) => {
                let stream = TcpStream::connect(address).await?;
                // Only latency depends on it.
                let _ = stream.set_nodelay(true);
                Ok(Either::Left(stream))
            }
            Way::Tunnel(node, address) => {
                let dialled = self.0.tunnels.dial(&node, address).await;
                dialled.map(Either::Right).map_err(io::Error::other)
            }
        }
    }

    fn way(&self, to: &RemoteAddress) -> io::Result<Way> {
        let address = to.get();
        if let Some(node) = to.node() {
            return Ok(Way::Tunnel(node.clone(), address));
        }
        let unreachable = |what: &str| Err(io::Error::new(io::ErrorKind::NetworkUnreachable, what));
        let directory = self.0.directory.get();
        if is_in(&self.0.services, address.ip()) {
            return match directory.and_then(|directory| directory.endpoint_of(address)) {
                // An endpoint is no Service: this ends.
                Some(endpoint) if !is_in(&self.0.services, endpoint.get().ip()) => self.way(&endpoint),
                _ => unreachable("no Service of the cluster has a ready endpoint for this address and port"),
            };
        }
        if !is_in(&self.0.pods, address.ip()) {
            return Ok(Way::Direct(address));
        }
        match directory.and_then(|directory| directory.node_of(address.ip())) {
            Some(node) => Ok(Way::Tunnel(node, address)),
            None => unreachable("no node has this address in its range of pods"),
        }
    }
}

fn is_in(networks: &[IpNetwork], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table;

    impl Directory for Table {
        fn node_of(&self, ip: IpAddr) -> Option<Arc<str>> {
            (ip == IpAddr::from([10, 244, 1, 5])).then(|| "a".into())
        }

        fn endpoint_of(&self, service: SocketAddr) -> Option<RemoteAddress> {
            let endpoint = match service.port() {
                443 => RemoteAddress::new(SocketAddr::from(([10, 244, 1, 5], 8443))).ok()?.of_node("b"),
                444 => RemoteAddress::new(SocketAddr::from(([192, 0, 2, 9], 8443))).ok()?,
                // A Service that leads to a Service.
                445 => RemoteAddress::new(SocketAddr::from(([10, 96, 0, 9], 445))).ok()?,
                _ => return None,
            };
            Some(endpoint)
        }
    }

    #[test]
    fn an_address_of_the_cluster_is_never_dialled_directly() {
        let networks = |text: &str| vec![text.parse().unwrap()];
        let dialer = Dialer::new(&networks("10.244.0.0/16"), &networks("10.96.0.0/12"));
        let way = |text: &str, node: &str| {
            let to = RemoteAddress::of_webhook_url(text.parse().unwrap()).of_node(node);
            match dialer.way(&to) {
                Ok(Way::Direct(address)) => format!("direct {address}"),
                Ok(Way::Tunnel(node, address)) => format!("{node} {address}"),
                Err(error) => error.to_string().split(' ').next().unwrap_or_default().to_owned(),
            }
        };
        // Nothing is known yet: all of the cluster is refused.
        assert_eq!(way("10.244.1.5:80", ""), "no");
        assert_eq!(way("10.96.0.1:443", ""), "no");
        dialer.set_directory(Table);
        for (address, node, wanted) in [
            ("10.244.1.5:80", "", "a 10.244.1.5:80"),
            ("10.244.1.5:80", "c", "c 10.244.1.5:80"),
            ("192.0.2.11:10250", "c", "c 192.0.2.11:10250"),
            ("10.244.9.9:80", "", "no"),
            ("10.96.0.1:443", "", "b 10.244.1.5:8443"),
            ("10.96.0.1:444", "", "direct 192.0.2.9:8443"),
            ("10.96.0.1:445", "", "no"),
            ("10.96.0.1:80", "", "no"),
            ("192.0.2.11:443", "", "direct 192.0.2.11:443"),
            ("127.0.0.1:443", "", "direct 127.0.0.1:443"),
        ] {
            assert_eq!(way(address, node), wanted, "{address} of {node:?}");
        }
    }
}
