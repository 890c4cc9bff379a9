//! The names of expressions about requests: those of webhooks and admission policies.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::authorizer::AUTHORIZER;
use super::scope::Scope;
use super::types::{Declared, Type};

/// The names that expressions about a request may use.
#[derive(Clone, Debug)]
pub struct RequestScope {
    names: Vec<(&'static str, Declared)>,
    /// A policy's variables: each may use those before it.
    variables: BTreeMap<String, Declared>,
}

impl Default for RequestScope {
    fn default() -> RequestScope {
        RequestScope {
            names: vec![
                ("object", Type::Dyn.into()),
                ("oldObject", Type::Dyn.into()),
                ("request", REQUEST.clone()),
                ("namespaceObject", NAMESPACE.clone()),
                ("authorizer", Type::Library(AUTHORIZER).into()),
            ],
            variables: BTreeMap::new(),
        }
    }
}

impl RequestScope {
    pub fn with_params(mut self, of: Declared) -> RequestScope {
        self.names.push(("params", of));
        self
    }

    /// Sets the type of `object` and `oldObject`.
    pub fn with_object(mut self, of: &Declared) -> RequestScope {
        let objects = self.names.iter_mut().filter(|(name, _)| matches!(*name, "object" | "oldObject"));
        objects.for_each(|(_, known)| known.clone_from(of));
        self
    }

    /// For expressions that may not check authorization.
    #[must_use]
    pub fn without_authorizer(&self) -> RequestScope {
        let mut scope = self.clone();
        scope.names.retain(|(name, _)| *name != "authorizer");
        scope
    }

    pub fn add_variable(&mut self, name: &str, of: Type) {
        self.variables.insert(name.to_owned(), of.into());
    }

    /// For expressions of a policy: they may use its variables.
    pub fn policy_scope(&self) -> Scope<'_> {
        self.scope().with("variables", Declared::object("kubernetes.variables", self.variables.clone(), 2))
    }

    pub fn scope(&self) -> Scope<'_> {
        self.names.iter().fold(Scope::new(), |scope, (name, of)| scope.with_borrowed(name, of))
    }
}

static REQUEST: LazyLock<Declared> = LazyLock::new(|| {
    let text = || Declared::from(Type::String);
    let kind = || object("GroupVersionKind", [("group", text()), ("version", text()), ("kind", text())]);
    let resource =
        || object("GroupVersionResource", [("group", text()), ("version", text()), ("resource", text())]);
    let user = object(
        "UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", Declared::list(text(), 0)),
            ("extra", Declared::map(Declared::list(text(), 0), 0)),
        ],
    );
    object(
        "AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool.into()),
            ("options", Type::Dyn.into()),
        ],
    )
});

static NAMESPACE: LazyLock<Declared> = LazyLock::new(|| {
    let text = || Declared::from(Type::String);
    let texts = || Declared::list(text(), 0);
    let time = || Declared::from(Type::Timestamp);
    let condition = object(
        "NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let metadata = object(
        "NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", Declared::map(text(), 0)),
            ("annotations", Declared::map(text(), 0)),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", Type::Int.into()),
            ("deletionTimestamp", time()),
            ("generation", Type::Int.into()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let status = object("NamespaceStatus", [("conditions", Declared::list(condition, 0)), ("phase", text())]);
    let spec = object("NamespaceSpec", [("finalizers", texts())]);
    object("Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
});

fn object<const N: usize>(name: &str, fields: [(&str, Declared); N]) -> Declared {
    let fields = fields.into_iter().map(|(field, of)| (super::names::escape(field).unwrap_or_default(), of));
    Declared::object(&format!("kubernetes.{name}"), fields.collect(), 2)
}
