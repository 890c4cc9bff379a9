//! Announces load balancers' addresses on the link (ARP and neighbour discovery).
//!
//! In: [`Published`]; [`skep_netplan::announce`] decides which addresses this node answers for. Out: answers to
//! requests for them, and unsolicited announcements of new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use skep_datapath::Announcer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::published::Published;

/// How many times a new address is announced: neighbours' caches may miss a frame.
const ANNOUNCEMENTS: u32 = 5;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// How long after a failure the socket is opened again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Announces on each uplink, as long as it is one; until the engine has ended.
pub(crate) async fn run(mut uplinks: watch::Receiver<Vec<String>>, published: watch::Receiver<Published>) {
    let mut running: BTreeMap<String, AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let names = uplinks.borrow_and_update().clone();
        running.retain(|name, _| names.contains(name));
        for name in names {
            let start =
                |name: &String| AbortOnDropHandle::new(tokio::spawn(run_on(name.clone(), published.clone())));
            running.entry(name).or_insert_with_key(start);
        }
        if uplinks.changed().await.is_err() {
            return;
        }
    }
}

/// Runs until the engine has ended.
async fn run_on(uplink: String, mut published: watch::Receiver<Published>) {
    loop {
        // Without an address there is no socket.
        if published.wait_for(|published| !published.announced.is_empty()).await.is_err() {
            return;
        }
        let ended = match Announcer::open(&uplink) {
            Ok(announcer) => answer(announcer, &mut published).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(Ended::NoAddress) => {}
            Ok(Ended::EngineGone) => return,
            Err(error) => {
                tracing::warn!(uplink, %error, source = ?std::error::Error::source(&error), "announce addresses failed");
                sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// Announcements still to be sent.
#[derive(Default)]
struct Schedule {
    /// Each address with the number of announcements left.
    addrs: Vec<(IpAddr, u32)>,
    /// When the next ones are due.
    at: Option<Instant>,
}

impl Schedule {
    /// The addresses to announce now.
    fn take(&mut self, now: Instant) -> Vec<IpAddr> {
        let due = self.addrs.iter().map(|(addr, _)| *addr).collect();
        self.addrs.iter_mut().for_each(|(_, left)| *left -= 1);
        self.addrs.retain(|(_, left)| *left > 0);
        self.at = (!self.addrs.is_empty()).then_some(now + ANNOUNCEMENT_INTERVAL);
        due
    }

    /// Adds `new` addresses, and drops those that are not in `current`.
    fn update(&mut self, new: Vec<IpAddr>, current: &BTreeSet<IpAddr>, now: Instant) {
        self.addrs.retain(|(addr, _)| current.contains(addr));
        if !new.is_empty() {
            self.addrs.extend(new.into_iter().map(|addr| (addr, ANNOUNCEMENTS)));
            self.at = Some(now);
        }
    }
}

/// Why answering ended without an error.
enum Ended {
    /// The node answers for no address now.
    NoAddress,
    EngineGone,
}

async fn answer(
    mut announcer: Announcer,
    published: &mut watch::Receiver<Published>,
) -> Result<Ended, skep_datapath::DatapathError> {
    let mut schedule = Schedule::default();
    loop {
        let current = published.borrow_and_update().announced.clone();
        let new = announcer.answer_for(&current);
        if !new.is_empty() {
            tracing::info!(addrs = ?new, "answering for addresses");
        }
        schedule.update(new, &current, Instant::now());
        if current.is_empty() {
            return Ok(Ended::NoAddress);
        }
        loop {
            let at = schedule.at;
            tokio::select! {
                changed = published.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Ok(Ended::EngineGone),
                },
                error = announcer.serve() => return Err(error),
                () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => {
                    for addr in schedule.take(Instant::now()) {
                        // The next announcement of this address comes soon, and no other address waits for it.
                        if let Err(error) = announcer.announce(addr) {
                            tracing::warn!(%addr, %error, source = ?std::error::Error::source(&error), "announce address failed");
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_address_is_announced_a_few_times_while_it_is_ours() {
        let (now, a, b) = (Instant::now(), IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut schedule = Schedule::default();
        schedule.update(vec![a, b], &[a, b].into(), now);
        assert_eq!((schedule.at, schedule.take(now)), (Some(now), vec![a, b]));
        schedule.update(vec![], &[b].into(), now);
        let announced: Vec<_> =
            (1..10).map(|_| schedule.take(now)).take_while(|addrs| !addrs.is_empty()).collect();
        assert_eq!(announced, vec![vec![b]; ANNOUNCEMENTS as usize - 1]);
        assert_eq!(schedule.at, None);
    }
}
