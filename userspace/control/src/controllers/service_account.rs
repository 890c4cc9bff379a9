//! Creates the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt` in every active namespace. PURE.

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

const ROOT_CA: &str = "kube-root-ca.crt";

pub struct ServiceAccounts {
    pub root_ca_pem: String,
}

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    fn account(&self) -> &'static str {
        "service-account-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Namespace, Kind::ServiceAccount, Kind::ConfigMap]
    }

    fn route(&self, change: &Change, _: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::Namespace, keys);
        match change.object() {
            Some(Object::ServiceAccount(_)) if change.new.is_some() => {}
            Some(o @ (Object::ServiceAccount(_) | Object::ConfigMap(_))) => {
                keys.push(Key::cluster(meta::namespace(o.meta())));
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, _: Context<'_>) -> Vec<Action> {
        if view.namespaces.get(key).is_none_or(|n| meta::terminating(&n.metadata)) {
            return Vec::new();
        }
        let named = |name: &str| ObjectMeta {
            name: Some(name.into()),
            namespace: Some(key.name.to_string()),
            ..Default::default()
        };
        let mut actions = Vec::new();
        if view.service_accounts.get(&Key::new(&key.name, "default")).is_none() {
            actions.push(Action::Create(
                ServiceAccount { metadata: named("default"), ..Default::default() }.into(),
            ));
        }
        if self.root_ca_pem.is_empty() {
            return actions;
        }
        let data = Some([("ca.crt".to_owned(), self.root_ca_pem.clone())].into());
        match view.config_maps.get(&Key::new(&key.name, ROOT_CA)) {
            Some(map) if map.data == data => {}
            Some(map) => {
                let mut map = map.as_ref().clone();
                map.data = data;
                actions.push(Action::update(map));
            }
            None => {
                let mut metadata = named(ROOT_CA);
                let note = "CA certificates by which pods verify the API server";
                metadata.annotations =
                    Some([("kubernetes.io/description".to_owned(), note.to_owned())].into());
                actions.push(Action::Create(ConfigMap { metadata, data, ..Default::default() }.into()));
            }
        }
        actions
    }
}
