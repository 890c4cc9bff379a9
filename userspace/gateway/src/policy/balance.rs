//! Which endpoint of a backend gets a request: in turn, by a key of the request, or the one that a cookie or a header names.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue};

use super::template::{Template, Values, cookie};

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, the one with less to do.
    #[default]
    Turns,
    /// Requests with the same text get the same endpoint; when endpoints change, few of them get another one.
    Hash(Template),
    /// Requests with the same text get one of so many endpoints.
    Subset(Template, usize),
    Cookie(SessionCookie),
    Header(SessionHeader),
}

/// A header of responses that names the endpoint; clients send it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionHeader {
    pub name: HeaderName,
    /// The session ends that long after it began.
    pub lifetime: Option<Duration>,
}

/// A cookie that names the endpoint of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionCookie {
    pub name: Box<str>,
    /// What follows its value: `; Path=/; HttpOnly`.
    pub attributes: Box<str>,
    /// The session ends that long after it began, whatever the client does with the cookie.
    pub lifetime: Option<Duration>,
    /// An endpoint that fails is replaced in the cookie; otherwise the cookie stays, and the next request tries it again.
    pub changes_on_failure: bool,
    /// `SameSite=None` is left out for clients that take it for something else.
    pub is_none_conditional: bool,
}

/// What an endpoint is chosen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Preference {
    #[default]
    Turns,
    Key(u64),
    /// One of the first endpoints of a key.
    Subset(u64, usize),
    Endpoint(u64),
}

impl Balance {
    /// `now`: since 1970, as the clocks of all nodes have it.
    pub(crate) fn preference(&self, values: &Values<'_>, now: Duration) -> Preference {
        match self {
            Balance::Turns => Preference::Turns,
            Balance::Hash(key) => Preference::Key(hash(&key.fill(values))),
            Balance::Subset(key, size) => Preference::Subset(hash(&key.fill(values)), *size),
            Balance::Cookie(session) => {
                let text = cookie(values.headers, &session.name);
                Preference::of_session(text, session.lifetime, now)
            }
            Balance::Header(session) => {
                let text = values.headers.get(&session.name).and_then(|value| value.to_str().ok());
                Preference::of_session(text, session.lifetime, now)
            }
        }
    }

    /// The header of a session for a response; `None`: the request has one that stays. `exists`: whether the backend has an
    /// endpoint. `now`: since 1970.
    pub(crate) fn session(
        &self,
        asked: Preference,
        endpoint: u64,
        exists: impl Fn(u64) -> bool,
        user_agent: Option<&HeaderValue>,
        now: Duration,
    ) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Balance::Turns | Balance::Hash(_) | Balance::Subset(..) => None,
            Balance::Cookie(session) => {
                session.set(asked, endpoint, exists, user_agent, now).map(|cookie| (SET_COOKIE, cookie))
            }
            Balance::Header(_) if asked == Preference::Endpoint(endpoint) => None,
            Balance::Header(session) => {
                let value = HeaderValue::from_str(&session_text(endpoint, session.lifetime, now));
                value.ok().map(|value| (session.name.clone(), value))
            }
        }
    }
}

impl Preference {
    fn of_session(text: Option<&str>, lifetime: Option<Duration>, now: Duration) -> Preference {
        match text.and_then(|text| endpoint_of(text, lifetime, now)) {
            Some(endpoint) => Preference::Endpoint(endpoint),
            None => Preference::Turns,
        }
    }
}

/// What a session says: its endpoint, and, if it ends, when it began, in milliseconds since 1970.
fn session_text(endpoint: u64, lifetime: Option<Duration>, now: Duration) -> String {
    match lifetime {
        Some(_) => format!("{endpoint:016x}.{:x}", now.as_millis()),
        None => format!("{endpoint:016x}"),
    }
}

/// The endpoint that a session names; `None`: it has ended, or says something else.
fn endpoint_of(text: &str, lifetime: Option<Duration>, now: Duration) -> Option<u64> {
    let (endpoint, begun) = text.split_once('.').unwrap_or((text, ""));
    if let Some(lifetime) = lifetime {
        let begun = Duration::from_millis(u64::from_str_radix(begun, 16).ok()?);
        // Another node may have begun it, whose clock is ahead.
        if now.saturating_sub(begun) >= lifetime {
            return None;
        }
    }
    u64::from_str_radix(endpoint, 16).ok()
}

impl SessionCookie {
    /// As [`Balance::session`].
    fn set(
        &self,
        asked: Preference,
        endpoint: u64,
        exists: impl Fn(u64) -> bool,
        user_agent: Option<&HeaderValue>,
        now: Duration,
    ) -> Option<HeaderValue> {
        let attributes = match self.is_none_conditional && user_agent.is_some_and(misreads_none) {
            true => self.attributes.replace("; SameSite=None", ""),
            false => self.attributes.to_string(),
        };
        match asked {
            Preference::Endpoint(known) if known == endpoint || exists(known) && !self.changes_on_failure => {
                None
            }
            _ => {
                let value = session_text(endpoint, self.lifetime, now);
                HeaderValue::from_str(&format!("{}={value}{attributes}", self.name)).ok()
            }
        }
    }
}

/// Browsers that refuse `SameSite=None` or take it for `Strict` (the Chromium project's list of incompatible clients).
fn misreads_none(user_agent: &HeaderValue) -> bool {
    let Ok(text) = user_agent.to_str() else { return false };
    let chrome = text.split_once("Chrome/").or_else(|| text.split_once("Chromium/"));
    let version = chrome.and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
    let is_old_chrome = version.is_some_and(|version| (51..67).contains(&version));
    let is_old_ios = text.contains("iP") && text.contains("OS 12_");
    let is_old_mac = text.contains("Mac OS X 10_14") && text.contains("Safari") && version.is_none();
    is_old_chrome || is_old_ios || is_old_mac
}

/// Of a text; the same on every node.
pub(crate) fn hash(text: &str) -> u64 {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// How much a key prefers an endpoint: the highest wins (rendezvous hashing).
pub(crate) fn weight(key: u64, endpoint: u64) -> u64 {
    // The finaliser of SplitMix64.
    let mut mixed = key ^ endpoint.rotate_left(32);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_endpoint_unless_that_one_goes() {
        let endpoints: Vec<u64> = (0..10).map(|number| hash(&format!("192.0.2.{number}:80"))).collect();
        let chosen = |key: u64, endpoints: &[u64]| {
            endpoints.iter().copied().max_by_key(|endpoint| weight(key, *endpoint)).unwrap()
        };
        let keys: Vec<u64> = (0..10_000).map(|number| hash(&format!("key {number}"))).collect();
        for endpoint in &endpoints {
            let count = keys.iter().filter(|key| chosen(**key, &endpoints) == *endpoint).count();
            assert!((800..1_200).contains(&count), "{count}");
        }
        for key in keys {
            let (before, after) = (chosen(key, &endpoints), chosen(key, &endpoints[1..]));
            assert!(before == after || before == endpoints[0]);
        }
    }

    #[test]
    fn a_cookie_is_set_when_it_names_another_endpoint() {
        let session = SessionCookie {
            name: "S".into(),
            attributes: "; Path=/; SameSite=None".into(),
            is_none_conditional: true,
            ..SessionCookie::default()
        };
        let set = |asked, agent: &str| {
            let agent = HeaderValue::from_str(agent).unwrap();
            session.set(asked, 0xab, |known| known == 2, Some(&agent), Duration::ZERO)
        };
        assert_eq!(set(Preference::Endpoint(0xab), ""), None);
        // Endpoint 2 is there and failed, endpoint 1 is gone.
        assert_eq!(set(Preference::Endpoint(2), ""), None);
        assert_eq!(set(Preference::Turns, "").unwrap(), "S=00000000000000ab; Path=/; SameSite=None");
        assert_eq!(set(Preference::Endpoint(1), "Chrome/58.0").unwrap(), "S=00000000000000ab; Path=/");
    }

    #[test]
    fn a_session_ends_its_lifetime_after_it_began() {
        let hour = Some(Duration::from_secs(3600));
        let begun = Duration::from_secs(1_800_000_000);
        let text = session_text(0xab, hour, begun);
        assert_eq!(text, "00000000000000ab.1a3185c5000");
        let after = |seconds| endpoint_of(&text, hour, begun + Duration::from_secs(seconds));
        assert_eq!((after(0), after(3_599), after(3_600)), (Some(0xab), Some(0xab), None));
        // The clock of this node is behind.
        assert_eq!(endpoint_of(&text, hour, begun - Duration::from_secs(5)), Some(0xab));
        // Begun while the route had another lifetime, or none.
        assert_eq!(endpoint_of(&text, None, begun), Some(0xab));
        assert_eq!(endpoint_of(&session_text(0xab, None, begun), hour, begun), None);
        for bad in ["", ".", "ab.", ".ab", "x.1", "ab.x", "ab.1.1"] {
            assert_eq!(endpoint_of(bad, hour, begun), None, "{bad}");
        }
    }
}
