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
    let parsed: Result<Headers, String> = parsed.collect();
    parsed.map_err(|error| Problem::bad_headers(key, &config_map, error))
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = HeaderName::try_from(name).map_err(|_| format!("{name:?} is not a header's name"))?;
    if frames_message(&parsed) {
        return Err(format!("{name} belongs to a connection, and is not set"));
    }
    let value = HeaderValue::from_str(value);
    value.map(|value| (parsed, value)).map_err(|_| format!("the value of {name} is not one of a header"))
}
