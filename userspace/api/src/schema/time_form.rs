//! The forms of times in the API: RFC 3339 as Go's `time.Parse` reads it. Out: its message for a text of another form.

/// Go's message about a text that is no time of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotATime(pub(super) String);

/// A layout of Go's time package, and the form in which we write it.
#[derive(Clone, Copy)]
pub(super) struct Form {
    layout: &'static str,
    /// Digits of the fraction; any number, or none, if it is not said.
    fraction: Option<usize>,
    pub(super) canonical: &'static str,
}

/// `metav1.Time`
pub(super) const SECONDS: Form =
    Form { layout: "2006-01-02T15:04:05Z07:00", fraction: None, canonical: "%Y-%m-%dT%H:%M:%SZ" };
/// `metav1.MicroTime`
pub(super) const MICROSECONDS: Form = Form {
    layout: "2006-01-02T15:04:05.000000Z07:00",
    fraction: Some(6),
    canonical: "%Y-%m-%dT%H:%M:%S%.6fZ",
};

impl Form {
    /// Checks a text.
    pub(super) fn check(self, text: &str) -> Result<(), NotATime> {
        let rest = self.date_and_time(text)?;
        let rest = self.skip_fraction(text, rest)?;
        if rest == "Z" {
            return Ok(());
        }
        let zone = rest.strip_prefix(['+', '-']).map(str::as_bytes);
        match zone {
            Some(&[a, b, b':', c, d]) if [a, b, c, d].iter().all(u8::is_ascii_digit) => {
                let (hours, minutes) = ((a - b'0') * 10 + (b - b'0'), (c - b'0') * 10 + (d - b'0'));
                if hours > 23 || minutes > 59 {
                    return Err(self.out_of_range(text, "time zone offset"));
                }
                Ok(())
            }
            _ if rest.starts_with('Z') => {
                Err(NotATime(format!("parsing time {text:?}: extra text: {:?}", &rest[1..])))
            }
            _ => Err(self.unparsed(text, rest, "Z07:00")),
        }
    }

    /// The text behind the seconds.
    fn date_and_time(self, text: &str) -> Result<&str, NotATime> {
        let mut rest = text;
        for (element, separator, range, name) in [
            ("2006", "-", 0..=9999, "year"),
            ("01", "-", 1..=12, "month"),
            ("02", "T", 1..=31, "day"),
            ("15", ":", 0..=23, "hour"),
            ("04", ":", 0..=59, "minute"),
            ("05", "", 0..=59, "second"),
        ] {
            let digits =
                rest.as_bytes().get(..element.len()).filter(|all| all.iter().all(u8::is_ascii_digit));
            let Some(digits) = digits else { return Err(self.unparsed(text, rest, element)) };
            let number = digits.iter().fold(0u16, |number, digit| number * 10 + u16::from(digit - b'0'));
            if !range.contains(&number) {
                return Err(self.out_of_range(text, name));
            }
            // Only ASCII digits were passed.
            rest = &rest[element.len()..];
            rest = rest.strip_prefix(separator).ok_or_else(|| self.unparsed(text, rest, separator))?;
        }
        Ok(rest)
    }

    fn skip_fraction<'a>(self, text: &str, rest: &'a str) -> Result<&'a str, NotATime> {
        let fraction = rest.strip_prefix(['.', ',']);
        let digits = fraction.map_or(0, |all| all.bytes().take_while(u8::is_ascii_digit).count());
        match self.fraction {
            Some(wanted) if digits != wanted => Err(self.unparsed(text, rest, ".000000")),
            None if fraction.is_some() && !(1..=9).contains(&digits) => {
                Err(self.unparsed(text, rest, "Z07:00"))
            }
            _ => Ok(fraction.map_or(rest, |all| &all[digits..])),
        }
    }

    fn unparsed(self, text: &str, rest: &str, element: &str) -> NotATime {
        let layout = self.layout;
        NotATime(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}"))
    }

    fn out_of_range(self, text: &str, name: &str) -> NotATime {
        NotATime(format!("parsing time {text:?}: {name} out of range"))
    }
}
