//! Numbers made from content, which stay the same over restarts and versions of the agent.
//!
//! The maps in the kernel hold them, so a new agent recognises what its predecessor wrote. Equal content gives an equal
//! number; two contents may share one, and then the caller numbers the second one otherwise. Where numbers differ from
//! those in the kernel, as after a change of these functions, the agent compiles a new generation and swaps to it.

use skep_abi::{Proto, StableHasher};

use crate::entries::{RuleId, VerdictEntry};
use crate::model::Peer;

pub(crate) fn rule_hash(rule: &RuleId) -> u64 {
    let RuleId { policy, direction, index } = rule;
    let hasher = StableHasher::new().text(&policy.namespace).text(&policy.name);
    hasher.u8(direction.0).u64(*index as u64).finish()
}

fn peer_hash(peer: &Peer) -> u64 {
    let hasher = StableHasher::new();
    match peer {
        Peer::Pods { namespace, pods } => pods.hash_into(hasher.u8(0).text(namespace)),
        Peer::Namespaces { namespaces, pods } => pods.hash_into(namespaces.hash_into(hasher.u8(1))),
        Peer::Block(block) => {
            [block.cidr].iter().chain(&block.except).fold(hasher.u8(2), |hasher, network| {
                let (bits, addr) = crate::entries::prefix_of(network);
                hasher.u32(bits).bytes(&addr.octets())
            })
        }
    }
    .finish()
}

/// Of a rule's peers, in any order.
pub(crate) fn peers_hash(peers: &[Peer]) -> u64 {
    let mut hashes: Vec<u64> = peers.iter().map(peer_hash).collect();
    hashes.sort_unstable();
    hashes
        .iter()
        .fold(StableHasher::new().u64(hashes.len() as u64), |hasher, peer| hasher.u64(*peer))
        .finish()
}

/// Of a class: the sorted hashes of its sets of peers, then name, protocol and number of its named ports.
pub(crate) fn class_hash(sets: &[u64], ports: &[(&str, Proto, u16)]) -> u64 {
    let hasher = sets.iter().fold(StableHasher::new().u64(sets.len() as u64), |h, set| h.u64(*set));
    ports.iter().fold(hasher, |h, (name, proto, port)| h.text(name).u8(proto.0).u16(*port)).finish()
}

/// Of a verdict map's content.
pub(crate) fn verdicts_hash(entries: &[VerdictEntry]) -> u64 {
    entries
        .iter()
        .fold(StableHasher::new(), |hasher, (bits, key, verdict)| {
            let hasher = hasher.u32(*bits).u8(key.direction.0).bytes(&key.class);
            hasher.u8(key.proto.0).u16(key.port.get()).u32(verdict.allow).u32(verdict.rule)
        })
        .finish()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use serde_json::{Value, json};
    use skep_abi::{Be16, Direction, Verdict, VerdictKey};

    use super::*;
    use crate::model::{IpBlock, PolicyKey};
    use crate::select::Selector;

    fn selector(value: Value) -> Selector {
        Selector::parse(&serde_json::from_value::<LabelSelector>(value).unwrap()).unwrap()
    }

    #[test]
    fn numbers_are_the_same_in_every_version() {
        let app = || selector(json!({"matchLabels": {"app": "web"}}));
        let expressions = selector(json!({"matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["a", "b"]},
            {"key": "x", "operator": "Exists"},
            {"key": "y", "operator": "DoesNotExist"},
        ]}));
        let block = IpBlock {
            cidr: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
        };
        let key = VerdictKey::new(Direction::EGRESS, 7, Proto::TCP, Be16::new(443));
        let hashes = [
            rule_hash(&RuleId {
                policy: PolicyKey { namespace: "ns".into(), name: "allow-web".into() },
                direction: Direction::EGRESS,
                index: 2,
            }),
            peer_hash(&Peer::Pods { namespace: "ns".into(), pods: app() }),
            peer_hash(&Peer::Namespaces { namespaces: expressions, pods: app() }),
            peer_hash(&Peer::Block(block)),
            class_hash(&[1, 2], &[("http", Proto::TCP, 8080)]),
            verdicts_hash(&[(VerdictKey::PORT_BITS, key, Verdict { allow: 1, rule: 9 })]),
        ];
        let expected = [
            0xb41b_eafa_332f_6ea6,
            0x9634_2055_6738_5de5,
            0x8cbd_3ac2_c57f_cd64,
            0xddda_83c2_9c5e_3a65,
            0x0f28_1e23_90c9_ef13,
            0x10d9_c3a2_ff8e_4d66,
        ];
        assert_eq!(hashes, expected);
    }
}
