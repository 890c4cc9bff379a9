//! Questions about one name that are answered as if they were about another.

use hickory_proto::rr::Name;

use crate::name;

/// A rule; names are compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub matches: Match,
    /// What takes the place of the part that matched.
    pub to: String,
}

/// Which part of a name is replaced; texts are in lower case. A suffix and a prefix need not be whole labels, as in CoreDNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
}

/// The name to look up instead; `None`: no rule matches, or its result is no name.
pub(crate) fn apply(rules: &[Rewrite], asked: &Name) -> Option<Name> {
    if rules.is_empty() {
        return None;
    }
    let mut text = asked.to_lowercase().to_ascii();
    if !text.ends_with('.') {
        text.push('.');
    }
    let new = rules.iter().find_map(|rule| rule.replace(&text))?;
    name::parse(&new).filter(|name| !name.eq_ignore_root(asked))
}

impl Rewrite {
    fn replace(&self, text: &str) -> Option<String> {
        let to = &self.to;
        match &self.matches {
            Match::Exact(whole) => (text == whole).then(|| to.clone()),
            Match::Prefix(prefix) => text.strip_prefix(prefix.as_str()).map(|rest| format!("{to}{rest}")),
            Match::Suffix(suffix) => text.strip_suffix(suffix.as_str()).map(|rest| format!("{rest}{to}")),
            Match::Substring(part) => {
                text.contains(part.as_str()).then(|| text.replacen(part.as_str(), to, 1))
            }
        }
    }
}
