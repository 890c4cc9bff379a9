//! PURE. Settings from a Corefile, the text by which CoreDNS is configured.
//!
//! In: the text, the node's resolv.conf. Out: [`Settings`], and a [`Problem`] for each line that has no effect here. What is
//! understood counts, whatever the other lines are. As in CoreDNS, what a text does not mention is off: cache, search, names of pods.

mod directive;
mod problem;
mod token;

use std::time::Duration;

use hickory_proto::rr::Name;

use crate::name;
use crate::resolv_conf::ResolvConf;
use crate::settings::{CacheLimits, DomainError, PodNames, Settings};
use directive::Zone;
pub use problem::Problem;
use token::parse_blocks;

/// Compiles the text for a cluster of the domain.
pub fn compile(
    text: &str,
    domain: &str,
    resolv_conf: &ResolvConf,
) -> Result<(Settings, Vec<Problem>), DomainError> {
    let mut settings = Settings::new(domain)?;
    settings.node_searches.clone_from(&resolv_conf.searches);
    settings.search = false;
    settings.pod_names = PodNames::None;
    settings.cache = CacheLimits { bytes: 0, stale: Duration::ZERO, prefetch: 0, ..CacheLimits::default() };
    let mut problems = Vec::new();
    for block in parse_blocks(text, &mut problems) {
        let mut zones = Vec::new();
        for label in &block.labels {
            match zone(label) {
                Some(zone) => zones.push(zone),
                None => problems.push(Problem { line: block.line, text: format!("{label:?} is no zone") }),
            }
        }
        for zone in zones {
            let mut zone = Zone { name: zone, settings: &mut settings, resolv_conf, problems: &mut problems };
            block.body.iter().for_each(|directive| zone.apply(directive));
        }
    }
    settings.forwards.dedup();
    problems.sort_by_key(|problem| problem.line);
    problems.dedup();
    Ok((settings, problems))
}

/// The zone of a label such as `.:53`, `dns://example.org` or `example.org:1053`. The port has no effect: there is one server.
fn zone(label: &str) -> Option<Name> {
    let text = label.strip_prefix("dns://").unwrap_or(label);
    let text =
        text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(text, |(text, _)| text);
    match text {
        "." | "" => Some(Name::root()),
        text => name::parse(text).map(|name| name.to_lowercase()),
    }
}

#[cfg(test)]
mod tests;
