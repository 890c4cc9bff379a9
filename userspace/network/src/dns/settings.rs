//! The settings of the node's DNS.
//!
//! In: the ConfigMap `kube-system/skep-dns`, the node's resolv.conf, the addresses at which this node answers. Out: settings that
//! are in force. Without the ConfigMap the defaults are. Lines that have no effect are logged; the others count.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use skep_api::watch::WatchEvent;
use skep_dns::resolv_conf::ResolvConf;
use skep_dns::{Dns, DomainError, Settings, corefile};
use tokio::sync::watch;

use crate::informers::{Events, Informers};
use crate::published::Published;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "skep-dns";
const KEY: &str = "Corefile";
/// How often resolv.conf is looked at: nothing tells of its changes.
const RESOLV_CONF_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Where the settings come from.
pub struct SettingsSource {
    /// The cluster's domain.
    domain: String,
    resolv_conf: PathBuf,
    maps: Events<ConfigMap>,
}

/// What the settings follow from.
#[derive(Clone, Default, PartialEq)]
struct Inputs {
    /// `None`: there is no ConfigMap, or none is known yet.
    corefile: Option<String>,
    resolv_conf: String,
    /// The node's own name servers, if a resolv.conf names them: a question would come back for ever.
    own: BTreeSet<IpAddr>,
}

impl SettingsSource {
    pub fn new(informers: &mut Informers, domain: &str, resolv_conf: impl Into<PathBuf>) -> Self {
        informers.config_maps.restrict(format!("metadata.name={NAME}"));
        SettingsSource {
            domain: domain.to_owned(),
            resolv_conf: resolv_conf.into(),
            maps: informers.config_maps.subscribe(),
        }
    }

    /// The settings before the ConfigMap is known.
    pub fn defaults(&self) -> Result<Settings, DomainError> {
        compiled(&self.domain, &Inputs { resolv_conf: self.read_resolv_conf(), ..Inputs::default() })
    }

    /// Configures the DNS with every change, until the informer ends.
    pub(super) async fn follow(mut self, dns: Dns, mut published: watch::Receiver<Published>) {
        let (mut inputs, mut in_force) = (Inputs::default(), None);
        let mut check = tokio::time::interval(RESOLV_CONF_CHECK_INTERVAL);
        let mut listed = None;
        loop {
            tokio::select! {
                event = self.maps.recv() => match event {
                    Some(event) => apply(event, &mut inputs.corefile, &mut listed),
                    None => return,
                },
                _ = check.tick() => inputs.resolv_conf = self.read_resolv_conf(),
                changed = published.changed() => match changed {
                    Ok(()) => inputs.own.clone_from(&published.borrow_and_update().dns),
                    Err(_) => return,
                },
            }
            if in_force.as_ref() == Some(&inputs) {
                continue;
            }
            match compiled(&self.domain, &inputs) {
                Ok(settings) => dns.configure(settings),
                Err(error) => tracing::warn!(%error, "configure DNS failed; the last settings stay in force"),
            }
            in_force = Some(inputs.clone());
        }
    }

    /// A node without the file has no name servers.
    fn read_resolv_conf(&self) -> String {
        std::fs::read_to_string(&self.resolv_conf).unwrap_or_default()
    }
}

/// `listed` is what a list has brought until now.
fn apply(
    event: WatchEvent<Arc<ConfigMap>>,
    corefile: &mut Option<String>,
    listed: &mut Option<Option<String>>,
) {
    match event {
        WatchEvent::Init => *listed = Some(None),
        WatchEvent::InitApply(map) if is_ours(&map) => *listed = Some(text(&map)),
        WatchEvent::Apply(map) if is_ours(&map) => *corefile = text(&map),
        WatchEvent::InitDone => *corefile = listed.take().unwrap_or_default(),
        WatchEvent::Delete(map) if is_ours(&map) => *corefile = None,
        // One that does not decode: the last settings stay.
        WatchEvent::InitKeep(_) => *listed = Some(corefile.clone()),
        WatchEvent::InitApply(_)
        | WatchEvent::Apply(_)
        | WatchEvent::Delete(_)
        | WatchEvent::DeleteUnreadable(_) => {}
    }
}

fn is_ours(map: &ConfigMap) -> bool {
    map.metadata.namespace.as_deref() == Some(NAMESPACE) && map.metadata.name.as_deref() == Some(NAME)
}

fn text(map: &ConfigMap) -> Option<String> {
    map.data.as_ref()?.get(KEY).cloned()
}

fn compiled(domain: &str, inputs: &Inputs) -> Result<Settings, DomainError> {
    let resolv_conf = ResolvConf::parse(&inputs.resolv_conf);
    let mut settings = match &inputs.corefile {
        None => Settings::of_node(domain, &resolv_conf)?,
        Some(corefile) => {
            let (settings, problems) = corefile::compile(corefile, domain, &resolv_conf)?;
            for problem in problems {
                tracing::warn!(
                    config_map = %format_args!("{NAMESPACE}/{NAME}"),
                    line = problem.line,
                    problem = problem.text,
                    "a line of the Corefile has no effect"
                );
            }
            settings
        }
    };
    for forward in &mut settings.forwards {
        forward.upstreams.retain(|upstream| !inputs.own.contains(&upstream.addr.ip()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(namespace: &str, name: &str, corefile: &str) -> Arc<ConfigMap> {
        let map = json!({"metadata": {"namespace": namespace, "name": name}, "data": {KEY: corefile}});
        Arc::new(serde_json::from_value(map).unwrap())
    }

    #[test]
    fn the_text_is_that_of_the_one_map_and_none_without_it() {
        let (mut corefile, mut listed) = (None, None);
        let mut after = |event| {
            apply(event, &mut corefile, &mut listed);
            corefile.clone()
        };
        assert_eq!(after(WatchEvent::Init), None);
        assert_eq!(after(WatchEvent::InitApply(map("default", NAME, "other"))), None);
        assert_eq!(after(WatchEvent::InitApply(map(NAMESPACE, NAME, "a"))), None);
        assert_eq!(after(WatchEvent::InitDone).as_deref(), Some("a"));
        assert_eq!(after(WatchEvent::Apply(map(NAMESPACE, NAME, "b"))).as_deref(), Some("b"));
        assert_eq!(after(WatchEvent::Delete(map("default", NAME, "other"))).as_deref(), Some("b"));
        assert_eq!(after(WatchEvent::Init).as_deref(), Some("b"), "a list that has only begun");
        assert_eq!(after(WatchEvent::InitDone), None, "deleted while the watch was broken");
        assert_eq!(after(WatchEvent::Apply(map(NAMESPACE, NAME, "c"))).as_deref(), Some("c"));
        assert_eq!(after(WatchEvent::Delete(map(NAMESPACE, NAME, "c"))), None);
    }

    #[test]
    fn a_name_server_that_is_this_one_is_left_out() {
        let inputs = Inputs {
            resolv_conf: "nameserver 10.96.0.10\nnameserver 192.0.2.53\n".to_owned(),
            own: [IpAddr::from([10, 96, 0, 10])].into(),
            ..Inputs::default()
        };
        let upstreams = |inputs: &Inputs| -> Vec<String> {
            let settings = compiled("cluster.local", inputs).unwrap();
            settings.forwards.iter().flat_map(|f| &f.upstreams).map(|u| u.addr.to_string()).collect()
        };
        assert_eq!(upstreams(&inputs), ["192.0.2.53:53"]);
        let corefile = ".:53 {\n forward . /etc/resolv.conf\n}\n".to_owned();
        assert_eq!(upstreams(&Inputs { corefile: Some(corefile), ..inputs }), ["192.0.2.53:53"]);
    }
}
