//! Corefiles as they are written for CoreDNS.

use std::time::Duration;

use super::*;
use crate::rewrite::Match;
use crate::settings::Transport;

fn compiled(text: &str) -> (Settings, Vec<String>) {
    let conf = ResolvConf::parse("nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch corp.example\n");
    let (settings, problems) = compile(text, "cluster.local", &conf).unwrap();
    (settings, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn the_corefile_of_kubeadm_is_understood() {
    let (settings, problems) = compiled(
        ".:53 {
            errors
            health {
               lameduck 5s
            }
            ready
            kubernetes cluster.local in-addr.arpa ip6.arpa {
               pods insecure
               fallthrough in-addr.arpa ip6.arpa
               ttl 30
            }
            prometheus :9153
            forward . /etc/resolv.conf {
               max_concurrent 1000
            }
            cache 30 {
               disable success cluster.local
            }
            loop
            reload
            loadbalance
        }",
    );
    assert_eq!(problems, ["line 17: cache: disable is not supported"]);
    assert_eq!((settings.ttl, settings.pod_names, settings.search), (30, PodNames::Spelled, false));
    assert_eq!((settings.cache.positive_ttl, settings.cache.negative_ttl), (30, 30));
    let [forward] = settings.forwards.as_slice() else { panic!("{:?}", settings.forwards) };
    assert!(forward.zone.is_root());
    let servers: Vec<String> = forward.upstreams.iter().map(|upstream| upstream.addr.to_string()).collect();
    assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:53"]);
}

#[test]
fn stub_zones_tls_hosts_and_rewrites() {
    let (settings, problems) = compiled(
        "# Two blocks.
        . {
            rewrite name suffix .old.example .default.svc.cluster.local answer auto
            rewrite stop name exact db.example db.default.svc.cluster.local
            hosts {
                192.0.2.1 a.example b.example  # two names
                ttl 60
                fallthrough
            }
            forward . tls://192.0.2.9 tls://[2001:db8::9]:8853 {
                tls_servername dns.example
                except internal.example
            }
            cache {
                prefetch 5
                serve_stale 2h
                success 9000 100
                denial 9000 7
            }
            autopath @kubernetes
            log
        }
        corp.example:53, lab.example {
            forward . 10.0.0.53:5353 {
                force_tcp
            }
        }",
    );
    assert_eq!(problems, [] as [&str; 0]);
    assert!(settings.search && settings.log);
    assert_eq!(settings.rewrites[0].matches, Match::Suffix(".old.example.".into()));
    assert_eq!(settings.rewrites[1].to, "db.default.svc.cluster.local.");
    assert_eq!(settings.hosts.ttl, 60);
    let limits = settings.cache;
    assert_eq!((limits.positive_ttl, limits.negative_ttl, limits.prefetch), (100, 7, 5));
    assert_eq!(limits.stale, Duration::from_secs(7200));
    let at = |text: &str| {
        let forward = settings.forward_for(&name::parse(text).unwrap());
        forward.map(|forward| (forward.zone.to_ascii(), forward.upstreams[0].clone()))
    };
    let (zone, tls) = at("www.example.org").unwrap();
    assert_eq!((zone.as_str(), tls.addr.to_string().as_str()), (".", "192.0.2.9:853"));
    assert_eq!(tls.transport, Transport::Tls { name: "dns.example".into() });
    assert_eq!(settings.forwards[0].upstreams[1].addr.to_string(), "[2001:db8::9]:8853");
    let (zone, stub) = at("Host.LAB.example").unwrap();
    assert_eq!((zone.as_str(), stub.addr.to_string().as_str()), ("lab.example.", "10.0.0.53:5353"));
    assert_eq!(stub.transport, Transport::Tcp);
    assert_eq!(at("a.internal.example"), None);
}

#[test]
fn what_is_not_understood_is_named_and_the_rest_counts() {
    let (settings, problems) = compiled(
        ".:53 {
            template IN A { answer x }
            forward . nowhere 192.0.2.1
            rewrite name regex (.*) x
            hosts /etc/hosts
            kubernetes { pods verified }
        }
        }
        open {
            log",
    );
    let expected = [
        "line 2: template is not supported",
        "line 3: \"nowhere\" is no server",
        "line 4: rewrite name regex (.*) x is not supported",
        "line 5: hosts: only entries in the block count, no file",
        "line 8: a brace that closes nothing",
        "line 9: the block has no end",
    ];
    assert_eq!(problems, expected);
    assert_eq!(settings.forwards[0].upstreams.len(), 1);
}
