//! The format `email`: one address of RFC 5322, alone or in angle brackets behind a name.

use crate::regexp::matches;

/// Characters of an atom: all but blanks, control characters and RFC 5322's specials.
const ATOM: &str = r#"[^\x00-\x20\x7f()<>\[\]:;@\\,."]+"#;
const QUOTED: &str = r#""(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\.)*""#;

pub(super) fn accepts(text: &str) -> bool {
    let dotted = format!(r"{ATOM}(?:\.{ATOM})*");
    let address = format!(r"(?:{dotted}|{QUOTED})@(?:{dotted}|\[[^\x00-\x20\[\]\\]+\])");
    let words = format!(r"(?:(?:{ATOM}|{QUOTED}|\.)[ \t]*)*");
    let comment = r"(?:\([^()]*\)[ \t]*)*";
    matches(&format!(r"^[ \t]*(?:{address}|{words}<{address}>)[ \t]*{comment}$"), text)
}
