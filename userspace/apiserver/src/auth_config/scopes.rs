//! The names that expressions of configuration files may use, with their types.

use std::sync::LazyLock;

use skep_api::cel::{Declared, Scope, Type};

pub(crate) const CLAIMS: &str = "claims";
pub(crate) const USER: &str = "user";
pub(crate) const REQUEST: &str = "request";

/// For expressions about the claims of a token.
pub(super) fn claims() -> Scope<'static> {
    Scope::new().with_borrowed(CLAIMS, &CLAIMS_TYPE)
}

/// For expressions about the user whom a token names.
pub(super) fn user() -> Scope<'static> {
    Scope::new().with_borrowed(USER, &USER_TYPE)
}

/// For expressions about the spec of a SubjectAccessReview.
pub(super) fn request() -> Scope<'static> {
    Scope::new().with_borrowed(REQUEST, &REQUEST_TYPE)
}

static CLAIMS_TYPE: LazyLock<Declared> = LazyLock::new(|| Declared::map(Type::Dyn.into(), 0));

static USER_TYPE: LazyLock<Declared> = LazyLock::new(|| {
    object("UserInfo", [("username", text()), ("uid", text()), ("groups", texts()), ("extra", lists())])
});

static REQUEST_TYPE: LazyLock<Declared> = LazyLock::new(|| {
    let requirement =
        || object("SelectorRequirement", [("key", text()), ("operator", text()), ("values", texts())]);
    let selector = |name: &str| {
        object(name, [("rawSelector", text()), ("requirements", Declared::list(requirement(), 0))])
    };
    let resource = object(
        "ResourceAttributes",
        [
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("FieldSelectorAttributes")),
            ("labelSelector", selector("LabelSelectorAttributes")),
        ],
    );
    let path = object("NonResourceAttributes", [("path", text()), ("verb", text())]);
    object(
        "SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", text()),
            ("groups", texts()),
            ("extra", lists()),
            ("uid", text()),
        ],
    )
});

fn text() -> Declared {
    Type::String.into()
}

fn texts() -> Declared {
    Declared::list(text(), 0)
}

fn lists() -> Declared {
    Declared::map(texts(), 0)
}

/// `namespace` is a reserved word of CEL: expressions name the field by its escaped form.
fn object<const N: usize>(name: &str, fields: [(&str, Declared); N]) -> Declared {
    let fields = fields.into_iter().map(|(field, of)| {
        let field = if field == "namespace" { "__namespace__" } else { field };
        (field.to_owned(), of)
    });
    Declared::object(&format!("kubernetes.{name}"), fields.collect(), 2)
}
