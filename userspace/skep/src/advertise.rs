//! The address at which others reach the API server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;

/// The address of the flag; else the one that is listened on; else, if that is every address, the one from which the default
/// route leaves this machine.
pub(crate) fn address(
    listen: SocketAddr,
    advertised: Option<IpAddr>,
    service_cidrs: &[IpNetwork],
) -> Result<SocketAddr> {
    let ip = match advertised {
        Some(ip) => ip,
        None if !listen.ip().is_unspecified() => listen.ip(),
        None => of_default_route(listen, service_cidrs).context(
            "--listen names every address of this machine, and the one of the default route cannot be found; pass \
             --advertise-address",
        )?,
    };
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        bail!("--advertise-address {ip} is not the address of a machine");
    }
    if service_cidrs.iter().any(|cidr| cidr.contains(ip)) {
        bail!("--advertise-address {ip} is in the network of Services");
    }
    if ip.is_loopback() {
        tracing::warn!(
            address = %ip,
            "the API is reached from this machine only; nodes and pods elsewhere need --listen or --advertise-address"
        );
    }
    Ok(SocketAddr::new(ip, listen.port()))
}

/// The source address that the kernel chooses for the default route. Connecting a UDP socket sends nothing.
fn of_default_route(listen: SocketAddr, service_cidrs: &[IpNetwork]) -> Result<IpAddr> {
    // Destinations that are routed by the default route only (RFC 5737, RFC 3849).
    let v4 = || source((Ipv4Addr::UNSPECIFIED, 0), (Ipv4Addr::new(192, 0, 2, 1), 9));
    let v6 = || source((Ipv6Addr::UNSPECIFIED, 0), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    let prefers_v6 = service_cidrs.first().is_some_and(IpNetwork::is_ipv6);
    match listen {
        SocketAddr::V4(_) => v4(),
        SocketAddr::V6(_) if prefers_v6 => v6().or_else(|_| v4()),
        SocketAddr::V6(_) => v4().or_else(|_| v6()),
    }
}

fn source(from: impl std::net::ToSocketAddrs, to: impl std::net::ToSocketAddrs) -> Result<IpAddr> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    let ip = socket.local_addr()?.ip();
    if ip.is_unspecified() || ip.is_loopback() {
        bail!("there is no default route");
    }
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_comes_first_and_a_listened_address_next() {
        let services = ["10.96.0.0/12".parse().unwrap()];
        let address = |listen: &str, flag: Option<&str>| {
            address(listen.parse().unwrap(), flag.map(|ip| ip.parse().unwrap()), &services)
        };
        let text = |found: Result<SocketAddr>| found.unwrap().to_string();
        assert_eq!(text(address("0.0.0.0:6443", Some("192.0.2.7"))), "192.0.2.7:6443");
        assert_eq!(text(address("[::]:6443", Some("192.0.2.7"))), "192.0.2.7:6443");
        assert_eq!(text(address("192.0.2.8:443", None)), "192.0.2.8:443");
        for bad in ["0.0.0.0", "::", "224.0.0.1", "10.96.0.1"] {
            assert!(address("0.0.0.0:6443", Some(bad)).is_err(), "{bad}");
        }
        // Without a default route it is an error with a next step, never 0.0.0.0.
        match address("0.0.0.0:6443", None) {
            Ok(found) => assert!(!found.ip().is_unspecified() && !found.ip().is_loopback()),
            Err(error) => assert!(error.to_string().contains("--advertise-address"), "{error}"),
        }
    }
}
