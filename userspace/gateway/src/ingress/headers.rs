//! Headers that ConfigMaps name.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::annotations::{Headers, named};
use super::problem::Problem;
use super::states::{ConfigMapState, ConfigMapStates};
use crate::headers::frames_message;

/// The headers of a ConfigMap that an annotation of the Ingress names; none without a name.
pub(super) fn headers_of(
    key: &Arc<str>,
    config_map: Option<&str>,
    config_maps: &ConfigMapStates,
) -> Result<Headers, Problem> {
    let Some(config_map) = config_map else { return Ok(Vec::new()) };
    let config_map = named(key, config_map).map_err(|error| Problem::bad_headers(key, config_map, error))?;
    let Some(ConfigMapState::Found(facts)) = config_maps.get(&config_map) else {
        return Err(Problem::bad_headers(key, &config_map, "it does not exist, or was not read"));
    };
    let parsed = facts.data.iter().map(|(name, value)| header(name, value));
    let parsed: Result<Headers, BadHeader> = parsed.collect();
    parsed.map_err(|error| Problem::bad_headers(key, &config_map, error))
}

/// Why a pair of a ConfigMap is no header.
#[derive(Debug, thiserror::Error)]
enum BadHeader {
    #[error("{0:?} is not a header's name")]
    Name(String),
    #[error("the value of {0} is not one of a header")]
    Value(HeaderName),
    #[error("{0} frames messages, and is not set")]
    Framing(HeaderName),
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), BadHeader> {
    let name = HeaderName::try_from(name).map_err(|_| BadHeader::Name(name.to_owned()))?;
    if frames_message(&name) {
        return Err(BadHeader::Framing(name));
    }
    match HeaderValue::from_str(value) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(BadHeader::Value(name)),
    }
}
