//! What answers challenges. It is public: the gateway gives it to every client that asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::request::ChallengeKind;

/// Namespace and name of the ConfigMap that has the challenges of the moment. Its keys are tokens.
pub const CHALLENGES: (&str, &str) = ("kube-system", "skep-acme-challenges");

/// What an authority looks for, to see that the gateway serves a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub kind: ChallengeKind,
    pub host: Arc<str>,
    /// RFC 8555, 8.1.
    pub key_authorization: Arc<str>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    r#type: &'a str,
    host: &'a str,
    key_authorization: &'a str,
}

impl Challenge {
    /// As the ConfigMap has it.
    pub fn write(&self) -> String {
        let Challenge { kind, host, key_authorization } = self;
        let written = Written { r#type: kind.name(), host, key_authorization };
        // Texts become JSON always.
        serde_json::to_string(&written).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Challenge> {
        let Written { r#type, host, key_authorization } = serde_json::from_str(text).ok()?;
        let kind = ChallengeKind::parse(r#type)?;
        Some(Challenge { kind, host: host.into(), key_authorization: key_authorization.into() })
    }
}

/// Challenges by token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges(BTreeMap<Arc<str>, Challenge>);

impl Challenges {
    /// The ConfigMap's data. What is not a challenge is left out.
    pub fn parse(data: &BTreeMap<String, String>) -> Challenges {
        let of = |(token, text): (&String, &String)| Some((token.as_str().into(), Challenge::parse(text)?));
        Challenges(data.iter().filter_map(of).collect())
    }

    /// What a request for a token of a host is answered with.
    pub fn http(&self, host: &str, token: &str) -> Option<&Arc<str>> {
        let found = self.0.get(token)?;
        let matches = found.kind == ChallengeKind::Http && *found.host == *host;
        matches.then_some(&found.key_authorization)
    }

    /// The key authorization that the certificate for a handshake has.
    pub fn tls_alpn(&self, host: &str) -> Option<&Arc<str>> {
        let mut all = self.0.values();
        let found =
            all.find(|challenge| challenge.kind == ChallengeKind::TlsAlpn && *challenge.host == *host);
        found.map(|challenge| &challenge.key_authorization)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_for_its_host_and_in_its_way_only() {
        let challenge =
            |kind, host: &str| Challenge { kind, host: host.into(), key_authorization: "t.k".into() };
        let data = BTreeMap::from([
            ("a".to_owned(), challenge(ChallengeKind::Http, "a.com").write()),
            ("b".to_owned(), challenge(ChallengeKind::TlsAlpn, "b.com").write()),
            ("c".to_owned(), "{}".to_owned()),
        ]);
        let challenges = Challenges::parse(&data);
        assert_eq!(challenges.http("a.com", "a").map(|text| &**text), Some("t.k"));
        assert_eq!(challenges.tls_alpn("b.com").map(|text| &**text), Some("t.k"));
        for (host, token) in [("b.com", "a"), ("a.com", "b"), ("b.com", "b"), ("a.com", "c")] {
            assert_eq!(challenges.http(host, token), None, "{host} {token}");
        }
        assert_eq!(challenges.tls_alpn("a.com"), None);
    }
}
