//! ValidatingWebhookConfigurations.

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::kinds::webhook;

pub(super) const ROW: Row = Row {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    categories: &["api-extensions"],
    schema: "api.admissionregistration.v1.ValidatingWebhookConfiguration",
    columns: webhook::COLUMNS,
    strategy: Strategy {
        generation: true,
        default: webhook::default_webhooks,
        validate: webhook::validate_webhooks,
        ..Strategy::NONE
    },
    ..Row::CLUSTER
};
