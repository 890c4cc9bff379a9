//! Random NetworkPolicies over a few pods, the same for the same seed.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

/// A small generator (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// What policies may name: values of the label `app`, networks, ports. All pods are in the namespace `default`.
pub struct Named<'a> {
    pub apps: &'a [&'a str],
    pub networks: &'a [&'a str],
    pub ports: &'a [u16],
}

impl Named<'_> {
    /// So many policies; of three, one isolates for ingress, one for egress and one for both.
    pub fn policies(&self, random: &mut Random, count: usize) -> Vec<NetworkPolicy> {
        let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])];
        let mut policy = |n: usize| {
            let mut rules =
                |side: &str| (0..random.below(3)).map(|_| self.rule(random, side)).collect::<Vec<_>>();
            let (ingress, egress) = (rules("from"), rules("to"));
            let value = json!({
                "metadata": {"namespace": "default", "name": format!("policy-{n}")},
                "spec": {"podSelector": self.selector(random), "policyTypes": types[n % 3],
                         "ingress": ingress, "egress": egress},
            });
            serde_json::from_value(value).expect("a NetworkPolicy")
        };
        (0..count).map(&mut policy).collect()
    }

    /// Selects one of the pods, or all.
    fn selector(&self, random: &mut Random) -> Value {
        match random.below(self.apps.len() + 1) {
            at if at < self.apps.len() => json!({"matchLabels": {"app": self.apps[at]}}),
            _ => json!({}),
        }
    }

    fn rule(&self, random: &mut Random, side: &str) -> Value {
        let mut rule = json!({});
        if random.chance(70) {
            let of_network = !self.networks.is_empty() && random.chance(40);
            rule[side] = match of_network {
                true => json!([{"ipBlock": {"cidr": random.pick(self.networks)}}]),
                false => json!([{"podSelector": self.selector(random)}]),
            };
        }
        if random.chance(70) {
            let protocol = random.pick(&["TCP", "UDP", "SCTP"]);
            rule["ports"] = json!([{"protocol": protocol, "port": random.pick(self.ports)}]);
        }
        rule
    }
}
