//! The Service that an address or a port is allocated to.

use serde_json::Value;
use skep_api::meta;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Owner {
    pub(crate) fn of(service: &Value) -> Owner {
        Owner {
            namespace: meta::namespace(service).to_owned(),
            name: meta::name(service).to_owned(),
            uid: meta::uid(service).to_owned(),
        }
    }
}
