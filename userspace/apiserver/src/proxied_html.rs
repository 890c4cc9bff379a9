//! Rewrites the links of HTML pages that pass through the API server's proxy, so that they stay below the proxy's path.
//!
//! In: the page in pieces, where it comes from and below which path the client sees it. Out: the page with the URL values of
//! tags replaced, all else byte for byte. Which attributes have URLs: the HTML standard's list of attributes.

use std::io::Write as _;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};

/// A tag that is longer is passed on as it is.
const MAX_TAG_BYTES: usize = 64 << 10;

/// Attributes with a URL, by tag.
const URL_ATTRIBUTES: [(&str, &[&str]); 29] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("style", &[]),
    ("textarea", &[]),
    ("title", &[]),
    ("video", &["poster", "src"]),
    ("xmp", &[]),
];

/// Elements whose content has no tags.
const RAW: [&str; 5] = ["script", "style", "textarea", "title", "xmp"];

/// Where a page comes from, and where the client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    /// The proxied server's hosts: its address, and the host that the client asked.
    pub(crate) hosts: Vec<String>,
    /// The path up to and including `proxy`, percent-encoded, with or without a slash at its end.
    pub(crate) prefix: String,
}

impl Links {
    /// The URL below the prefix; `None` if it leads elsewhere, is relative or is below it already.
    pub(crate) fn moved(&self, url: &str) -> Option<String> {
        let after_scheme =
            ["http:", "https:"].iter().find_map(|scheme| url.strip_prefix(scheme)).unwrap_or(url);
        let path = match after_scheme.strip_prefix("//") {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                self.hosts.iter().any(|own| own == host).then_some(path)?
            }
            None => after_scheme,
        };
        let prefix = self.prefix.trim_end_matches('/');
        let is_below = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (path.starts_with('/') && !is_below).then(|| format!("{prefix}{path}"))
    }
}

/// The answer with its links rewritten, if it is an HTML page.
pub(crate) fn rewritten(answer: Response, links: Links) -> Response {
    let text = |headers: &HeaderMap, name| -> String {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    };
    if text(answer.headers(), CONTENT_TYPE) != "text/html" {
        return answer;
    }
    let coding = match text(answer.headers(), CONTENT_ENCODING).as_str() {
        "" | "identity" => Coding::Identity,
        "gzip" => Coding::gzip(),
        // The links of an unknown encoding stay as they are.
        _ => return answer,
    };
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    let state = Some((body.into_data_stream(), Page { coding, rewriter: Rewriter::new(links) }));
    let pieces = stream::unfold(state, |state| async move {
        let (mut body, mut page) = state?;
        match body.next().await {
            Some(Ok(piece)) => Some((page.feed(&piece), Some((body, page)))),
            Some(Err(error)) => Some((Err(std::io::Error::other(error)), None)),
            None => Some((page.finish(), None)),
        }
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// Compressed bytes that are unpacked at once. A byte may stand for a thousand.
const MAX_COMPRESSED_BYTES: usize = 1 << 10;

/// A body's encoding, undone before and done again after the rewriting.
enum Coding {
    Identity,
    Gzip(Box<Gzip>),
}

struct Gzip {
    from: flate2::write::GzDecoder<Vec<u8>>,
    to: flate2::write::GzEncoder<Vec<u8>>,
}

impl Coding {
    fn gzip() -> Coding {
        let to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        Coding::Gzip(Box::new(Gzip { from: flate2::write::GzDecoder::new(Vec::new()), to }))
    }
}

struct Page {
    coding: Coding,
    rewriter: Rewriter,
}

impl Page {
    fn feed(&mut self, piece: &[u8]) -> std::io::Result<Bytes> {
        match &mut self.coding {
            Coding::Identity => Ok(self.rewriter.feed(piece).into()),
            Coding::Gzip(gzip) => {
                for part in piece.chunks(MAX_COMPRESSED_BYTES) {
                    gzip.from.write_all(part)?;
                    let plain = std::mem::take(gzip.from.get_mut());
                    gzip.to.write_all(&self.rewriter.feed(&plain))?;
                }
                Ok(std::mem::take(gzip.to.get_mut()).into())
            }
        }
    }

    fn finish(self) -> std::io::Result<Bytes> {
        match self.coding {
            Coding::Identity => Ok(self.rewriter.finish().into()),
            Coding::Gzip(gzip) => {
                let Gzip { mut from, mut to } = *gzip;
                from.try_finish()?;
                let mut rewriter = self.rewriter;
                to.write_all(&rewriter.feed(from.get_ref()))?;
                to.write_all(&rewriter.finish())?;
                Ok(to.finish()?.into())
            }
        }
    }
}

/// Reads a page in pieces. A tag that is not complete is kept for the next piece.
struct Rewriter {
    links: Links,
    kept: Vec<u8>,
    /// Within a comment or the text of an element without tags: what ends it, in lower case.
    raw_end: Option<Vec<u8>>,
}

impl Rewriter {
    fn new(links: Links) -> Rewriter {
        Rewriter { links, kept: Vec::new(), raw_end: None }
    }

    fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        self.kept.extend_from_slice(piece);
        let page = std::mem::take(&mut self.kept);
        let mut out = Vec::with_capacity(page.len());
        let mut rest = page.as_slice();
        while let Some(used) = self.step(rest, &mut out) {
            rest = &rest[used..];
        }
        self.kept = rest.to_vec();
        out
    }

    fn finish(self) -> Vec<u8> {
        self.kept
    }

    /// Writes what the text begins with. `None`: more of the page must come first. Returns how many bytes are done.
    fn step(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        const COMMENT: &[u8] = b"<!--";
        if text.is_empty() {
            return None;
        }
        let mut pass = |count: usize| {
            out.extend_from_slice(&text[..count]);
            (count > 0).then_some(count)
        };
        if let Some(end) = &self.raw_end {
            let found = text.windows(end.len()).position(|part| part.eq_ignore_ascii_case(end));
            if found.is_some() {
                self.raw_end = None;
            }
            // The end may be split between two pieces.
            let open = (text.len() + 1).saturating_sub(COMMENT.len().max(32));
            return pass(found.unwrap_or(open));
        }
        let start = text.iter().position(|byte| *byte == b'<').unwrap_or(text.len());
        if start > 0 {
            return pass(start);
        }
        if text.starts_with(COMMENT) {
            self.raw_end = Some(b"-->".to_vec());
            return pass(COMMENT.len());
        }
        match text.get(1) {
            Some(byte) if byte.is_ascii_alphabetic() => {}
            Some(b'!') if COMMENT.starts_with(text) => return None,
            Some(_) => return pass(1),
            None => return None,
        }
        let Some(tag) = tag(text) else {
            return if text.len() > MAX_TAG_BYTES { pass(1) } else { None };
        };
        if RAW.contains(&tag.name.as_str()) {
            self.raw_end = Some(format!("</{}", tag.name).into_bytes());
        }
        self.write(&tag, text, out);
        Some(tag.length)
    }

    fn write(&self, tag: &Tag, text: &[u8], out: &mut Vec<u8>) {
        let known = URL_ATTRIBUTES.iter().find(|(name, _)| *name == tag.name).map_or(&[][..], |(_, all)| all);
        let mut done = 0;
        for (name, value) in &tag.attributes {
            if !known.contains(&name.as_str()) {
                continue;
            }
            let url = std::str::from_utf8(&text[value.clone()]).ok();
            if let Some(moved) = url.and_then(|url| self.links.moved(url.trim())) {
                out.extend_from_slice(&text[done..value.start]);
                out.extend_from_slice(moved.replace('"', "%22").replace('\'', "%27").as_bytes());
                done = value.end;
            }
        }
        out.extend_from_slice(&text[done..tag.length]);
    }
}

struct Tag {
    /// In lower case.
    name: String,
    /// The name of each attribute in lower case, and where its value is, without quotes.
    attributes: Vec<(String, std::ops::Range<usize>)>,
    length: usize,
}

/// The start tag at the beginning of the text; `None` if it does not end there.
fn tag(text: &[u8]) -> Option<Tag> {
    let lower = |range: std::ops::Range<usize>| String::from_utf8_lossy(&text[range]).to_ascii_lowercase();
    let until = |from: usize, stops: &dyn Fn(u8) -> bool| {
        text.get(from..)?.iter().position(|byte| stops(*byte)).map(|at| from + at)
    };
    let ends_name = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'=');
    let mut at = until(1, &ends_name)?;
    let mut tag = Tag { name: lower(1..at), attributes: Vec::new(), length: 0 };
    loop {
        at = until(at, &|byte| !byte.is_ascii_whitespace() && byte != b'/')?;
        if text[at] == b'>' {
            tag.length = at + 1;
            return Some(tag);
        }
        // A name may begin with `=`.
        let end = until(at + 1, &ends_name)?;
        let name = lower(at..end);
        at = until(end, &|byte| !byte.is_ascii_whitespace())?;
        if text[at] != b'=' {
            continue;
        }
        at = until(at + 1, &|byte| !byte.is_ascii_whitespace())?;
        let value = match text[at] {
            quote @ (b'"' | b'\'') => at + 1..until(at + 1, &|byte| byte == quote)?,
            _ => at..until(at, &|byte| byte.is_ascii_whitespace() || byte == b'>')?,
        };
        at = value.end + usize::from(matches!(text[value.end], b'"' | b'\'') && value.start != at);
        tag.attributes.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { hosts: vec!["10.0.0.9:80".into(), "api:6443".into()], prefix: "/p/proxy/".into() }
    }

    fn rewrite(page: &str, piece: usize) -> String {
        let mut rewriter = Rewriter::new(links());
        let mut out: Vec<u8> = page.as_bytes().chunks(piece).flat_map(|piece| rewriter.feed(piece)).collect();
        out.extend(rewriter.finish());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn urls_of_the_proxied_server_move_below_the_prefix() {
        for (url, moved) in [
            ("/a", Some("/p/proxy/a")),
            ("/", Some("/p/proxy/")),
            ("/a/?q=/b#c", Some("/p/proxy/a/?q=/b#c")),
            ("http://10.0.0.9:80/a", Some("/p/proxy/a")),
            ("//api:6443/a", Some("/p/proxy/a")),
            ("http://10.0.0.9:81/a", None),
            ("//other/a", None),
            ("a/b", None),
            ("#top", None),
            ("mailto:x@y", None),
            ("/p/proxy/a", None),
            ("/p/proxyish", Some("/p/proxy/p/proxyish")),
        ] {
            assert_eq!(links().moved(url).as_deref(), moved, "{url}");
        }
    }

    #[test]
    fn only_urls_of_tags_change_however_the_page_is_split() {
        let cases = [
            ("<a href=\"/x\">/x</a>", "<a href=\"/p/proxy/x\">/x</a>"),
            ("<A class=b HREF = '/x' id=/x>", "<A class=b HREF = '/p/proxy/x' id=/x>"),
            ("<img src=/x><br/>", "<img src=/p/proxy/x><br/>"),
            ("<!-- <a href=\"/x\"> --><a href='/x'/>", "<!-- <a href=\"/x\"> --><a href='/p/proxy/x'/>"),
            (
                "<script src='/x'>a = '<a href=\"/x\">';</SCRIPT ><p title=\"<a href='/x'>\">",
                "<script src='/p/proxy/x'>a = '<a href=\"/x\">';</SCRIPT ><p title=\"<a href='/x'>\">",
            ),
            (
                "a < b <1 <!DOCTYPE html><form action=\"//x/y\">",
                "a < b <1 <!DOCTYPE html><form action=\"//x/y\">",
            ),
            ("<a href=\"/x", "<a href=\"/x"),
            ("", ""),
        ];
        for (page, expected) in cases {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(rewrite(page, piece), expected, "{page} in pieces of {piece}");
            }
        }
    }

    #[tokio::test]
    async fn a_compressed_page_stays_compressed() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"<a href='/x'>").expect("written");
        let mut answer = Response::new(Body::from(encoder.finish().expect("compressed")));
        for (name, value) in [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_ENCODING, "gzip")] {
            answer.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        let body = axum::body::to_bytes(rewritten(answer, links()).into_body(), 1000).await.expect("a body");
        let mut decoder = flate2::write::GzDecoder::new(Vec::new());
        decoder.write_all(&body).expect("gzip");
        assert_eq!(decoder.finish().expect("whole"), b"<a href='/p/proxy/x'>");
    }
}
