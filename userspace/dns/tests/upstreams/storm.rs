//! 20,000 different names a second: the cache and the open questions stay within their bounds, and names of the cluster are
//! answered meanwhile.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skep_dns::settings::CacheLimits;

use crate::node::{Client, Node, SERVICE, SERVICE_IP, addresses, question};
use crate::upstream::Server;

const NAMES_A_MILLISECOND: u64 = 20;
const NAMES: u64 = 40_000;
const CACHE_BYTES: usize = 1 << 20;
/// What 8,192 open questions and the packets in buffers may take, and the allocator on top.
const MAX_GROWTH_BYTES: usize = 64 << 20;
/// A client sends its question again after this time.
const RETRY: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 5;

/// Resident memory of this process (proc(5), statm).
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Sends different names, at the rate where the machine can, and reads no answer; how many.
fn storm(from: Ipv4Addr, node: &Node, round: usize) -> u64 {
    let client = Client::from(from, node.addr);
    client.socket.set_nonblocking(true).unwrap();
    let packets: Vec<Vec<u8>> =
        (0..NAMES).map(|at| question(at as u16, &format!("n{at}-{round}.example."))).collect();
    let begun = Instant::now();
    let mut buffer = [0; 2048];
    for (at, packet) in (0..).zip(&packets) {
        while begun.elapsed().as_millis() as u64 * NAMES_A_MILLISECOND < at {
            std::thread::sleep(Duration::from_micros(200));
            while client.socket.recv(&mut buffer).is_ok() {}
        }
        // A full buffer loses it, as on a network.
        let _ = client.socket.send(packet);
    }
    NAMES
}

/// Asks for a name of the cluster as a resolver does, until the end; the longest wait, and how often it asked.
fn ask_meanwhile(node: &Node, ended: &AtomicBool) -> (Duration, usize) {
    let mut client = node.client();
    client.socket.set_read_timeout(Some(RETRY)).unwrap();
    let (mut longest, mut asked) = (Duration::ZERO, 0);
    while !ended.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = (0..ATTEMPTS).find_map(|_| {
            client.send(SERVICE);
            client.receive()
        });
        assert_eq!(addresses(&answer.expect("an answer")), [SERVICE_IP]);
        longest = longest.max(begun.elapsed());
        asked += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    (longest, asked)
}

#[test]
fn a_storm_of_names_stays_within_bounds_and_starves_no_name_of_the_cluster() {
    let (honest, silent) = (Server::honest(), Server::udp(|_, _, _| {}));
    let cache = CacheLimits { bytes: CACHE_BYTES, ..CacheLimits::default() };
    for upstream in [&honest, &silent] {
        let tls = skep_dns::tls::client_config().unwrap();
        let node = Node::with(vec![upstream.plain()], cache, tls);
        assert_eq!(addresses(&node.client().ask(SERVICE)), [SERVICE_IP]);
        let (before, ended) = (resident_bytes(), AtomicBool::new(false));
        let (sent, (longest, asked)) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask_meanwhile(&node, &ended));
            let sent = (0..2).map(|round| storm(Ipv4Addr::new(127, 0, 0, 2), &node, round)).sum::<u64>();
            ended.store(true, Ordering::Relaxed);
            (sent, asking.join().unwrap())
        });
        let growth = resident_bytes().saturating_sub(before);
        println!(
            "{sent} names; {asked} questions about the cluster, the longest {longest:?}; {growth} bytes more"
        );
        // Each was answered; how many there were depends on the machine.
        assert!(asked >= 3, "{asked} questions");
        assert!(node.metric("skep_dns_cache_bytes") <= CACHE_BYTES as u64);
        assert!(growth < MAX_GROWTH_BYTES, "{growth} bytes");
    }
}
