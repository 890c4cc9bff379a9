//! What endpoints say of hosts and paths, in terms of what clients see: cookies and redirects.

use http::header::{HeaderMap, HeaderValue, LOCATION, REFRESH, SET_COOKIE};

/// Texts that are replaced, from and to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseRewrites {
    /// Of the `Domain` of cookies.
    pub cookie_domain: Option<(Box<str>, Box<str>)>,
    /// At the beginning of the `Path` of cookies.
    pub cookie_path: Option<(Box<str>, Box<str>)>,
    /// At the beginning of `Location` and of the address in `Refresh`.
    pub location: Option<(Box<str>, Box<str>)>,
}

impl ResponseRewrites {
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        if (self.cookie_domain.is_some() || self.cookie_path.is_some()) && headers.contains_key(SET_COOKIE) {
            let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
            headers.remove(SET_COOKIE);
            for cookie in cookies {
                headers.append(SET_COOKIE, self.cookie(&cookie).unwrap_or(cookie));
            }
        }
        let Some((from, to)) = &self.location else { return };
        if let Some(location) = text(headers.get(LOCATION)) {
            replace(headers, LOCATION, location.strip_prefix(&**from).map(|rest| format!("{to}{rest}")));
        }
        if let Some((before, address)) = text(headers.get(REFRESH)).and_then(|text| {
            let at = text.to_ascii_lowercase().find("url=")? + 4;
            Some((text.get(..at)?.to_owned(), text.get(at..)?.to_owned()))
        }) {
            let changed = address.strip_prefix(&**from).map(|rest| format!("{before}{to}{rest}"));
            replace(headers, REFRESH, changed);
        }
    }

    fn cookie(&self, cookie: &HeaderValue) -> Option<HeaderValue> {
        let mut parts: Vec<String> = cookie.to_str().ok()?.split(';').map(str::to_owned).collect();
        for part in parts.iter_mut().skip(1) {
            let Some((name, value)) = part.split_once('=') else { continue };
            let (name, value) = (name.trim(), value.trim());
            let changed = match &*name.to_ascii_lowercase() {
                "domain" => self.cookie_domain.as_ref().and_then(|(from, to)| {
                    let plain = |text: &str| text.trim_start_matches('.').to_ascii_lowercase();
                    (plain(value) == plain(from)).then(|| to.to_string())
                }),
                "path" => self
                    .cookie_path
                    .as_ref()
                    .and_then(|(from, to)| Some(format!("{to}{}", value.strip_prefix(&**from)?))),
                _ => None,
            };
            if let Some(changed) = changed {
                *part = format!(" {name}={changed}");
            }
        }
        HeaderValue::from_str(&parts.join(";")).ok()
    }
}

fn text(value: Option<&HeaderValue>) -> Option<String> {
    value?.to_str().ok().map(str::to_owned)
}

fn replace(headers: &mut HeaderMap, name: http::HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_and_redirects_name_what_clients_see() {
        let pair = |from: &str, to: &str| Some((from.into(), to.into()));
        let rewrites = ResponseRewrites {
            cookie_domain: pair("localhost", "a.com"),
            cookie_path: pair("/inner", "/outer"),
            location: pair("http://inner/", "https://a.com/app/"),
        };
        for (name, value, wanted) in [
            (
                SET_COOKIE,
                "s=1; Domain=.LOCALHOST; Path=/inner/x; Secure",
                "s=1; Domain=a.com; Path=/outer/x; Secure",
            ),
            (SET_COOKIE, "domain=localhost; domain=other", "domain=localhost; domain=other"),
            (LOCATION, "http://inner/x", "https://a.com/app/x"),
            (LOCATION, "http://other/", "http://other/"),
            (REFRESH, "5; url=http://inner/", "5; url=https://a.com/app/"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name.clone(), HeaderValue::from_str(value).unwrap());
            rewrites.apply(&mut headers);
            assert_eq!(headers[name], wanted, "{value}");
        }
    }
}
