//! The table as a page for readers.

use std::fmt::Write as _;

use super::table::{GROUPS, Reading};
use super::{PREFIX, Support, support};

const HEAD: &str = "# Annotations of ingress-nginx

Ingresses of all classes with the controller `skep.io/ingress` have them. To take over Ingresses of the class `nginx`, create an IngressClass
`nginx` with that controller; requests for its Ingresses with TLS are redirected to https unless they say otherwise. `skep ingress report` says
for the Ingresses of a cluster or of files what becomes of their annotations. An annotation that is not served, or whose value is not valid, is an Event of its Ingress: `AnnotationRefused`, `InvalidAnnotation`, `UnknownAnnotation`; one that
changes nothing here is the Event `AnnotationWithoutEffect`. Where **503** is said, the rules of an Ingress with it answer 503: it may keep
requests out that would come in without it. The same holds for invalid values of annotations with a lock (\u{1f512}).

Variables are those of a request: `$host`, `$http_host`, `$request_uri`, `$escaped_request_uri`, `$uri`, `$args`, `$scheme`,
`$request_method`, `$remote_addr`, `$server_port`, `$http_NAME`, `$cookie_NAME` and `$arg_NAME`. Services are named by their DNS names.

This page is made from `userspace/gateway/src/ingress/annotations/table` (`SKEP_REWRITE=1 cargo nextest run -p skep-gateway reference`).
";

/// In Markdown. All names have the prefix [`PREFIX`].
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    let count = |wanted: Support| {
        let rows = GROUPS.iter().flat_map(|(_, rows)| rows.iter());
        rows.filter(|row| support(&format!("{PREFIX}{}", row.name)).is_some_and(|(found, _)| found == wanted))
            .count()
    };
    // Writing to a text does not fail.
    let _ = writeln!(
        out,
        "\nOf the 130 annotations that ingress-nginx documents {} are served, {} change nothing here, and {} are refused.",
        count(Support::Served),
        count(Support::Implied),
        count(Support::Refused)
    );
    for (title, rows) in GROUPS {
        let _ = writeln!(out, "\n## {title}\n\n| `{PREFIX}` | value | |\n|---|---|---|");
        for row in *rows {
            let effect = match row.reading {
                Reading::Set(_) => row.effect.to_owned(),
                Reading::Guard(_) => format!("\u{1f512} {}", row.effect),
                Reading::Implied => format!("Changes nothing: {}", row.effect),
                Reading::Refused => format!("**Refused.** {}", row.effect),
                Reading::RefusedGuard => format!("**Refused, 503.** {}", row.effect),
            };
            let _ = writeln!(out, "| `{}` | {} | {effect} |", row.name, row.value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_up_to_date() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/annotations.md");
        if std::env::var_os("SKEP_REWRITE").is_some() {
            return std::fs::write(file, reference()).unwrap();
        }
        assert!(std::fs::read_to_string(file).unwrap() == reference(), "SKEP_REWRITE=1 writes {file}");
    }
}
