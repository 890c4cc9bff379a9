//! The variable `authorizer`: asks whether who sent a request, or a service account, may do something else.
//!
//! Each call gives the next step of a question, as upstream's `kubernetes.authz` library has them:
//! `authorizer.group('').resource('pods').namespace('a').check('create').allowed()`. Who answers is the server's.

use std::fmt;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::Opaque;

use super::budget::CelError;
use super::types::{REQUEST, Type};
use crate::names::{NameForm, name_problem};

/// A question for the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Namespace and name of the service account that is asked about, if not about who sent the request.
    pub account: Option<(String, String)>,
    pub verb: String,
    /// Of a question about no resource.
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
}

/// Who knows the answers.
pub trait Authorize: Send + Sync {
    fn decide(&self, question: &Question) -> Verdict;
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Authorizer,
    Path,
    Group,
    Resource,
    Decision(Verdict),
}

/// The variable, and each step of a question after it.
#[derive(Clone)]
pub struct Authorizer {
    server: Arc<dyn Authorize>,
    /// What `authorizer.requestResource` asks about.
    request: Arc<Question>,
    step: Step,
    question: Question,
}

pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const PATH: &str = "kubernetes.authorization.PathCheck";
const GROUP: &str = "kubernetes.authorization.GroupCheck";
const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
const DECISION: &str = "kubernetes.authorization.Decision";
/// So that an expression may ask twice (upstream's cost of a check).
const CHECK_COST: u64 = 350_000;

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.type_name()).field("question", &self.question).finish()
    }
}

impl PartialEq for Authorizer {
    fn eq(&self, other: &Authorizer) -> bool {
        self.step == other.step && self.question == other.question
    }
}

impl Eq for Authorizer {}

impl Opaque for Authorizer {
    fn runtime_type_name(&self) -> &str {
        self.type_name()
    }
}

/// What a function of a type takes and gives; `None` if the type has no such function.
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

/// Whether a name of a type is one of these.
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
    /// As an expression sees it: for who sent the request, which is about `request`.
    pub fn variable(server: Arc<dyn Authorize>, request: Question) -> Value {
        let (request, question) = (Arc::new(request), Question::default());
        Value::Opaque(Arc::new(Authorizer { server, request, step: Step::Authorizer, question }))
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

    fn next(&self, step: Step, question: Question) -> Value {
        Value::Opaque(Arc::new(Authorizer { step, question, ..self.clone() }))
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
        let mut question = self.question.clone();
        let step = match (&self.step, name) {
            (Step::Decision(verdict), _) => return Ok(told(verdict, name)),
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
                question.account = Some((namespace.to_owned(), account.to_owned()));
                Step::Authorizer
            }
            (_, "check") => {
                question.verb = first.to_owned();
                Step::Decision(self.server.decide(&question))
            }
            (_, name) => {
                let (place, step) = match name {
                    "path" => (&mut question.path, Step::Path),
                    "group" => (&mut question.group, Step::Group),
                    "resource" => (&mut question.resource, Step::Resource),
                    "subresource" => (&mut question.subresource, Step::Resource),
                    "namespace" => (&mut question.namespace, Step::Resource),
                    "name" => (&mut question.name, Step::Resource),
                    // RBAC knows no selectors: who may ask for all may ask for some.
                    _ => return Ok(self.next(Step::Resource, question)),
                };
                first.clone_into(place);
                step
            }
        };
        Ok(self.next(step, question))
    }
}

fn told(verdict: &Verdict, name: &str) -> Value {
    match name {
        "allowed" => Value::Bool(verdict.allowed),
        "reason" => Value::String(Arc::new(verdict.reason.clone())),
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

    /// Allows what is of a service account or of the path `/healthz`, and remembers what it was asked.
    #[derive(Default)]
    struct Server(Mutex<Vec<Question>>);

    impl Authorize for Server {
        fn decide(&self, question: &Question) -> Verdict {
            self.0.lock().unwrap().push(question.clone());
            let allowed = question.account.is_some() || question.path == "/healthz";
            Verdict { allowed, reason: "because".to_owned() }
        }
    }

    fn asked(source: &str) -> (Result<Value, CelError>, Vec<Question>) {
        let server = Arc::new(Server::default());
        let about = Question { resource: "pods".to_owned(), name: "p".to_owned(), ..Question::default() };
        let bindings = Bindings::from([("authorizer", Authorizer::variable(server.clone(), about))]);
        let program = Program::compile(source).unwrap();
        let value = evaluate(&program, &bindings, &mut Budget(PER_CALL));
        let asked = server.0.lock().unwrap().clone();
        (value, asked)
    }

    #[test]
    fn a_question_is_put_together_step_by_step() {
        let source = "authorizer.group('apps').resource('deployments').subresource('scale').namespace('a').name('b').check('get').allowed()";
        let (value, questions) = asked(source);
        assert_eq!(value, Ok(Value::Bool(false)));
        let text = str::to_owned;
        let wanted = Question {
            verb: text("get"),
            group: text("apps"),
            resource: text("deployments"),
            subresource: text("scale"),
            namespace: text("a"),
            name: text("b"),
            ..Question::default()
        };
        assert_eq!(questions, [wanted]);
    }

    #[test]
    fn answers_are_for_whom_was_asked_about() {
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
            let found = asked(source).0.map_err(|error| error.to_string());
            assert_eq!(found, wanted.map(Value::Bool).map_err(str::to_owned), "{source}");
        }
        let (_, questions) = asked("authorizer.requestResource.check('update').allowed()");
        assert_eq!((questions[0].resource.as_str(), questions[0].name.as_str()), ("pods", "p"));
    }

    #[test]
    fn two_questions_are_affordable_and_three_are_not() {
        let question = "authorizer.path('/healthz').check('get').allowed()";
        assert_eq!(asked(&format!("{question} && {question}")).0, Ok(Value::Bool(true)));
        assert_eq!(asked(&[question; 3].join(" && ")).0, Err(CelError::Budget));
    }
}
