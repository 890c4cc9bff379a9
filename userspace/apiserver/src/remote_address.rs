//! Addresses that the server connects to because an object names them: of nodes, pods, services, other API servers and
//! webhooks. Users write these objects, and what the server reaches is not what they may reach: its own loopback, the
//! metadata service of a cloud.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// An address that a connection may be opened to, and the node that has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RemoteAddress {
    address: SocketAddr,
    node: Option<Arc<str>>,
}

/// Upstream's words for an address that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address not allowed")]
pub(crate) struct AddressNotAllowed;

impl RemoteAddress {
    /// Refuses what is not the address of one machine: loopback, link-local, unspecified, multicast and broadcast.
    pub(crate) fn new(address: SocketAddr) -> Result<RemoteAddress, AddressNotAllowed> {
        if !skep_tunnel::is_dialable(address.ip()) {
            return Err(AddressNotAllowed);
        }
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Ok(RemoteAddress { address, node: None })
    }

    /// An address in a URL of a webhook's configuration, which may be on this machine, as upstream: the right to write
    /// such a configuration is an administrator's.
    pub(crate) fn of_webhook_url(address: SocketAddr) -> RemoteAddress {
        RemoteAddress { address, node: None }
    }

    /// The same address, of a node or of a pod on it.
    pub(crate) fn of_node(self, node: &str) -> RemoteAddress {
        RemoteAddress { node: Some(node.into()).filter(|node: &Arc<str>| !node.is_empty()), ..self }
    }

    pub(crate) fn get(&self) -> SocketAddr {
        self.address
    }

    /// The node that has the address, as far as the object said so.
    pub(crate) fn node(&self) -> Option<&Arc<str>> {
        self.node.as_ref()
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}
