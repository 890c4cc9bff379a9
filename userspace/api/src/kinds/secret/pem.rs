//! PEM blocks of a TLS Secret. In: certificate and key as they are stored. Out: what a TLS server would say of their blocks, in
//! the words of Go's library.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// What is wrong with the blocks of a certificate and of its key. The contents of the blocks are not read.
pub(super) fn pair_problem(certificate: &[u8], key: &[u8]) -> Option<String> {
    const CERTIFICATE: &str = "CERTIFICATE";
    let is_key = |block: &String| block.ends_with("PRIVATE KEY");
    let skipped = blocks(certificate);
    if !skipped.iter().any(|block| block == CERTIFICATE) {
        return Some(match skipped.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [only] if is_key(only) => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
            all => format!("tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]", all.join(" ")),
        });
    }
    let skipped = blocks(key);
    if skipped.iter().any(is_key) {
        return None;
    }
    Some(match skipped.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only == CERTIFICATE => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        all => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            all.join(" ")
        ),
    })
}

/// The types of the blocks that decode.
fn blocks(input: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.lines().map(str::trim_end);
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES)) else {
            continue;
        };
        let end = format!("-----END {kind}{DASHES}");
        let rest = lines.clone();
        let mut body = String::new();
        let is_closed = lines.by_ref().any(|line| {
            // A line with a colon is a header.
            if line != end && !line.contains(':') {
                body.push_str(line);
            }
            line == end
        });
        if is_closed && STANDARD.decode(&body).is_ok() {
            found.push(kind.to_owned());
        } else {
            lines = rest;
        }
    }
    found
}
