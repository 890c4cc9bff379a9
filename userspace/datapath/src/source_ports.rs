//! The source ports that masquerading allocates, kept from the node's own sockets.
//!
//! In: the kernel's range of ephemeral ports and its reserved list. Out: the first port of ours; all from there to 65535 are
//! on the reserved list, and the range ends below. The kernel still lets a process bind to one of them by number.
//!
//! The list alone would do, but the kernel looks for a port upwards from a random one of the range, so most sockets would get the
//! first port behind the reserved ones, after a search through thousands. Connections to a node port and to its backend would
//! then often have the same port, and the node of the backend would take them for one flow.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use skep_abi::{SNAT_PORT_MAX, SNAT_PORT_MIN};

use crate::error::DatapathError;

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Ephemeral ports that the node's own sockets keep, for each remote end separately.
const OWN_PORTS: usize = 4_096;

type Range = RangeInclusive<u16>;

/// Reserves our ports; returns the first of them. An error if the kernel may give one to a socket and the list cannot be
/// changed.
pub(crate) fn reserve() -> Result<u16, DatapathError> {
    let read = |path: &'static str| fs::read_to_string(path).map_err(DatapathError::file("read", path));
    let (range, reserved) = (read(RANGE)?, read(RESERVED)?);
    let ephemeral = parse_range(&range);
    let reserved = reserved.trim();
    let list = parse_list(reserved);
    let Some(first) = first_port(&ephemeral, &list) else {
        let reason = std::io::Error::other("too few ports are left; choose one that ends below 61440");
        return Err(DatapathError::file("find source ports above", RANGE)(reason));
    };
    let ours = first..=SNAT_PORT_MAX;
    if ephemeral.clone().any(|port| ours.contains(&port) && !contains(&list, port)) {
        let comma = if reserved.is_empty() { "" } else { "," };
        let list = format!("{reserved}{comma}{first}-{SNAT_PORT_MAX}");
        fs::write(RESERVED, &list)
            .map_err(DatapathError::file("reserve source ports in", Path::new(RESERVED)))?;
        tracing::info!(first, "reserved source ports for masquerading; ip_local_reserved_ports has them");
    }
    if ephemeral.contains(&first) {
        let own = format!("{}\t{}", ephemeral.start(), first - 1);
        fs::write(RANGE, &own).map_err(DatapathError::file("end the range below our ports in", RANGE))?;
        tracing::info!(range = own, "ip_local_port_range ends below the source ports for masquerading");
    }
    Ok(first)
}

/// [`SNAT_PORT_MIN`], or so much more that the node's own sockets keep [`OWN_PORTS`]; `None`: nothing would be left.
fn first_port(ephemeral: &Range, reserved: &[Range]) -> Option<u16> {
    let mut usable = ephemeral.clone().filter(|port| !contains(reserved, *port));
    let last_own = usable.nth(OWN_PORTS - 1).unwrap_or(*ephemeral.end());
    let first = last_own.checked_add(1)?.max(SNAT_PORT_MIN);
    (usize::from(SNAT_PORT_MAX - first) >= OWN_PORTS).then_some(first)
}

fn contains(list: &[Range], port: u16) -> bool {
    list.iter().any(|range| range.contains(&port))
}

/// Two numbers with white space between them.
fn parse_range(text: &str) -> Range {
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    numbers.next().unwrap_or(SNAT_PORT_MIN)..=numbers.next().unwrap_or(SNAT_PORT_MAX)
}

/// Numbers and ranges with commas between them.
fn parse_list(text: &str) -> Vec<Range> {
    let item = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_keeps_some_of_its_own_ports() {
        for (range, reserved, first) in [
            ("32768\t60999\n", "", 36_864),
            // What an earlier start has reserved.
            ("32768\t60999\n", "36864-65535", 36_864),
            ("32768\t36863\n", "36864-65535", 36_864),
            ("1024\t32767\n", "32768-65535", 32_768),
            ("32768\t60999\n", "8080,33000-33999\n", 37_864),
            ("1024\t65535\n", "", 32_768),
            ("1024\t65535\n", "1024-32767", 36_864),
            ("10000\t20000\n", "", 32_768),
            ("40000\t41000\n", "", 41_001),
            ("61500\t65535\n", "", 0),
            ("58000\t65535\n", "", 0),
            ("32768\t60999\n", "0-65535", 61_000),
        ] {
            let found = first_port(&parse_range(range), &parse_list(reserved));
            assert_eq!(found, (first != 0).then_some(first), "{range} {reserved}");
        }
    }
}
