//! Addresses that a connection may be opened to because someone named them. PURE.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::Uri;

/// The metadata service of a cloud that has one under a unique local address.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether this is the address of one machine or pod. Not: loopback, link-local (metadata services among them), unspecified,
/// multicast and broadcast addresses.
pub fn is_dialable(ip: IpAddr) -> bool {
    let special = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == METADATA_V6,
    };
    let ip = ip.to_canonical();
    !(special || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

/// The target of a CONNECT request: an address and a port, never a name. IPv4 addresses in IPv6 form become IPv4.
pub(crate) fn target(uri: &Uri) -> Option<SocketAddr> {
    let authority = uri.authority()?;
    if authority.as_str().contains('@') || uri.path_and_query().is_some() || uri.scheme().is_some() {
        return None;
    }
    let address: SocketAddr = authority.as_str().parse().ok()?;
    (address.port() != 0).then(|| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_one_machine_are_dialled() {
        for (address, allowed) in [
            ("10.0.0.1", true),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("169.254.169.254", false),
            ("fd00:ec2::254", false),
            ("224.0.0.1", false),
            ("239.1.1.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
        ] {
            assert_eq!(is_dialable(address.parse().unwrap()), allowed, "{address}");
        }
    }

    #[test]
    fn a_target_is_an_address_with_a_port() {
        for (text, wanted) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("10.0.0.1", None),
            ("10.0.0.1:0", None),
            ("localhost:80", None),
            ("user@10.0.0.1:80", None),
            ("http://10.0.0.1:80/", None),
            ("/", None),
        ] {
            let found = text.parse().ok().and_then(|uri| target(&uri));
            assert_eq!(found, wanted.map(|wanted| wanted.parse().unwrap()), "{text}");
        }
    }
}
