//! Bytes and packets of network interfaces.
//!
//! In: `/proc/PID/net/dev` of a process in the network namespace (proc(5)). Out: counters by interface.

use std::fs;

/// Counters of an interface, since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// The interfaces in the network namespace of a process, without loopback; none if it is gone.
pub(crate) fn of_process(pid: u32) -> Vec<Interface> {
    parse(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

/// The interface of the machine's default route, or of its first one.
pub(crate) fn default_interface() -> Option<String> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut rows = routes.lines().skip(1).map(columns);
    rows.find(|row| row.get(1).is_some_and(|to| to == "00000000"))?.into_iter().next()
}

fn parse(text: &str) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let counters: Vec<u64> = counters.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
        let traffic = |first: usize| {
            let at = |offset: usize| counters.get(first + offset).copied().unwrap_or(0);
            Traffic { bytes: at(0), packets: at(1), errors: at(2), dropped: at(3) }
        };
        let name = name.trim();
        if name != "lo" {
            interfaces.push(Interface { name: name.to_owned(), received: traffic(0), sent: traffic(8) });
        }
    }
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_does_not_count() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
            lo:  99 9 0 0 0 0 0 0 99 9 0 0 0 0 0 0\n  eth0: 10 1 2 3 0 0 0 0 20 4 5 6 0 0 0 0\n";
        let traffic = |bytes, packets, errors, dropped| Traffic { bytes, packets, errors, dropped };
        let eth0 =
            Interface { name: "eth0".to_owned(), received: traffic(10, 1, 2, 3), sent: traffic(20, 4, 5, 6) };
        assert_eq!(parse(text), [eth0]);
    }
}
