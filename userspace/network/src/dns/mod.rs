//! The node's DNS: serves the addresses of the `kube-dns` Service on this node.
//!
//! In: informers' events, the addresses that the planner found. Out: the addresses are on loopback, with sockets that answer.

mod settings;
mod updates;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skep_dns::{Dns, Serving, Sockets};
use skep_holder::Holder;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use settings::SettingsSource;
pub use updates::DnsSubscriptions;

use crate::index_updates::until;
use crate::published::{Published, Publisher};

const PORT: u16 = 53;
/// Pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// A node's DNS before it runs.
pub struct NodeDns {
    pub dns: Dns,
    pub subscriptions: DnsSubscriptions,
    pub settings: SettingsSource,
    /// Keeps the sockets while the agent is replaced. `None`: questions of that time get no answer.
    pub holder: Option<Holder>,
}

impl NodeDns {
    /// Serves where the engine says, until `stop` is cancelled. Until the engine has said so, the addresses of the sockets that are
    /// held are served: names do not wait until BPF programs are loaded.
    pub fn run(
        self,
        publisher: &Publisher,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        if let Some(holder) = &self.holder {
            publisher.adopt_dns(Sockets::adopt(holder.fetch()).addrs());
        }
        self.serve(publisher.subscribe(), stop)
    }

    async fn serve(self, mut published: watch::Receiver<Published>, stop: CancellationToken) {
        let NodeDns { dns, subscriptions, settings, holder } = self;
        let mut updates = subscriptions.forward(&dns, &stop);
        updates.spawn(until(stop.clone(), settings.follow(dns.clone(), published.clone())));
        let mut addrs = BTreeSet::new();
        let mut serving: Option<Serving> = None;
        loop {
            let wanted = published.borrow_and_update().dns.clone();
            let changed = wanted != addrs;
            if changed || serving.is_none() && !wanted.is_empty() {
                match serve(&dns, holder.as_ref(), wanted.clone()).await {
                    Ok(new) => {
                        tracing::info!(addrs = ?wanted, "DNS is served");
                        (serving, addrs) = (new, wanted);
                    }
                    Err(error) => {
                        tracing::warn!(addrs = ?wanted, %error, "serve DNS failed");
                        if stop.run_until_cancelled(sleep(RETRY_INTERVAL)).await.is_none() {
                            return;
                        }
                        continue;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = published.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

/// Why the addresses are not served.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Address(#[from] skep_datapath::DatapathError),
    #[error(transparent)]
    Bind(#[from] skep_dns::server::BindError),
    #[error("start the server: {0}")]
    Start(#[from] std::io::Error),
}

async fn serve(
    dns: &Dns,
    holder: Option<&Holder>,
    addrs: BTreeSet<IpAddr>,
) -> Result<Option<Serving>, ServeError> {
    // Netlink's and the holder's answers take a fraction of a millisecond.
    skep_datapath::set_local_addresses(addrs.clone())?;
    let mut held = Sockets::adopt(holder.map(Holder::fetch).unwrap_or_default());
    let mut sockets = Sockets::default();
    for ip in &addrs {
        let kept = held.take(*ip);
        match kept.is_complete() {
            true => sockets.append(kept),
            false => sockets.append(Sockets::bind([SocketAddr::new(*ip, PORT)])?),
        }
    }
    if let Some(holder) = holder.filter(|_| !addrs.is_empty() || !held.is_empty())
        && let Err(error) = holder.keep(&sockets.descriptors()).await
    {
        tracing::warn!(%error, "hold DNS sockets failed; questions during a restart of the agent will be lost");
    }
    match addrs.is_empty() {
        true => Ok(None),
        false => Ok(Some(dns.serve(sockets)?)),
    }
}
