//! ReferenceGrants: which references lead into other namespaces. PURE.

use super::kinds::{GROUP, ReferenceGrantSpec};
use super::objects::{Key, Objects};

/// What a reference is from: a kind of the group, in a namespace.
#[derive(Clone, Copy)]
pub(super) struct Referrer<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
}

impl Objects {
    /// Whether the reference stays in its namespace, or a grant of the other namespace allows it.
    pub(super) fn may_refer(
        &self,
        from: Referrer<'_>,
        group: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> bool {
        from.namespace == namespace
            || self.grants.iter().any(|(key, grant)| {
                namespace_of(key) == namespace && allows(&grant.spec, from, group, kind, name)
            })
    }
}

fn allows(grant: &ReferenceGrantSpec, from: Referrer<'_>, group: &str, kind: &str, name: &str) -> bool {
    let is_from = grant.from.iter().any(|allowed| {
        allowed.group == GROUP && allowed.kind == from.kind && allowed.namespace == from.namespace
    });
    is_from
        && grant.to.iter().any(|allowed| {
            allowed.group == group
                && allowed.kind == kind
                && allowed.name.as_deref().is_none_or(|only| only.is_empty() || only == name)
        })
}

/// Of a key NAMESPACE/NAME.
pub(super) fn namespace_of(key: &Key) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

pub(super) fn name_of(key: &Key) -> &str {
    key.split_once('/').map_or(key, |(_, name)| name)
}
