//! Bindings: a Pod's node, written through the Pod's `binding` subresource.

use crate::kinds::row::{CREATE, Row};

pub(super) const ROW: Row = Row {
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    verbs: CREATE,
    schema: "api.core.v1.Binding",
    ..Row::NAMESPACED
};
