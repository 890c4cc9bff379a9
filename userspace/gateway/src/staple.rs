//! Responses of OCSP that are stapled to a certificate (RFC 6066, 8; RFC 6960). PURE. In: the DER of a Secret. Out: the response, if it
//! says that the certificate is good, with the time until which it does. Clients check its signature.

/// Why a response is not stapled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum StapleError {
    #[error("tls.ocsp-staple is not an OCSP response in DER")]
    Form,
    #[error("the OCSP response of tls.ocsp-staple is an error of the responder")]
    Unsuccessful,
    #[error("the OCSP response of tls.ocsp-staple is for another certificate")]
    OtherCertificate,
    #[error("the OCSP response of tls.ocsp-staple does not say that the certificate is good")]
    NotGood,
    #[error("the OCSP response of tls.ocsp-staple says no time until which it counts")]
    Endless,
}

/// A response that can be stapled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    pub(crate) der: Vec<u8>,
    /// Its `nextUpdate`, in seconds since 1970.
    pub not_after: i64,
}

const SEQUENCE: u8 = 0x30;
const ENUMERATED: u8 = 0x0a;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const TIME: u8 = 0x18;
/// `[0]` with parts, and `[0]` alone.
const TAG_0: u8 = 0xa0;
const GOOD: u8 = 0x80;

impl Staple {
    /// `serial`: that of the certificate, as its INTEGER has it.
    pub fn parse(der: &[u8], serial: &[u8]) -> Result<Staple, StapleError> {
        let mut response = Der(Der(der).part(SEQUENCE)?);
        if response.part(ENUMERATED)? != [0] {
            return Err(StapleError::Unsuccessful);
        }
        let mut bytes = Der(Der(response.part(TAG_0)?).part(SEQUENCE)?);
        let (_kind, basic) = (bytes.any()?, bytes.part(OCTETS)?);
        let mut data = Der(Der(Der(basic).part(SEQUENCE)?).part(SEQUENCE)?);
        data.optional(TAG_0)?;
        let (_responder, _produced) = (data.any()?, data.part(TIME)?);
        let mut all = Der(data.part(SEQUENCE)?);
        while !all.0.is_empty() {
            let mut single = Der(all.part(SEQUENCE)?);
            let mut id = Der(single.part(SEQUENCE)?);
            let (_algorithm, _name, _key) = (id.any()?, id.any()?, id.any()?);
            if id.part(INTEGER)? != serial {
                continue;
            }
            if single.any()?.0 != GOOD {
                return Err(StapleError::NotGood);
            }
            single.part(TIME)?;
            let next = single.optional(TAG_0)?.ok_or(StapleError::Endless)?;
            return Ok(Staple { der: der.to_vec(), not_after: seconds(Der(next).part(TIME)?)? });
        }
        Err(StapleError::OtherCertificate)
    }
}

/// Seconds since 1970 of a time in the one form that DER allows (RFC 5280, 4.1.2.5.2).
fn seconds(text: &[u8]) -> Result<i64, StapleError> {
    let text = str::from_utf8(text).map_err(|_| StapleError::Form)?;
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).map_err(|_| StapleError::Form)?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| StapleError::Form)?;
    Ok(zoned.timestamp().as_second())
}

/// What is left of a value.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next part: its tag and its content.
    fn any(&mut self) -> Result<(u8, &'a [u8]), StapleError> {
        let [tag, length, rest @ ..] = self.0 else { return Err(StapleError::Form) };
        let (length, rest) = match length {
            short @ 0..=0x7f => (usize::from(*short), rest),
            // Of more bytes than a Secret has there is none.
            long @ 0x81..=0x83 => {
                let (digits, rest) =
                    rest.split_at_checked(usize::from(long & 0x7f)).ok_or(StapleError::Form)?;
                (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
            }
            _ => return Err(StapleError::Form),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(StapleError::Form)?;
        self.0 = rest;
        Ok((*tag, content))
    }

    fn part(&mut self, wanted: u8) -> Result<&'a [u8], StapleError> {
        match self.any()? {
            (tag, content) if tag == wanted => Ok(content),
            _ => Err(StapleError::Form),
        }
    }

    fn optional(&mut self, wanted: u8) -> Result<Option<&'a [u8]>, StapleError> {
        match self.0.first() == Some(&wanted) {
            true => self.part(wanted).map(Some),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn part(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = content.len();
        let mut out = vec![tag];
        match length {
            0..=0x7f => out.push(length as u8),
            _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        [out, content].concat()
    }

    /// A response for a certificate, as a responder makes it, without a signature.
    pub(crate) fn response(serial: &[u8], status: u8, next: Option<&str>) -> Vec<u8> {
        let time = |text: &str| part(TIME, &[text.as_bytes()]);
        let sha_1 = part(SEQUENCE, &[&part(6, &[&[43, 14, 3, 2, 26]]), &part(5, &[])]);
        let hash = part(OCTETS, &[&[7; 20]]);
        let id = part(SEQUENCE, &[&sha_1, &hash, &hash, &part(INTEGER, &[serial])]);
        let next = next.map(|text| part(TAG_0, &[&time(text)])).unwrap_or_default();
        let single = part(SEQUENCE, &[&id, &part(status, &[]), &time("20270101000000Z"), &next]);
        let responder = part(0xa2, &[&hash]);
        let data = part(SEQUENCE, &[&responder, &time("20270101000000Z"), &part(SEQUENCE, &[&single])]);
        let basic = part(SEQUENCE, &[&data, &sha_1, &part(3, &[&[0; 65]])]);
        let kind = part(6, &[&[43, 6, 1, 5, 5, 7, 48, 1, 1]]);
        let bytes = part(SEQUENCE, &[&kind, &part(OCTETS, &[&basic])]);
        part(SEQUENCE, &[&part(ENUMERATED, &[&[0]]), &part(TAG_0, &[&bytes])])
    }

    #[test]
    fn only_a_response_that_says_good_of_this_certificate_until_a_time_is_stapled() {
        let next = Some("20270115080000Z");
        let good = response(&[1, 2], GOOD, next);
        assert_eq!(Staple::parse(&good, &[1, 2]).unwrap().not_after, 1_800_000_000);
        for (case, der, error) in [
            ("another serial", response(&[9], GOOD, next), StapleError::OtherCertificate),
            ("revoked", response(&[1, 2], 0xa1, next), StapleError::NotGood),
            ("unknown", response(&[1, 2], 0x82, next), StapleError::NotGood),
            ("without an end", response(&[1, 2], GOOD, None), StapleError::Endless),
            ("a wrong time", response(&[1, 2], GOOD, Some("2027")), StapleError::Form),
            ("tryLater", vec![SEQUENCE, 3, ENUMERATED, 1, 3], StapleError::Unsuccessful),
            ("empty", Vec::new(), StapleError::Form),
        ] {
            assert_eq!(Staple::parse(&der, &[1, 2]), Err(error), "{case}");
        }
        for length in 0..good.len() {
            assert_eq!(Staple::parse(&good[..length], &[1, 2]), Err(StapleError::Form), "{length} bytes");
        }
    }
}
