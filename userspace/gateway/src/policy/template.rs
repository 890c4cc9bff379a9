//! Texts with variables of the request, in nginx' notation: `$request_uri`, `${host}`, `$http_NAME`.

use std::net::IpAddr;

use http::header::{COOKIE, HeaderMap};
use http::{HeaderName, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A text and its variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Host,
    HttpHost,
    RequestUri,
    EscapedRequestUri,
    Path,
    Query,
    Scheme,
    Method,
    Client,
    Port,
    Header(HeaderName),
    Cookie(Box<str>),
    Parameter(Box<str>),
}

/// A variable that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the variable ${0} is not served")]
pub struct UnknownVariable(Box<str>);

/// What variables stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    pub(crate) method: &'a Method,
    pub(crate) is_tls: bool,
    pub(crate) client: IpAddr,
    pub(crate) port: u16,
    /// Without a port.
    pub(crate) host: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, UnknownVariable> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let (name, after) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some(braced) => braced,
                None => {
                    let is_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
                    after.split_at(after.find(|byte| !is_name(byte)).unwrap_or(after.len()))
                }
            };
            parts.push(Part::Variable(variable(name)?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Template(parts))
    }

    pub(crate) fn fill(&self, values: &Values<'_>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(variable) => values.write(variable, &mut out),
            }
        }
        out
    }
}

fn variable(name: &str) -> Result<Variable, UnknownVariable> {
    let unknown = || UnknownVariable(name.into());
    Ok(match name {
        "host" | "server_name" | "best_http_host" => Variable::Host,
        "http_host" => Variable::HttpHost,
        "request_uri" => Variable::RequestUri,
        "escaped_request_uri" => Variable::EscapedRequestUri,
        "uri" | "document_uri" => Variable::Path,
        "args" | "query_string" => Variable::Query,
        "scheme" | "pass_access_scheme" => Variable::Scheme,
        "request_method" => Variable::Method,
        "remote_addr" | "binary_remote_addr" | "the_real_ip" => Variable::Client,
        "server_port" | "pass_server_port" => Variable::Port,
        _ => match (name.strip_prefix("http_"), name.strip_prefix("cookie_"), name.strip_prefix("arg_")) {
            (Some(header), ..) => {
                let header = header.replace('_', "-");
                Variable::Header(HeaderName::try_from(header).map_err(|_| unknown())?)
            }
            (_, Some(cookie), _) if !cookie.is_empty() => Variable::Cookie(cookie.into()),
            (_, _, Some(parameter)) if !parameter.is_empty() => Variable::Parameter(parameter.into()),
            _ => return Err(unknown()),
        },
    })
}

impl Values<'_> {
    fn write(&self, variable: &Variable, out: &mut String) {
        match variable {
            Variable::Host => out.push_str(self.host),
            Variable::HttpHost => out.push_str(self.authority),
            Variable::RequestUri => self.write_request_uri(out),
            Variable::EscapedRequestUri => {
                let mut uri = String::new();
                self.write_request_uri(&mut uri);
                out.extend(utf8_percent_encode(&uri, NON_ALPHANUMERIC));
            }
            Variable::Path => out.push_str(self.path),
            Variable::Query => out.push_str(self.query.unwrap_or_default()),
            Variable::Scheme => out.push_str(if self.is_tls { "https" } else { "http" }),
            Variable::Method => out.push_str(self.method.as_str()),
            Variable::Client => out.push_str(&self.client.to_canonical().to_string()),
            Variable::Port => out.push_str(&self.port.to_string()),
            Variable::Header(name) => {
                let value = self.headers.get(name).and_then(|value| value.to_str().ok());
                out.push_str(value.unwrap_or_default());
            }
            Variable::Cookie(name) => out.push_str(cookie(self.headers, name).unwrap_or_default()),
            Variable::Parameter(name) => {
                let pairs = self.query.unwrap_or_default().split('&');
                let found = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == &**name);
                out.push_str(found.map_or("", |(_, value)| value));
            }
        }
    }

    fn write_request_uri(&self, out: &mut String) {
        out.push_str(self.path);
        if let Some(query) = self.query {
            out.push('?');
            out.push_str(query);
        }
    }
}

/// The value of a cookie (RFC 6265, 5.4).
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn variables_are_those_of_the_request() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("ann"));
        headers.insert(COOKIE, HeaderValue::from_static("a=1; b=two"));
        let values = Values {
            method: &Method::GET,
            is_tls: true,
            client: "192.0.2.1".parse().unwrap(),
            port: 443,
            host: "a.com",
            authority: "A.com:443",
            path: "/p",
            query: Some("q=1&r=x"),
            headers: &headers,
        };
        for (text, filled) in [
            ("", ""),
            ("plain", "plain"),
            ("$request_uri", "/p?q=1&r=x"),
            ("${uri}-x", "/p-x"),
            ("$scheme://$http_host$uri", "https://A.com:443/p"),
            ("$host$request_method$remote_addr$server_port", "a.comGET192.0.2.1443"),
            ("$http_x_user:$http_missing:$cookie_b:$cookie_c:$arg_r", "ann::two::x"),
            ("$escaped_request_uri", "%2Fp%3Fq%3D1%26r%3Dx"),
            ("$args", "q=1&r=x"),
        ] {
            assert_eq!(Template::parse(text).unwrap().fill(&values), filled, "{text}");
        }
        for text in ["$", "$nothing", "${x}", "$cookie_", "a$1"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
