//! CustomResourceDefinitions. Their rules are in `custom::definition`, beside the custom resources that follow from them.

use crate::custom::definition;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;

pub(super) const ROW: Row = Row {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    subresources: &["status"],
    schema: "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    strategy: Strategy {
        generation: true,
        default: definition::default,
        warnings: |object, _| definition::warnings(object),
        validate: definition::validate,
        validate_update: definition::validate_update,
        ..Strategy::NONE
    },
    ..Row::CLUSTER
};
