//! Session persistence (GEP-1619): a cookie or a header names the endpoint of a client. PURE.

use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};

use super::conditions::Fault;
use super::filters::duration;
use super::kinds::SessionSpec;
use super::objects::Key;
use crate::headers::frames_message;
use crate::policy::{Balance, Policy, SessionCookie, SessionHeader, hash};

/// They have another meaning.
const TAKEN: [HeaderName; 5] = [AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, SET_COOKIE];

impl SessionSpec {
    fn is_header(&self) -> bool {
        self.r#type.as_deref() == Some("Header")
    }

    fn is_permanent(&self) -> bool {
        let config = self.cookie_config.as_ref();
        config.and_then(|config| config.lifetime_type.as_deref()) == Some("Permanent")
    }
}

/// The policy of a rule of a route with sessions.
pub(super) fn policy(
    spec: Option<&SessionSpec>,
    route: &Key,
    rule: usize,
) -> Result<Option<Arc<Policy>>, Fault> {
    let Some(spec) = spec else { return Ok(None) };
    // A name of its own: an endpoint of one rule is none of another.
    let own = || format!("skep-session-{:016x}", hash(&format!("{route}/{rule}")));
    let name = spec.session_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(own);
    let bad = || Fault::new("UnsupportedValue", format!("{name} cannot be the name of a session"));
    // Cookies and headers have tokens as names (RFC 6265, 4.1.1; RFC 9110, 5.1).
    let header = HeaderName::from_str(&name).map_err(|_| bad())?;
    let lifetime = spec.absolute_timeout.as_deref().map(duration).transpose()?;
    let balance = if spec.is_header() {
        if frames_message(&header) || TAKEN.contains(&header) {
            return Err(bad());
        }
        Balance::Header(SessionHeader { name: header, lifetime })
    } else {
        let mut attributes = "; Path=/; HttpOnly".to_owned();
        if spec.is_permanent() {
            let lifetime = lifetime.ok_or_else(|| {
                Fault::new("UnsupportedValue", "a permanent cookie of a session needs an absoluteTimeout")
            })?;
            attributes.push_str(&format!("; Max-Age={}", lifetime.as_secs()));
        }
        Balance::Cookie(SessionCookie {
            name: name.as_str().into(),
            attributes: attributes.into(),
            lifetime,
            ..SessionCookie::default()
        })
    };
    Ok(Some(Arc::new(Policy { balance, ..Policy::default() })))
}
