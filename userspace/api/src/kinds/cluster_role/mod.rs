//! ClusterRoles.

use crate::kinds::role;
use crate::kinds::row::Row;

pub(super) const ROW: Row = Row {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    schema: "api.rbac.v1.ClusterRole",
    strategy: role::ROW.strategy,
    ..Row::CLUSTER
};
