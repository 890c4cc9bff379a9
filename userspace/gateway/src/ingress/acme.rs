//! The certificates that Ingresses ask for by annotation.

use super::Index;
use super::acme_facts::AcmeFacts;
use crate::acme::{Asked, ChallengeKind, Claims, Problem, Requests};
use crate::routing::HostPattern;

/// At nodes' own ports there are always both.
const CHALLENGES: [ChallengeKind; 2] = [ChallengeKind::Http, ChallengeKind::TlsAlpn];

impl Index {
    /// The certificates that the gateway's Ingresses and Gateways ask for. It is called after [`Index::compile`].
    pub fn acme_requests(&self) -> Requests {
        let mut requests = Requests::default();
        let routing = self.gateway_routing.as_ref().map(|(_, routing)| routing);
        let asks = |ingress: &super::IngressFacts| ingress.acme.is_some();
        let of_ingresses = self.claimed().any(|(_, facts)| asks(facts));
        if !of_ingresses && !routing.is_some_and(|routing| routing.asks_for_certificates()) {
            return requests;
        }
        let mut claims = Claims::default();
        for (key, facts) in self.claimed() {
            let hosts = facts.rules.iter().map(|rule| &rule.host);
            for host in hosts.chain(facts.tls.iter().flat_map(|tls| &tls.hosts)) {
                if let HostPattern::Exact(name) = host {
                    claims.add(name, facts.created, key);
                }
            }
        }
        routing.into_iter().for_each(|routing| routing.claim(&mut claims));
        for (_, facts) in self.claimed() {
            let Some(AcmeFacts { owner, request, secrets }) = facts.acme.as_deref() else { continue };
            if secrets.is_empty() {
                let fault = crate::acme::Fault::NoSecret;
                requests.problems.push(Problem { owner: owner.clone(), secret: "".into(), fault });
            }
            for (secret, names) in secrets {
                let (secret, names) = (secret.clone(), names.clone());
                let challenges = &CHALLENGES;
                requests.add(Asked { owner, request, secret, names, challenges }, &claims);
            }
        }
        routing.into_iter().for_each(|routing| routing.ask(&claims, &mut requests));
        requests
    }
}
