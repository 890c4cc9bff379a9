//! TCP packets of more than 64 KB inside the machine (BIG TCP).
//!
//! In: an interface, and its namespace. Out: sockets hand it, and its receiver merges, packets up to [`MAX_SIZE`], or what its
//! driver takes. Linux has it since 5.19 for IPv6 and since 6.3 for IPv4, and passes over attributes that it does not know.

use std::path::Path;

use netlink_packet_route::link::LinkAttribute;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::{Handle, LinkUnspec};

use crate::error::DatapathError;
use crate::netlink::{get_link, run};

/// Bytes of a packet. More are no faster, and would fill a socket's buffer with few packets.
const MAX_SIZE: u32 = 192 << 10;
/// Attributes of linux/if_link.h.
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_GRO_IPV4_MAX_SIZE: u16 = 64;

/// Raises the sizes of the interface in the namespace, or in this process's; idempotent.
pub(crate) fn raise(netns: Option<&Path>, name: &str) -> Result<(), DatapathError> {
    let name = name.to_owned();
    run(netns, move |handle| async move { raise_here(&handle, &name).await })
}

async fn raise_here(handle: &Handle, name: &str) -> Result<(), DatapathError> {
    let found = get_link(handle, name).await?;
    let link = found.ok_or_else(|| DatapathError::NoInterface { name: name.to_owned() })?;
    let most = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::TsoMaxSize(size) => Some(*size),
        _ => None,
    });
    // Before Linux 5.19 there is no such attribute, nor anything to raise.
    let Some(most) = most else { return Ok(()) };
    let size = MAX_SIZE.min(most);
    let other = |kind| LinkAttribute::Other(DefaultNla::new(kind, size.to_ne_bytes().to_vec()));
    let mut message = LinkUnspec::new_with_index(link.header.index).build();
    message.attributes.extend([
        LinkAttribute::GsoMaxSize(size),
        LinkAttribute::GroMaxSize(size),
        other(IFLA_GSO_IPV4_MAX_SIZE),
        other(IFLA_GRO_IPV4_MAX_SIZE),
    ]);
    let set = handle.link().set(message).execute().await;
    set.map_err(DatapathError::netlink(format!("raise packet sizes of {name}")))
}
