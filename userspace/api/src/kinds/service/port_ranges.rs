//! The annotation `skep.io/ports`: ports of a Service beside those of `spec.ports`.
//!
//! In: its text, `all`, or ports and ranges of ports such as `30000-30100,30200`. Out: the ports that the Service's addresses have for each
//! protocol of `spec.ports`; an endpoint serves them at the same number. A port of `spec.ports` keeps its own target.

use std::str::FromStr;

use serde_json::Value;

use crate::field::{Errors, Path};

/// The annotation's key.
pub const PORT_RANGES: &str = "skep.io/ports";
/// Ranges of one Service: each costs up to 120 entries of the kernel's map for each address.
const MAX_RANGES: usize = 16;

/// Ranges of ports, both ends included; sorted, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRanges(Box<[(u16, u16)]>);

/// Why the text is not one of ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangesError {
    #[error("{0:?} must be a port or a range of ports, such as 30000-30100")]
    Syntax(Box<str>),
    #[error("{0:?}: ports must be between 1 and 65535, inclusive")]
    Number(Box<str>),
    #[error("{0:?}: the first port must not be greater than the last")]
    Order(Box<str>),
    #[error("must have at most {MAX_RANGES} ranges")]
    TooMany,
}

impl PortRanges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// First and last port of each.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.0.iter().copied()
    }
}

impl FromStr for PortRanges {
    type Err = PortRangesError;

    fn from_str(text: &str) -> Result<Self, PortRangesError> {
        if text.trim() == "all" {
            return Ok(PortRanges([(1, u16::MAX)].into()));
        }
        if text.split(',').count() > MAX_RANGES {
            return Err(PortRangesError::TooMany);
        }
        let mut ranges = text.split(',').map(|part| range(part.trim())).collect::<Result<Vec<_>, _>>()?;
        ranges.sort_unstable();
        let mut apart: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match apart.last_mut() {
                Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
                _ => apart.push((first, last)),
            }
        }
        Ok(PortRanges(apart.into()))
    }
}

fn range(text: &str) -> Result<(u16, u16), PortRangesError> {
    let number = |part: &str| {
        let part = part.trim();
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PortRangesError::Syntax(text.into()));
        }
        let port = part.parse::<u16>().ok().filter(|port| *port != 0);
        port.ok_or_else(|| PortRangesError::Number(text.into()))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first)?, number(last)?) {
        (first, last) if first > last => Err(PortRangesError::Order(text.into())),
        ends => Ok(ends),
    }
}

pub(super) fn validate_port_ranges(object: &Value, errors: &mut Errors) {
    let annotation = &object["metadata"]["annotations"][PORT_RANGES];
    let Some(text) = annotation.as_str() else { return };
    if let Err(error) = text.parse::<PortRanges>() {
        let at = Path::new("metadata").child("annotations").key(PORT_RANGES);
        errors.invalid(&at, annotation, &error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(u16, u16)>, String> {
        text.parse::<PortRanges>().map(|ranges| ranges.iter().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn ranges_are_sorted_and_joined() {
        assert_eq!(parsed("all"), Ok(vec![(1, 65535)]));
        assert_eq!(parsed(" 30000 - 30100 "), Ok(vec![(30000, 30100)]));
        assert_eq!(
            parsed("9,30000-30100,30101-30200,1-8, 100"),
            Ok(vec![(1, 9), (100, 100), (30000, 30200)])
        );
        assert_eq!(parsed("65535,1-65535"), Ok(vec![(1, 65535)]));
    }

    #[test]
    fn other_texts_say_what_is_wrong() {
        let rows = [
            ("", "\"\" must be a port or a range"),
            ("everything", "\"everything\" must be a port or a range"),
            ("80,", "\"\" must be a port or a range"),
            ("80--90", "\"80--90\" must be a port or a range"),
            ("+80", "\"+80\" must be a port or a range"),
            ("0-10", "\"0-10\": ports must be between 1 and 65535"),
            ("80-65536", "\"80-65536\": ports must be between 1 and 65535"),
            ("99999999999999999999", "ports must be between 1 and 65535"),
            ("90-80", "\"90-80\": the first port must not be greater"),
        ];
        for (text, message) in rows {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert_eq!(parsed(&["7"; 17].join(",")), Err("must have at most 16 ranges".into()));
    }
}
