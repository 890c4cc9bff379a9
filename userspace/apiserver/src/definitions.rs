//! The kind CustomResourceDefinition.

use skep_api::custom::definition::GROUP;
use skep_api::{Kind, find};

/// The row of CustomResourceDefinitions in the table of built-in kinds.
pub(crate) fn kind() -> Option<&'static Kind> {
    find(GROUP, "v1", "customresourcedefinitions")
}
