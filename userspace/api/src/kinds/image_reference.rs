//! References to images: `[domain/]path[:tag][@digest]`, as the distribution specification has them, and when they are pulled.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::value::require_one_of;

/// Bytes of a reference's name, without tag and digest.
const MAX_NAME_LENGTH: usize = 255;

/// The name, the tag and the digest of a reference.
static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let host = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let domain = format!(r"(?:{host}(?:\.{host})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
    let part = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    let digest = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    let text = format!(
        r"^((?:{domain}/)?{part}(?:/{part})*)(?::([0-9A-Za-z_][0-9A-Za-z_.-]{{0,127}}))?(?:@({digest}))?$"
    );
    Regex::new(&text).ok()
});

/// Whether the default pull policy is Always: an image without a tag, or with the tag `latest`, may change in its registry.
/// A text that is no reference has no tag.
pub fn pulls_always(image: &str) -> bool {
    let is_identifier = image.len() == 64 && image.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let Some(found) = REFERENCE.as_ref().and_then(|reference| reference.captures(image)) else {
        return false;
    };
    let (name, tag, digest) = (found.get(1), found.get(2), found.get(3));
    if is_identifier
        || name.is_none_or(|name| name.len() > MAX_NAME_LENGTH)
        || digest.is_some_and(|digest| !is_known_digest(digest.as_str()))
    {
        return false;
    }
    tag.map_or(digest.is_none(), |tag| tag.as_str() == "latest")
}

/// Checks a pull policy, of a container or of a volume.
pub(super) fn validate_pull_policy(object: &Value, field: &str, path: &Path, errors: &mut Errors) {
    require_one_of(object, field, path, &["Always", "IfNotPresent", "Never"], errors);
}

fn is_known_digest(digest: &str) -> bool {
    let Some((algorithm, value)) = digest.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    value.len() == length && value.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_fixed_tag_is_pulled_always() {
        let digest = format!("i@sha256:{}", "a".repeat(64));
        for image in ["i", "i:latest", "a.b:5000/c/d", "localhost/i", "A.b/c"] {
            assert!(pulls_always(image), "{image}");
        }
        for image in ["i:1", "a.b:5000/c:v1", "", " ", "Bad_Name!", "i::latest", &digest, &"a".repeat(64)] {
            assert!(!pulls_always(image), "{image}");
        }
    }
}
