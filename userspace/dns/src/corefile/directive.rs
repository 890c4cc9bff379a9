//! Directives of a server block.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;

use super::problem::Problem;
use super::token::Line;
use crate::name;
use crate::resolv_conf::ResolvConf;
use crate::rewrite::{Match, Rewrite};
use crate::settings::{CacheLimits, Forward, PodNames, Settings, Transport, Upstream};

/// Directives that change nothing here: each is always so, or is about CoreDNS's own process.
const WITHOUT_EFFECT: [&str; 13] = [
    "bind",
    "bufsize",
    "cancel",
    "debug",
    "errors",
    "health",
    "lameduck",
    "loadbalance",
    "loop",
    "minimal",
    "prometheus",
    "ready",
    "reload",
];
/// Options of `forward` that change nothing: upstreams are always watched and raced.
const FORWARD_WITHOUT_EFFECT: [&str; 8] = [
    "policy",
    "max_fails",
    "expire",
    "health_check",
    "prefer_udp",
    "max_concurrent",
    "next",
    "failfast_all_unhealthy_upstreams",
];
const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 853;
/// TTLs of CoreDNS's cache in seconds, where a text gives none.
const CACHE_TTL: u32 = 3600;
const CACHE_DENIAL_TTL: u32 = 1800;
/// How long CoreDNS serves stale answers, where a text gives no time.
const STALE: Duration = Duration::from_secs(3600);
const PREFETCH: u32 = 10;

/// A server block that is being compiled.
pub(super) struct Zone<'a> {
    pub(super) name: Name,
    pub(super) settings: &'a mut Settings,
    pub(super) resolv_conf: &'a ResolvConf,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Zone<'_> {
    pub(super) fn apply(&mut self, line: &Line) {
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        let [directive, arguments @ ..] = words.as_slice() else { return };
        match *directive {
            "forward" => self.forward(line, arguments),
            "cache" => self.cache(line, arguments),
            "hosts" => self.hosts(line, arguments),
            "rewrite" => self.rewrite(line, arguments),
            "kubernetes" => self.kubernetes(line),
            "autopath" => self.settings.search = true,
            "log" => self.settings.log = true,
            directive if WITHOUT_EFFECT.contains(&directive) => {}
            directive => self.problem(line, format!("{directive} is not supported")),
        }
    }

    fn problem(&mut self, line: &Line, text: impl Into<String>) {
        self.problems.push(Problem { line: line.number, text: text.into() });
    }

    /// `forward FROM TO... { OPTIONS }`.
    fn forward(&mut self, line: &Line, arguments: &[&str]) {
        let [from, to @ ..] = arguments else {
            return self.problem(line, "forward needs a zone and servers");
        };
        let zone = match *from {
            "." => self.name.clone(),
            from => match name::parse(from) {
                Some(zone) => zone.to_lowercase(),
                None => return self.problem(line, format!("{from:?} is no zone")),
            },
        };
        let mut upstreams = Vec::new();
        for text in to {
            if text.starts_with('/') {
                // Whatever the file is: it is that of CoreDNS's container, which stands for the node's.
                upstreams.extend(self.resolv_conf.servers.iter().map(|ip| Upstream::plain(*ip)));
            } else {
                match upstream(text) {
                    Some(upstream) => upstreams.push(upstream),
                    None => self.problem(line, format!("{text:?} is no server")),
                }
            }
        }
        let mut except = Vec::new();
        for option in &line.body {
            let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["except", zones @ ..] => except.extend(zones.iter().filter_map(|zone| name::parse(zone))),
                ["force_tcp"] => {
                    let plain =
                        upstreams.iter_mut().filter(|upstream| upstream.transport == Transport::Plain);
                    plain.for_each(|upstream| upstream.transport = Transport::Tcp);
                }
                ["tls_servername", server] => {
                    for upstream in &mut upstreams {
                        if let Transport::Tls { name } = &mut upstream.transport {
                            *name = (*server).to_owned();
                        }
                    }
                }
                // The machine's authorities verify the servers.
                ["tls"] => {}
                [option, ..] if FORWARD_WITHOUT_EFFECT.contains(option) => {}
                _ => self.problem(option, format!("forward: {} is not supported", option.words.join(" "))),
            }
        }
        self.settings.forwards.push(Forward { zone, except, upstreams });
    }

    /// `cache [TTL] [ZONES...] { success, denial, prefetch, serve_stale }`. Capacities are bytes here, not answers.
    fn cache(&mut self, line: &Line, arguments: &[&str]) {
        let ttl = arguments.first().and_then(|text| text.parse::<u32>().ok());
        let mut limits = CacheLimits {
            positive_ttl: ttl.unwrap_or(CACHE_TTL),
            negative_ttl: ttl.unwrap_or(CACHE_DENIAL_TTL),
            stale: Duration::ZERO,
            prefetch: 0,
            ..CacheLimits::default()
        };
        for option in &line.body {
            let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
            let number = |at: usize| words.get(at).and_then(|text| text.parse::<u32>().ok());
            match words.first().copied().unwrap_or_default() {
                "success" => limits.positive_ttl = number(2).unwrap_or(limits.positive_ttl),
                "denial" => limits.negative_ttl = number(2).unwrap_or(limits.negative_ttl),
                "prefetch" => limits.prefetch = number(1).unwrap_or(PREFETCH),
                "serve_stale" => limits.stale = words.get(1).and_then(|text| duration(text)).unwrap_or(STALE),
                "servfail" | "keepttl" => {}
                other => self.problem(option, format!("cache: {other} is not supported")),
            }
        }
        self.settings.cache = limits;
    }

    /// `hosts { ADDRESS NAME...; ttl N; fallthrough }`.
    fn hosts(&mut self, line: &Line, arguments: &[&str]) {
        if !arguments.is_empty() {
            self.problem(line, "hosts: only entries in the block count, no file");
        }
        for entry in &line.body {
            let words: Vec<&str> = entry.words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["ttl", seconds] => match seconds.parse() {
                    Ok(seconds) => self.settings.hosts.ttl = seconds,
                    Err(_) => self.problem(entry, format!("{seconds:?} is no number of seconds")),
                },
                ["fallthrough" | "no_reverse" | "reload", ..] => {}
                [ip, names @ ..] => match ip.parse::<IpAddr>() {
                    Ok(ip) => {
                        let names = names.iter().filter_map(|name| name::parse(name));
                        names.for_each(|name| self.settings.hosts.insert(&name, ip));
                    }
                    Err(_) => self.problem(entry, format!("hosts: {ip:?} is no address")),
                },
                [] => {}
            }
        }
    }

    /// `rewrite [stop|continue] name [exact|prefix|suffix|substring] FROM TO [answer ...]`.
    fn rewrite(&mut self, line: &Line, arguments: &[&str]) {
        let rest = match arguments {
            ["stop", rest @ ..] => rest,
            rest => rest,
        };
        let (kind, from, to) = match rest {
            ["name", kind @ ("exact" | "prefix" | "suffix" | "substring"), from, to, ..] => {
                (*kind, *from, *to)
            }
            ["name", from, to] if *from != "regex" => ("exact", *from, *to),
            _ => return self.problem(line, format!("rewrite {} is not supported", arguments.join(" "))),
        };
        let (from, to) = (from.to_ascii_lowercase(), to.to_ascii_lowercase());
        // Names are compared with their final dot.
        let ended = |text: String| if text.ends_with('.') { text } else { format!("{text}.") };
        let rule = match kind {
            "prefix" => Rewrite { matches: Match::Prefix(from), to },
            "substring" => Rewrite { matches: Match::Substring(from), to },
            "suffix" => Rewrite { matches: Match::Suffix(ended(from)), to: ended(to) },
            _ => Rewrite { matches: Match::Exact(ended(from)), to: ended(to) },
        };
        self.settings.rewrites.push(rule);
    }

    /// `kubernetes [ZONES...] { ttl N; pods MODE }`. The zone is the cluster's domain, whatever the text names.
    fn kubernetes(&mut self, line: &Line) {
        for option in &line.body {
            let words: Vec<&str> = option.words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["ttl", seconds] => match seconds.parse() {
                    Ok(seconds) => self.settings.ttl = seconds,
                    Err(_) => self.problem(option, format!("{seconds:?} is no number of seconds")),
                },
                ["pods", "disabled"] => self.settings.pod_names = PodNames::None,
                ["pods", "insecure"] => self.settings.pod_names = PodNames::Spelled,
                ["pods", mode] => {
                    self.problem(option, format!("pods {mode} is not supported; no pod has a name"))
                }
                ["fallthrough" | "startup_timeout", ..] => {}
                _ => self.problem(option, format!("kubernetes: {} is not supported", option.words.join(" "))),
            }
        }
    }
}

/// `ADDRESS[:PORT]`, with `dns://` or `tls://` before it.
fn upstream(text: &str) -> Option<Upstream> {
    let (is_tls, text) = match text.strip_prefix("tls://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("dns://").unwrap_or(text)),
    };
    let port = if is_tls { TLS_PORT } else { DNS_PORT };
    let ip = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let addr = ip.map(|ip| SocketAddr::new(ip, port)).or_else(|_| text.parse::<SocketAddr>()).ok()?;
    let transport = if is_tls { Transport::Tls { name: addr.ip().to_string() } } else { Transport::Plain };
    Some(Upstream { addr, transport })
}

/// `90s`, `5m`, `1h`, or seconds.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "" | "s" => number,
        "m" => number.checked_mul(60)?,
        "h" => number.checked_mul(3600)?,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}
