//! The variable `authorizer`: checks whether the requester, or a service account, may do something else.
//!
//! Each call adds to the check, as in upstream's `kubernetes.authz` library:
//! `authorizer.group('').resource('pods').namespace('a').check('create').allowed()`. The server decides.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::budget::CelError;
use super::functions::{Implementation, Table};
use super::types::Type;
use super::values::{Opaque, Value, no_overload};
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
    /// Why the check failed; empty unless it did.
    pub error: String,
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
pub(super) const PATH: &str = "kubernetes.authorization.PathCheck";
pub(super) const GROUP: &str = "kubernetes.authorization.GroupCheck";
pub(super) const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.step_type()).field("check", &self.check).finish()
    }
}

impl PartialEq for Authorizer {
    fn eq(&self, other: &Authorizer) -> bool {
        self.step == other.step && self.check == other.check
    }
}

impl Eq for Authorizer {}

/// Name, overload, the type that it is called on, its parameters and result.
type Function<'t> = (&'static str, &'static str, &'static str, &'t [Type], Type, Implementation);

/// Declares the functions of checks.
pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, String};
    let texts = [String, String];
    let functions: [Function<'_>; 15] = [
        ("path", "authorizer_path", AUTHORIZER, &texts[..1], of(PATH), |args| step(args, "path")),
        ("group", "authorizer_group", AUTHORIZER, &texts[..1], of(GROUP), |args| step(args, "group")),
        ("serviceAccount", "authorizer_serviceaccount", AUTHORIZER, &texts, of(AUTHORIZER), |args| {
            step(args, "serviceAccount")
        }),
        ("resource", "groupcheck_resource", GROUP, &texts[..1], of(RESOURCE), |args| step(args, "resource")),
        ("subresource", "resourcecheck_subresource", RESOURCE, &texts[..1], of(RESOURCE), |args| {
            step(args, "subresource")
        }),
        ("namespace", "resourcecheck_namespace", RESOURCE, &texts[..1], of(RESOURCE), |args| {
            step(args, "namespace")
        }),
        ("name", "resourcecheck_name", RESOURCE, &texts[..1], of(RESOURCE), |args| step(args, "name")),
        ("check", "pathcheck_check", PATH, &texts[..1], of(DECISION), |args| step(args, "check")),
        ("check", "resourcecheck_check", RESOURCE, &texts[..1], of(DECISION), |args| step(args, "check")),
        ("fieldSelector", "authorizer_fieldselector", RESOURCE, &texts[..1], of(RESOURCE), |args| {
            step(args, "fieldSelector")
        }),
        ("labelSelector", "authorizer_labelselector", RESOURCE, &texts[..1], of(RESOURCE), |args| {
            step(args, "labelSelector")
        }),
        ("allowed", "decision_allowed", DECISION, &[], Bool, |args| step(args, "allowed")),
        ("errored", "decision_errored", DECISION, &[], Bool, |args| step(args, "errored")),
        ("reason", "decision_reason", DECISION, &[], String, |args| step(args, "reason")),
        ("error", "decision_error", DECISION, &[], String, |args| step(args, "error")),
    ];
    for (function, id, on, params, result, call) in functions {
        let params: Vec<Type> = std::iter::once(of(on)).chain(params.iter().cloned()).collect();
        table.member(function, id, params, result, call);
    }
}

fn of(name: &'static str) -> Type {
    Type::Library(name)
}

fn step<'a>(args: &[Value<'a>], name: &str) -> Result<Value<'a>, CelError> {
    match args {
        [on, args @ ..] => match on.as_library::<Authorizer>() {
            Some(authorizer) => authorizer.call(name, args),
            None => no_overload(),
        },
        _ => no_overload(),
    }
}

/// The type of a field of a type of this library.
pub(super) fn field_type(type_name: &str, field: &str) -> Option<Type> {
    (type_name == AUTHORIZER && field == "requestResource").then_some(of(RESOURCE))
}

impl Opaque for Authorizer {
    fn type_name(&self) -> &'static str {
        self.step_type()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn field(&self, name: &str) -> Option<Value<'static>> {
        field_type(self.step_type(), name)?;
        Some(self.next(Step::Resource, (*self.request).clone()))
    }
}

impl Authorizer {
    /// The variable for an expression, with a check for `authorizer.requestResource`.
    pub fn variable(server: Arc<dyn Authorize>, request: AccessCheck) -> Value<'static> {
        let (request, check) = (Arc::new(request), AccessCheck::default());
        Value::library(Authorizer { server, request, step: Step::Authorizer, check })
    }

    fn step_type(&self) -> &'static str {
        match self.step {
            Step::Authorizer => AUTHORIZER,
            Step::Path => PATH,
            Step::Group => GROUP,
            Step::Resource => RESOURCE,
            Step::Decision(_) => DECISION,
        }
    }

    fn next<'a>(&self, step: Step, check: AccessCheck) -> Value<'a> {
        Value::library(Authorizer { step, check, ..self.clone() })
    }

    fn call<'a>(&self, name: &str, args: &[Value<'_>]) -> Result<Value<'a>, CelError> {
        let failed = |why: &str| Err(CelError::Evaluation(why.to_owned()));
        let texts: Option<Vec<&str>> = args.iter().map(text).collect();
        let Some(texts) = texts else { return no_overload() };
        let first = texts.first().copied().unwrap_or_default();
        let blank = first.trim().is_empty();
        let mut check = self.check.clone();
        let step = match (&self.step, name) {
            (Step::Decision(decision), _) => return Ok(field_of(decision, name)),
            (_, "path") if blank => return failed("path must not be empty"),
            (_, "resource") if blank => return failed("resource must not be empty"),
            (_, "serviceAccount") => {
                let (namespace, account) = (first, texts.get(1).copied().unwrap_or_default());
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

fn field_of<'a>(decision: &AccessDecision, name: &str) -> Value<'a> {
    match name {
        "allowed" => Value::Bool(decision.allowed),
        "reason" => Value::text(&decision.reason),
        "errored" => Value::Bool(!decision.error.is_empty()),
        _ => Value::text(&decision.error),
    }
}

fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::cel::{Bindings, Budget, PER_CALL, RequestScope, compile, evaluate};

    /// Allows checks of a service account or of the path `/healthz`, and records all checks.
    #[derive(Default)]
    struct Server(Mutex<Vec<AccessCheck>>);

    impl Authorize for Server {
        fn decide(&self, check: &AccessCheck) -> AccessDecision {
            self.0.lock().unwrap().push(check.clone());
            let allowed = check.account.is_some() || check.path == "/healthz";
            AccessDecision { allowed, reason: "because".to_owned(), error: String::new() }
        }
    }

    fn evaluate_checks(source: &str) -> (Result<Value<'static>, CelError>, Vec<AccessCheck>) {
        let server = Arc::new(Server::default());
        let about =
            AccessCheck { resource: "pods".to_owned(), name: "p".to_owned(), ..AccessCheck::default() };
        let bindings = Bindings::from([("authorizer", Authorizer::variable(server.clone(), about))]);
        let program = match compile(source, &RequestScope::default().scope()) {
            Ok(checked) => checked.into_program(),
            Err(error) => return (Err(error), Vec::new()),
        };
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
            ("authorizer.check('get').allowed()", Err("found no matching overload for 'check'")),
            ("authorizer.other == 1", Err("undefined field 'other'")),
        ] {
            match (evaluate_checks(source).0, wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, Value::Bool(wanted), "{source}"),
                (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{source}: {error}"),
                (found, wanted) => panic!("{source}: {found:?} {wanted:?}"),
            }
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
