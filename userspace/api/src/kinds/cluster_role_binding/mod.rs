//! ClusterRoleBindings.

use crate::kinds::role_binding;
use crate::kinds::row::Row;

pub(super) const ROW: Row = Row {
    group: "rbac.authorization.k8s.io",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    schema: "api.rbac.v1.ClusterRoleBinding",
    columns: role_binding::ROW.columns,
    strategy: role_binding::ROW.strategy,
    ..Row::CLUSTER
};
