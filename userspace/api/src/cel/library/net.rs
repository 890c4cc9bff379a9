//! Addresses and networks of the Internet Protocol.

use std::any::Any;
use std::net::IpAddr;

use super::args::{go_quoted, library, text};
use crate::cel::budget::CelError;
use crate::cel::functions::{Implementation, Table};
use crate::cel::types::Type;
use crate::cel::values::{Opaque, Value, failed};

pub(in crate::cel) const IP: &str = "net.IP";
pub(in crate::cel) const CIDR: &str = "net.CIDR";

type Made<'a> = Result<Value<'a>, CelError>;

/// A network; bits after the prefix may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cel) struct Cidr {
    address: IpAddr,
    bits: u8,
}

pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, Int, String};
    let ip = Type::Library(IP);
    table.global("ip", "string_to_ip", [String], ip.clone(), |args| made_ip(parse_ip(text(args, 0)?)));
    table.global("ip.isCanonical", "ip_is_canonical", [String], Bool, |args| {
        match parse_ip(text(args, 0)?) {
            Ok(address) => Ok(Value::Bool(address.to_string() == text(args, 0)?)),
            Err(error) => Err(error),
        }
    });
    table.global("isIP", "is_ip", [String], Bool, |args| Ok(Value::Bool(parse_ip(text(args, 0)?).is_ok())));
    table.global("string", "ip_to_string", [ip.clone()], String, |args| {
        Ok(Value::text(address(args, 0)?.to_string()))
    });
    table.member("family", "ip_family", [ip.clone()], Int, |args| {
        Ok(Value::Int(if address(args, 0)?.is_ipv4() { 4 } else { 6 }))
    });
    let tests: [(&str, &str, Implementation); 5] = [
        ("isUnspecified", "ip_is_unspecified", |args| Ok(Value::Bool(address(args, 0)?.is_unspecified()))),
        ("isLoopback", "ip_is_loopback", |args| Ok(Value::Bool(address(args, 0)?.is_loopback()))),
        ("isLinkLocalMulticast", "ip_is_link_local_multicast", |args| {
            Ok(Value::Bool(is_link_local_multicast(address(args, 0)?)))
        }),
        ("isLinkLocalUnicast", "ip_is_link_local_unicast", |args| {
            Ok(Value::Bool(is_link_local(address(args, 0)?)))
        }),
        ("isGlobalUnicast", "ip_is_global_unicast", |args| {
            let address = address(args, 0)?;
            let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
            let other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
            Ok(Value::Bool(!broadcast && !other && !is_link_local(address)))
        }),
    ];
    for (function, id, call) in tests {
        table.member(function, id, [ip.clone()], Bool, call);
    }
    declare_networks(table);
}

fn declare_networks(table: &mut Table) {
    use Type::{Bool, Int, String};
    let (ip, cidr) = (Type::Library(IP), Type::Library(CIDR));
    table.global("cidr", "string_to_cidr", [String], cidr.clone(), |args| {
        made_cidr(parse_cidr(text(args, 0)?))
    });
    table.global("isCIDR", "is_cidr", [String], Bool, |args| {
        Ok(Value::Bool(parse_cidr(text(args, 0)?).is_ok()))
    });
    table.global("string", "cidr_to_string", [cidr.clone()], String, |args| {
        let network = network(args, 0)?;
        Ok(Value::text(format!("{}/{}", network.address, network.bits)))
    });
    table.member(
        "containsIP",
        "cidr_contains_ip_string",
        [cidr.clone(), String],
        Bool,
        |args| match parse_ip(text(args, 1)?) {
            Ok(address) => Ok(Value::Bool(network(args, 0)?.contains(address))),
            Err(error) => Err(error),
        },
    );
    table.member("containsIP", "cidr_contains_ip_ip", [cidr.clone(), ip.clone()], Bool, |args| {
        Ok(Value::Bool(network(args, 0)?.contains(address(args, 1)?)))
    });
    table.member("containsCIDR", "cidr_contains_cidr_string", [cidr.clone(), String], Bool, |args| {
        let other = [made_cidr(parse_cidr(text(args, 1)?))?];
        Ok(Value::Bool(network(args, 0)?.contains_network(library(&other, 0)?)))
    });
    table.member("containsCIDR", "cidr_contains_cidr", [cidr.clone(), cidr.clone()], Bool, |args| {
        Ok(Value::Bool(network(args, 0)?.contains_network(&network(args, 1)?)))
    });
    table.member("ip", "cidr_ip", [cidr.clone()], ip, |args| Ok(Value::library(network(args, 0)?.address)));
    table.member("prefixLength", "cidr_prefix_length", [cidr.clone()], Int, |args| {
        Ok(Value::Int(i64::from(network(args, 0)?.bits)))
    });
    table.member("masked", "cidr_masked", [cidr.clone()], cidr, |args| {
        let Cidr { address, bits } = network(args, 0)?;
        let address = match address {
            IpAddr::V4(address) => IpAddr::V4((u32::from(address) & mask(bits, 32) as u32).into()),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) & mask(bits, 128)).into()),
        };
        Ok(Value::library(Cidr { address, bits }))
    });
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }
}

/// The mask of a prefix within an address of `width` bits.
fn mask(bits: u8, width: u32) -> u128 {
    let host = width.saturating_sub(u32::from(bits));
    let all = if width == 128 { u128::MAX } else { (1 << width) - 1 };
    all & u128::MAX.checked_shl(host).unwrap_or(0)
}

impl Opaque for Cidr {
    fn type_name(&self) -> &'static str {
        CIDR
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Opaque for IpAddr {
    fn type_name(&self) -> &'static str {
        IP
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Cidr {
    /// The bytes of its address.
    pub(in crate::cel) fn address_bytes(&self) -> u64 {
        if self.address.is_ipv4() { 4 } else { 16 }
    }

    fn parts(&self) -> (u128, u32) {
        number(self.address)
    }

    fn contains(&self, address: IpAddr) -> bool {
        let ((network, width), (other, other_width)) = (self.parts(), number(address));
        let mask = mask(self.bits, width);
        width == other_width && network & mask == other & mask
    }

    fn contains_network(&self, other: &Cidr) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

fn parse_ip(raw: &str) -> Result<IpAddr, CelError> {
    let shown = go_quoted(raw);
    if let Some((address, zone)) = raw.split_once('%')
        && address.parse::<std::net::Ipv6Addr>().is_ok()
        && !zone.is_empty()
    {
        return failed(format!("IP address {shown} with zone value is not allowed"));
    }
    match raw.parse() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            failed(format!("IPv4-mapped IPv6 address {shown} is not allowed"))
        }
        Ok(address) => Ok(address),
        Err(_) => failed(format!(
            "IP Address {shown} parse error during conversion from string: ParseAddr({shown}): {}",
            address_problem(raw)
        )),
    }
}

/// Why a text is no address, in Go's words.
fn address_problem(raw: &str) -> String {
    if raw.contains(':') {
        return format!("unexpected character (at {})", go_quoted(raw));
    }
    if !raw.contains('.') {
        return "unable to parse IP".to_owned();
    }
    let mut fields = 0;
    for field in raw.split('.') {
        fields += 1;
        if let Some(at) = field.find(|c: char| !c.is_ascii_digit()) {
            return format!("unexpected character (at {})", go_quoted(&field[at..]));
        }
        if field.is_empty() {
            return "IPv4 field must have at least one digit".to_owned();
        }
        if field.len() > 1 && field.starts_with('0') {
            return "IPv4 field has octet with leading zero".to_owned();
        }
        if field.parse::<u8>().is_err() {
            return "IPv4 field has value >255".to_owned();
        }
    }
    if fields < 4 { "IPv4 address too short".to_owned() } else { "IPv4 address too long".to_owned() }
}

fn parse_cidr(raw: &str) -> Result<Cidr, CelError> {
    let shown = go_quoted(raw);
    let refused = |why: &str| {
        failed(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({shown}): {why}"
        ))
    };
    let Some((address, bits)) = raw.rsplit_once('/') else { return refused("no '/'") };
    let Ok(address) = address.parse::<IpAddr>() else {
        let shown = go_quoted(address);
        return refused(&format!("ParseAddr({shown}): {}", address_problem(address)));
    };
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return failed(format!("IPv4-mapped IPv6 address {shown} is not allowed"));
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    let plain = bits.bytes().all(|c| c.is_ascii_digit()) && !(bits.len() > 1 && bits.starts_with('0'));
    match bits.parse::<u8>() {
        Ok(bits) if plain && bits <= most => Ok(Cidr { address, bits }),
        Ok(_) if plain => refused("prefix length out of range"),
        _ => refused(&format!("bad bits after slash: {}", go_quoted(bits))),
    }
}

fn made_ip<'a>(parsed: Result<IpAddr, CelError>) -> Made<'a> {
    Ok(Value::library(parsed?))
}

fn made_cidr<'a>(parsed: Result<Cidr, CelError>) -> Made<'a> {
    match parsed {
        Ok(network) => Ok(Value::library(network)),
        Err(error) => failed(format!("network address parse error during conversion from string: {error}")),
    }
}

fn address(args: &[Value<'_>], index: usize) -> Result<IpAddr, CelError> {
    library::<IpAddr>(args, index).copied()
}

fn network(args: &[Value<'_>], index: usize) -> Result<Cidr, CelError> {
    library::<Cidr>(args, index).copied()
}
