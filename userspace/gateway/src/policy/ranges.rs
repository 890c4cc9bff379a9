//! Which clients a route serves, by address.

use std::net::IpAddr;

/// An address with a prefix length (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    bits: u128,
    mask: u128,
}

/// Of clients that are allowed and of those that are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Empty: all.
    pub allowed: Vec<Range>,
    pub denied: Vec<Range>,
}

fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Range {
    /// From `ADDRESS` or `ADDRESS/LENGTH`.
    pub fn parse(text: &str) -> Option<Range> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().ok()?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(width);
        let mask = match width.checked_sub(length)? {
            0 => u128::MAX,
            128 => 0,
            free => u128::MAX << free,
        };
        Some(Range { bits: bits_of(ip) & mask, mask })
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        bits_of(ip) & self.mask == self.bits
    }
}

impl Ranges {
    pub(crate) fn admit(&self, client: IpAddr) -> bool {
        let has = |ranges: &[Range]| ranges.iter().any(|range| range.contains(client));
        !has(&self.denied) && (self.allowed.is_empty() || has(&self.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_one_family() {
        for (range, address, contains) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let found = Range::parse(range).unwrap().contains(address.parse().unwrap());
            assert_eq!(found, contains, "{range} {address}");
        }
        for text in ["", "x", "10.0.0.0/33", "10.0.0.0/-1", "2001:db8::/129", "10.0.0.0/"] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }

    #[test]
    fn denied_clients_are_not_allowed_by_another_range() {
        let ranges = Ranges {
            allowed: vec![Range::parse("10.0.0.0/8").unwrap()],
            denied: vec![Range::parse("10.1.0.0/16").unwrap()],
        };
        let admit = |ip: &str| ranges.admit(ip.parse().unwrap());
        assert!(admit("10.0.0.1") && !admit("10.1.0.1") && !admit("192.0.2.1"));
        assert!(Ranges::default().admit("192.0.2.1".parse().unwrap()));
    }
}
