//! The name that selectors of devices use (resource.k8s.io).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::library::QUANTITY;
use super::scope::Scope;
use super::types::{ObjectType, Type};

/// `device`, with its driver, its attributes and capacities by domain and name, and whether several claims may share it.
pub(crate) fn device_scope() -> Scope<'static> {
    let by_domain = |of: Type| Type::map(Type::String, Type::map(Type::String, of));
    let fields = [
        ("allowMultipleAllocations", Type::Bool),
        ("attributes", by_domain(Type::Dyn)),
        ("capacity", by_domain(Type::Library(QUANTITY))),
        ("driver", Type::String),
    ];
    let fields: BTreeMap<_, _> = fields.into_iter().map(|(name, of)| (name.to_owned(), of.into())).collect();
    Scope::new().with(
        "device",
        Type::Object(Arc::new(ObjectType { name: "kubernetes.DRADevice".to_owned(), fields })),
    )
}
