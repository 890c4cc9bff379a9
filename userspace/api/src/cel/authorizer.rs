//! The variable `authorizer`: checks whether the requester, or a service account, may do something else.
//!
//! Each call adds to the check, as in upstream's `kubernetes.authz` library:
//! `authorizer.group('').resource('pods').namespace('a').check('create').allowed()`. The server decides.

use std::fmt;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::Opaque;

use super::budget::CelError;
use super::types::{REQUEST, Type};
use crate::names::{NameForm, name_problem};

/// An access check for the server to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessCheck {
    /// Namespace and name of the service account to check; `None` for the requester.
    pub account: Option<(String, String)>,
    pub verb: String,
    /// Set for a check of a path; empty for a check of a resource.
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

/// The answer to an [`AccessCheck`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessDecision {
    pub allowed: bool,
    pub reason: String,
}

/// The authorizer behind the variable.
pub trait Authorize: Send + Sync {
    fn decide(&self, check: &AccessCheck) -> AccessDecision;
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Authorizer,
    Path,
    Group,
    Resource,
    Decision(AccessDecision),
}

/// The variable, and the value of each step after it.
#[derive(Clone)]
pub struct Authorizer {
    server: Arc<dyn Authorize>,
    /// The check that `authorizer.requestResource` starts with.
    request: Arc<AccessCheck>,
    step: Step,
    check: AccessCheck,
}

pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const PATH: &str = "kubernetes.authorization.PathCheck";
const GROUP: &str = "kubernetes.authorization.GroupCheck";
const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
const DECISION: &str = "kubernetes.authorization.Decision";
/// Cost units of a check: a budget of [`PER_CALL`](super::PER_CALL) allows two (upstream's value).
const CHECK_COST: u64 = 350_000;

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.type_name()).field("check", &self.check).finish()
    }
}

impl PartialEq for Authorizer {
    fn eq(&self, other: &Authorizer) -> bool {
        self.step == other.step && self.check == other.check
    }
}

impl Eq for Authorizer {}

impl Opaque for Authorizer {
    fn runtime_type_name(&self) -> &str {
        self.type_name()
    }
}

/// The number of arguments and the result of a function; `None` if the type lacks the function.
pub(super) fn function(type_name: &str, name: &str) -> Option<(usize, Type)> {
    let of = |name: &str| Type::Message(name.to_owned());
    Some(match (type_name, name) {
        (AUTHORIZER, "path") => (1, of(PATH)),
        (AUTHORIZER, "group") => (1, of(GROUP)),
        (AUTHORIZER, "serviceAccount") => (2, of(AUTHORIZER)),
        (GROUP, "resource") => (1, of(RESOURCE)),
        (RESOURCE, "subresource" | "namespace" | "name" | "fieldSelector" | "labelSelector") => {
            (1, of(RESOURCE))
        }
        (PATH | RESOURCE, "check") => (1, of(DECISION)),
        (DECISION, "allowed" | "errored") => (0, Type::Bool),
        (DECISION, "reason" | "error") => (0, Type::String(REQUEST)),
        _ => return None,
    })
}

/// Whether a type name belongs to this library.
pub(super) fn is_type(name: &str) -> bool {
    name.starts_with("kubernetes.authorization.")
}

pub(super) fn field_type(type_name: &str, field: &str) -> Option<Type> {
    (type_name == AUTHORIZER && field == "requestResource").then(|| Type::Message(RESOURCE.to_owned()))
}

pub(super) fn cost(name: &str) -> u64 {
    if name == "check" { CHECK_COST } else { 1 }
}

impl Authorizer {
    /// The variable for an expression, with a check for `authorizer.requestResource`.
    pub fn variable(server: Arc<dyn Authorize>, request: AccessCheck) -> Value {
        let (request, check) = (Arc::new(request), AccessCheck::default());
        Value::Opaque(Arc::new(Authorizer { server, request, step: Step::Authorizer, check }))
    }

    pub(super) fn of(value: &Value) -> Option<&Authorizer> {
        match value {
            Value::Opaque(opaque) => opaque.downcast_ref::<Authorizer>(),
            _ => None,
        }
    }

    fn type_name(&self) -> &'static str {
        match self.step {
            Step::Authorizer => AUTHORIZER,
            Step::Path => PATH,
            Step::Group => GROUP,
            Step::Resource => RESOURCE,
            Step::Decision(_) => DECISION,
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<Value> {
        field_type(self.type_name(), name)?;
        Some(self.next(Step::Resource, (*self.request).clone()))
    }

    fn next(&self, step: Step, check: AccessCheck) -> Value {
        Value::Opaque(Arc::new(Authorizer { step, check, ..self.clone() }))
    }

    pub(super) fn call(&self, name: &str, args: &[Value]) -> Result<Value, CelError> {
        let failed = |why: &str| Err(CelError::Evaluation(why.to_owned()));
        let texts: Option<Vec<&str>> = args.iter().map(text).collect();
        let (Some(texts), Some((count, _))) = (texts, function(self.type_name(), name)) else {
            return failed("no such overload");
        };
        if texts.len() != count {
            return failed("no such overload");
        }
        let first = texts.first().copied().unwrap_or_default();
        let blank = first.trim().is_empty();
        let mut check = self.check.clone();
        let step = match (&self.step, name) {
            (Step::Decision(decision), _) => return Ok(field_of(decision, name)),
            (_, "path") if blank => return failed("path must not be empty"),
            (_, "resource") if blank => return failed("resource must not be empty"),
            (_, "serviceAccount") => {
                let (namespace, account) = (first, texts[1]);
                if name_problem(account, NameForm::Subdomain).is_some() {
                    return failed("Invalid service account name");
                }
                if name_problem(namespace, NameForm::Label).is_some() {
                    return failed("Invalid service account namespace");
                }
                check.account = Some((namespace.to_owned(), account.to_owned()));
                Step::Authorizer
            }
            (_, "check") => {
                check.verb = first.to_owned();
                Step::Decision(self.server.decide(&check))
            }
            (_, name) => {
                let (field, step) = match name {
                    "path" => (&mut check.path, Step::Path),
                    "group" => (&mut check.group, Step::Group),
                    "resource" => (&mut check.resource, Step::Resource),
                    "subresource" => (&mut check.subresource, Step::Resource),
                    "namespace" => (&mut check.namespace, Step::Resource),
                    "name" => (&mut check.name, Step::Resource),
                    // RBAC has no selectors: a right to all objects includes a right to some.
                    _ => return Ok(self.next(Step::Resource, check)),
                };
                first.clone_into(field);
                step
            }
        };
        Ok(self.next(step, check))
    }
}

fn field_of(decision: &AccessDecision, name: &str) -> Value {
    match name {
        "allowed" => Value::Bool(decision.allowed),
        "reason" => Value::String(Arc::new(decision.reason.clone())),
        "errored" => Value::Bool(false),
        _ => Value::String(Arc::default()),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::cel::{Bindings, Budget, PER_CALL, Program, evaluate};

    /// Allows checks of a service account or of the path `/healthz`, and records all checks.
    #[derive(Default)]
    struct Server(Mutex<Vec<AccessCheck>>);

    impl Authorize for Server {
        fn decide(&self, check: &AccessCheck) -> AccessDecision {
            self.0.lock().unwrap().push(check.clone());
            let allowed = check.account.is_some() || check.path == "/healthz";
            AccessDecision { allowed, reason: "because".to_owned() }
        }
    }

    fn evaluate_checks(source: &str) -> (Result<Value, CelError>, Vec<AccessCheck>) {
        let server = Arc::new(Server::default());
        let about =
            AccessCheck { resource: "pods".to_owned(), name: "p".to_owned(), ..AccessCheck::default() };
        let bindings = Bindings::from([("authorizer", Authorizer::variable(server.clone(), about))]);
        let program = Program::compile(source).unwrap();
        let value = evaluate(&program, &bindings, &mut Budget(PER_CALL));
        let checks = server.0.lock().unwrap().clone();
        (value, checks)
    }

    #[test]
    fn a_check_is_built_step_by_step() {
        let source = "authorizer.group('apps').resource('deployments').subresource('scale').namespace('a').name('b').check('get').allowed()";
        let (value, checks) = evaluate_checks(source);
        assert_eq!(value, Ok(Value::Bool(false)));
        let text = str::to_owned;
        let wanted = AccessCheck {
            verb: text("get"),
            group: text("apps"),
            resource: text("deployments"),
            subresource: text("scale"),
            namespace: text("a"),
            name: text("b"),
            ..AccessCheck::default()
        };
        assert_eq!(checks, [wanted]);
    }

    #[test]
    fn a_check_is_for_the_account_that_it_names() {
        for (source, wanted) in [
            ("authorizer.path('/healthz').check('get').allowed()", Ok(true)),
            ("authorizer.path('/x').check('get').reason() == 'because'", Ok(true)),
            (
                "authorizer.serviceAccount('default', 'a').group('').resource('pods').check('get').allowed()",
                Ok(true),
            ),
            ("authorizer.requestResource.check('update').allowed()", Ok(false)),
            ("authorizer.requestResource.check('update').errored()", Ok(false)),
            ("authorizer.path(' ').check('get').allowed()", Err("path must not be empty")),
            ("authorizer.group('').resource('').check('get').allowed()", Err("resource must not be empty")),
            (
                "authorizer.serviceAccount('a b', 'c').path('/x').check('get').allowed()",
                Err("Invalid service account namespace"),
            ),
            (
                "authorizer.serviceAccount('a', 'c@').path('/x').check('get').allowed()",
                Err("Invalid service account name"),
            ),
            ("authorizer.check('get').allowed()", Err("no such overload")),
            ("authorizer.other == 1", Err("no such key: other")),
        ] {
            let found = evaluate_checks(source).0.map_err(|error| error.to_string());
            assert_eq!(found, wanted.map(Value::Bool).map_err(str::to_owned), "{source}");
        }
        let (_, checks) = evaluate_checks("authorizer.requestResource.check('update').allowed()");
        assert_eq!((checks[0].resource.as_str(), checks[0].name.as_str()), ("pods", "p"));
    }

    #[test]
    fn the_budget_allows_two_checks_but_not_three() {
        let check = "authorizer.path('/healthz').check('get').allowed()";
        assert_eq!(evaluate_checks(&format!("{check} && {check}")).0, Ok(Value::Bool(true)));
        assert_eq!(evaluate_checks(&[check; 3].join(" && ")).0, Err(CelError::Budget));
    }
}
