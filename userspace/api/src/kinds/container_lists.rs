//! The lists of containers that a pod has.

use serde_json::Value;

use crate::field::Path;
use crate::value::items;

pub(super) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// All containers of a pod with their paths, in upstream's order.
pub(super) fn containers<'a>(spec: &'a Value, path: &Path) -> impl Iterator<Item = (&'a Value, Path)> {
    let path = path.clone();
    CONTAINER_LISTS.into_iter().flat_map(move |list| {
        let at = path.child(list);
        items(spec, list).enumerate().map(move |(i, container)| (container, at.index(i)))
    })
}
