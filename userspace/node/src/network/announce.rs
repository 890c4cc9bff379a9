//! Keeps the link told where load balancers' addresses are: answers for those that this node has, and says so to all
//! when it gets one. Which those are, [`skep_netplan::announce`] decides.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use skep_datapath::Announcer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::duties::Duties;

/// A new address is told of so often: caches on the link may miss one frame or another.
const TIMES: u32 = 5;
const APART: Duration = Duration::from_secs(1);
/// Before a socket that failed is opened again.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until the engine has ended.
pub(super) async fn run(uplink: String, mut duties: watch::Receiver<Duties>) {
    loop {
        // No socket without an address.
        if duties.wait_for(|duties| !duties.announced.is_empty()).await.is_err() {
            return;
        }
        let ended = match Announcer::open(&uplink) {
            Ok(announcer) => answer(announcer, &mut duties).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(uplink, %error, source = ?std::error::Error::source(&error), "announce addresses");
                sleep(RETRY).await;
            }
        }
    }
}

/// Addresses still to be told of, and how often.
#[derive(Default)]
struct Due {
    addrs: Vec<(IpAddr, u32)>,
    at: Option<Instant>,
}

impl Due {
    /// What is to be told of now.
    fn take(&mut self, now: Instant) -> Vec<IpAddr> {
        let told = self.addrs.iter().map(|(addr, _)| *addr).collect();
        self.addrs.iter_mut().for_each(|(_, left)| *left -= 1);
        self.addrs.retain(|(_, left)| *left > 0);
        self.at = (!self.addrs.is_empty()).then_some(now + APART);
        told
    }

    fn change(&mut self, new: Vec<IpAddr>, wanted: &BTreeSet<IpAddr>, now: Instant) {
        self.addrs.retain(|(addr, _)| wanted.contains(addr));
        if !new.is_empty() {
            self.addrs.extend(new.into_iter().map(|addr| (addr, TIMES)));
            self.at = Some(now);
        }
    }
}

/// Answers as long as there is an address: whether more may come.
async fn answer(
    mut announcer: Announcer,
    duties: &mut watch::Receiver<Duties>,
) -> Result<bool, skep_datapath::DatapathError> {
    let mut due = Due::default();
    loop {
        let wanted = duties.borrow_and_update().announced.clone();
        let new = announcer.answer_for(&wanted);
        if !new.is_empty() {
            tracing::info!(addrs = ?new, "answer for");
        }
        due.change(new, &wanted, Instant::now());
        if wanted.is_empty() {
            return Ok(true);
        }
        loop {
            let at = due.at;
            tokio::select! {
                changed = duties.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Ok(false),
                },
                error = announcer.serve() => return Err(error),
                () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => {
                    for addr in due.take(Instant::now()) {
                        announcer.announce(addr)?;
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
    fn a_new_address_is_told_of_a_few_times_while_it_is_ours() {
        let (now, a, b) = (Instant::now(), IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut due = Due::default();
        due.change(vec![a, b], &[a, b].into(), now);
        assert_eq!((due.at, due.take(now)), (Some(now), vec![a, b]));
        due.change(vec![], &[b].into(), now);
        let told: Vec<_> = (1..10).map(|_| due.take(now)).take_while(|told| !told.is_empty()).collect();
        assert_eq!(told, vec![vec![b]; TIMES as usize - 1]);
        assert_eq!(due.at, None);
    }
}
