//! What the fields of a head say of its body and of its connection. PURE. It is noted as they are read, without a look-up of each.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};

use super::Malformed;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

#[derive(Debug, Default)]
pub(super) struct Control<'h> {
    length: Once<'h>,
    coding: Once<'h>,
    /// `Connection` says `close`.
    pub(super) closes: bool,
    /// `Connection` says `keep-alive`.
    pub(super) keeps_alive: bool,
}

/// The value of a field that may come once.
#[derive(Debug, Default)]
enum Once<'h> {
    #[default]
    None,
    One(&'h [u8]),
    Many,
}

impl<'h> Control<'h> {
    /// Takes note of a field. Whether it says no more than what is noted now, so that the head is the same without it.
    pub(super) fn note(&mut self, name: &HeaderName, value: &'h [u8]) -> bool {
        match *name {
            CONTENT_LENGTH => self.length.add(value),
            TRANSFER_ENCODING => self.coding.add(value),
            CONNECTION => return self.options(value),
            _ => return *name == KEEP_ALIVE,
        }
        false
    }

    /// Whether all words of `Connection` are known. Others name fields that belong to the connection.
    fn options(&mut self, value: &[u8]) -> bool {
        let mut are_known = true;
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match option {
                _ if option.eq_ignore_ascii_case(b"close") => self.closes = true,
                _ if option.eq_ignore_ascii_case(b"keep-alive") => self.keeps_alive = true,
                _ => are_known = false,
            }
        }
        are_known
    }

    pub(super) fn coding(&self) -> Result<Option<&'h [u8]>, Malformed> {
        self.coding.value().ok_or(Malformed::Coding)
    }

    pub(super) fn length(&self) -> Result<Option<u64>, Malformed> {
        self.length.value().ok_or(Malformed::Length)?.map(parse_length).transpose()
    }
}

impl<'h> Once<'h> {
    fn add(&mut self, value: &'h [u8]) {
        *self = match self {
            Once::None => Once::One(value.trim_ascii()),
            Once::One(_) | Once::Many => Once::Many,
        };
    }

    /// `None`: there are several.
    fn value(&self) -> Option<Option<&'h [u8]>> {
        match self {
            Once::None => Some(None),
            Once::One(value) => Some(Some(value)),
            Once::Many => None,
        }
    }
}

fn parse_length(text: &[u8]) -> Result<u64, Malformed> {
    // A number's own parser takes a sign.
    match text.iter().all(u8::is_ascii_digit) {
        true => str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed::Length),
        false => Err(Malformed::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_field_goes_only_when_it_names_no_other() {
        for (value, goes, closes, keeps_alive) in [
            ("close", true, true, false),
            ("Keep-Alive", true, false, true),
            ("keep-alive , CLOSE", true, true, true),
            ("close, x-secret", false, true, false),
            ("upgrade", false, false, false),
        ] {
            let mut control = Control::default();
            assert_eq!(control.note(&CONNECTION, value.as_bytes()), goes, "{value}");
            assert_eq!((control.closes, control.keeps_alive), (closes, keeps_alive), "{value}");
        }
    }
}
