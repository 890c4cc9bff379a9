//! MutatingWebhookConfigurations.

use serde_json::Value;

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::kinds::webhook;
use crate::value::{items_mut, set_default};

pub(super) const ROW: Row = Row {
    group: "admissionregistration.k8s.io",
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    categories: &["api-extensions"],
    schema: "api.admissionregistration.v1.MutatingWebhookConfiguration",
    columns: webhook::COLUMNS,
    strategy: Strategy { generation: true, default, validate: webhook::validate_webhooks, ..Strategy::NONE },
    ..Row::CLUSTER
};

fn default(object: &mut Value) {
    webhook::default_webhooks(object);
    items_mut(object, "webhooks").for_each(|hook| set_default(hook, "reinvocationPolicy", "Never"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn webhooks_get_their_defaults() {
        let mut object = json!({"webhooks": [{"clientConfig": {"service": {}}, "rules": [{}]}]});
        default(&mut object);
        let hook = &object["webhooks"][0];
        let mut failed = Vec::new();
        for (pointer, wanted) in [
            ("/failurePolicy", json!("Fail")),
            ("/matchPolicy", json!("Equivalent")),
            ("/timeoutSeconds", json!(10)),
            ("/namespaceSelector", json!({})),
            ("/rules/0/scope", json!("*")),
            ("/clientConfig/service/port", json!(443)),
            ("/reinvocationPolicy", json!("Never")),
        ] {
            if hook.pointer(pointer) != Some(&wanted) {
                failed.push(format!("{pointer}: wanted {wanted}, found {:?}", hook.pointer(pointer)));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
