//! PURE. A pod's bandwidth limits from its annotations, as container runtimes read them: quantities of bits a second.

use serde::{Deserialize, Serialize};
use skep_api::quantity::{BadQuantity, Quantity};
use skep_netplan::index::{EGRESS_BANDWIDTH, INGRESS_BANDWIDTH, PodFacts};

const MIN_BITS_PER_SECOND: u64 = 1_000;
const MAX_BITS_PER_SECOND: u64 = 1_000_000_000_000_000;

/// In bits a second; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    pub ingress: u64,
    pub egress: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BandwidthError {
    #[error("annotation {annotation}: {value:?}: {source}")]
    NotAQuantity { annotation: &'static str, value: String, source: BadQuantity },
    #[error("annotation {annotation}: {value:?} is not between 1k and 1P bits a second")]
    OutOfRange { annotation: &'static str, value: String },
}

impl Bandwidth {
    /// The limits that the pod's annotations ask for.
    pub fn of(pod: &PodFacts) -> Result<Self, BandwidthError> {
        Ok(Bandwidth {
            ingress: rate(INGRESS_BANDWIDTH, pod.ingress_bandwidth.as_deref())?,
            egress: rate(EGRESS_BANDWIDTH, pod.egress_bandwidth.as_deref())?,
        })
    }
}

fn rate(annotation: &'static str, value: Option<&str>) -> Result<u64, BandwidthError> {
    let Some(value) = value else { return Ok(0) };
    let quantity: Quantity = value.parse().map_err(|source| BandwidthError::NotAQuantity {
        annotation,
        value: value.to_owned(),
        source,
    })?;
    match u64::try_from(quantity.value()) {
        Ok(rate @ MIN_BITS_PER_SECOND..=MAX_BITS_PER_SECOND) => Ok(rate),
        _ => Err(BandwidthError::OutOfRange { annotation, value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bits_a_second_within_bounds() {
        let of = |value: &str| rate(INGRESS_BANDWIDTH, Some(value));
        assert_eq!(rate(INGRESS_BANDWIDTH, None), Ok(0));
        for (value, bits) in [
            ("1k", MIN_BITS_PER_SECOND),
            ("10M", 10_000_000),
            ("1.5Mi", 1_572_864),
            ("1P", MAX_BITS_PER_SECOND),
        ] {
            assert_eq!(of(value), Ok(bits));
        }
        for value in ["0", "999", "1000P", "-10M", "1001T"] {
            assert!(matches!(of(value), Err(BandwidthError::OutOfRange { .. })), "{value}");
        }
        for value in ["", "10 M", "fast", "10Mbit"] {
            assert!(matches!(of(value), Err(BandwidthError::NotAQuantity { .. })), "{value}");
        }
    }
}
