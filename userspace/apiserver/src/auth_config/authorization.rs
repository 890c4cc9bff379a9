//! AuthorizationConfiguration: the authorizers that are asked, in order.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use skep_api::Errors;
use skep_api::field::Path;
use skep_api::names::{NameForm, name_problem};
use skep_api::time;

use super::expressions::{ConfigExpression, compile_predicate};
use super::fields::{Fields, Problems};
use super::{ConfigError, scopes};

const KIND: &str = "AuthorizationConfiguration";
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// The types that this server has. AlwaysAllow, AlwaysDeny and ABAC are not among them.
const TYPES: [&str; 3] = ["Node", "RBAC", "Webhook"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const MAX_CONDITIONS: usize = 64;
const MAX_TIMEOUT: i64 = 30 * SECOND;
const DEFAULT_AUTHORIZED_TTL: i64 = 300 * SECOND;
const DEFAULT_UNAUTHORIZED_TTL: i64 = 30 * SECOND;
/// In nanoseconds.
const SECOND: i64 = 1_000_000_000;

/// A valid file.
#[derive(Debug)]
pub(crate) struct AuthorizationConfig(pub(crate) Vec<AuthorizerConfig>);

#[derive(Debug)]
pub(crate) struct AuthorizerConfig {
    pub(crate) name: String,
    pub(crate) kind: AuthorizerKind,
}

#[derive(Debug)]
pub(crate) enum AuthorizerKind {
    Node,
    Rbac,
    Webhook(Box<WebhookConfig>),
}

impl AuthorizerKind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            AuthorizerKind::Node => "Node",
            AuthorizerKind::Rbac => "RBAC",
            AuthorizerKind::Webhook(_) => "Webhook",
        }
    }
}

#[derive(Debug)]
pub(crate) struct WebhookConfig {
    pub(crate) timeout: Duration,
    /// The version of SubjectAccessReview that it gets.
    pub(crate) version: &'static str,
    pub(crate) failure_policy: FailurePolicy,
    /// `None`: such answers are not kept.
    pub(crate) authorized_ttl: Option<Duration>,
    pub(crate) unauthorized_ttl: Option<Duration>,
    pub(crate) kubeconfig: PathBuf,
    /// A request must meet all of them; others are not its business.
    pub(crate) conditions: Vec<ConfigExpression>,
}

/// What follows if a webhook cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailurePolicy {
    NoOpinion,
    Deny,
}

impl AuthorizationConfig {
    /// From YAML or JSON. The files of webhooks' connections must exist; they are read later.
    pub(crate) fn parse(text: &str) -> Result<AuthorizationConfig, ConfigError> {
        let read = || {
            let (problems, mut errors) = (Problems::default(), Errors::default());
            let list = {
                let mut file = Fields::of_file(text, KIND, &VERSIONS, &problems)?;
                authorizers(file.objects("authorizers"), &mut errors)
            };
            problems.check()?;
            Ok((list, errors))
        };
        let (list, errors) = read().map_err(|error: ConfigError| {
            ConfigError::new(format!("failed to load AuthorizationConfiguration from file: {error}"))
        })?;
        if let Some(error) = ConfigError::of(&errors) {
            return Err(error);
        }
        let own = list.iter().filter(|it| !matches!(it.kind, AuthorizerKind::Webhook(_)));
        let misnamed = own.filter(|it| it.name != it.kind.name().to_lowercase()).map(|it| {
            let kind = it.kind.name();
            format!("expected name {} for authorizer {kind} instead of {}", kind.to_lowercase(), it.name)
        });
        match ConfigError::joined(misnamed.collect()) {
            Some(error) => Err(error),
            None => Ok(AuthorizationConfig(list)),
        }
    }

    /// The types that are not webhooks.
    pub(crate) fn own_types(&self) -> BTreeSet<&'static str> {
        let own = self.0.iter().filter(|it| !matches!(it.kind, AuthorizerKind::Webhook(_)));
        own.map(|it| it.kind.name()).collect()
    }
}

fn authorizers(list: Vec<Fields<'_>>, errors: &mut Errors) -> Vec<AuthorizerConfig> {
    let root = Path::new("authorizers");
    if list.is_empty() {
        errors.required(&root, "at least one authorization mode must be defined");
    }
    let (mut types, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut authorizers = Vec::new();
    for (at, mut fields) in list.into_iter().enumerate() {
        let path = root.index(at);
        let (kind, name) = (fields.text("type"), fields.text("name"));
        let mut of_webhook = Errors::default();
        let webhook = fields.object("webhook").map(|webhook| read_webhook(webhook, &path, &mut of_webhook));
        if !validate_type(&kind, &path.child("type"), &mut types, errors) {
            continue;
        }
        validate_name(&name, &path.child("name"), &mut names, errors);
        let kind = match (kind.as_str(), webhook) {
            ("Webhook", Some(webhook)) => {
                errors.0.append(&mut of_webhook.0);
                webhook.map(Box::new).map(AuthorizerKind::Webhook)
            }
            ("Webhook", None) => {
                errors.required(&path.child("webhook"), "required when type=Webhook");
                None
            }
            (_, Some(_)) => {
                let why = "may only be specified when type=Webhook";
                errors.invalid(&path.child("webhook"), &"non-null".into(), why);
                None
            }
            ("Node", None) => Some(AuthorizerKind::Node),
            _ => Some(AuthorizerKind::Rbac),
        };
        authorizers.extend(kind.map(|kind| AuthorizerConfig { name, kind }));
    }
    authorizers
}

/// Whether the type is one that may be at this position.
fn validate_type(kind: &str, path: &Path, known: &mut BTreeSet<String>, errors: &mut Errors) -> bool {
    let is_new = known.insert(kind.to_owned());
    if kind.is_empty() {
        errors.required(path, "");
    } else if !TYPES.contains(&kind) {
        errors.not_supported(path, &kind.into(), &TYPES);
    } else if !is_new && kind != "Webhook" {
        errors.duplicate(path, &kind.into());
    } else {
        return true;
    }
    false
}

fn validate_name(name: &str, path: &Path, known: &mut BTreeSet<String>, errors: &mut Errors) {
    let is_new = known.insert(name.to_owned());
    if name.is_empty() {
        errors.required(path, "");
    } else if !is_new {
        errors.duplicate(path, &name.into());
    } else if let Some(problem) = name_problem(name, NameForm::Subdomain) {
        errors.invalid(path, &name.into(), &format!("authorizer name is invalid: {problem}"));
    }
}

/// Upstream's errors about a webhook are at the fields of its authorizer. `None` if there are any.
fn read_webhook(mut fields: Fields<'_>, path: &Path, errors: &mut Errors) -> Option<WebhookConfig> {
    let timeout = read_timeout(fields.duration("timeout"), &path.child("timeout"), errors);
    let authorized_ttl = read_ttl(
        &mut fields,
        ["authorizedTTL", "cacheAuthorizedRequests"],
        DEFAULT_AUTHORIZED_TTL,
        path,
        errors,
    );
    let unauthorized_ttl = read_ttl(
        &mut fields,
        ["unauthorizedTTL", "cacheUnauthorizedRequests"],
        DEFAULT_UNAUTHORIZED_TTL,
        path,
        errors,
    );
    let version = fields.text("subjectAccessReviewVersion");
    let version = one_of(&version, &REVIEW_VERSIONS, &path.child("subjectAccessReviewVersion"), errors);
    let of_conditions = fields.text("matchConditionSubjectAccessReviewVersion");
    let conditions = fields.objects("matchConditions");
    let version_path = path.child("matchConditionSubjectAccessReviewVersion");
    match (of_conditions.as_str(), conditions.is_empty()) {
        ("v1", _) | ("", true) => {}
        ("", false) => errors.required(&version_path, "required if match conditions are specified"),
        _ => errors.not_supported(&version_path, &of_conditions.into(), &["v1"]),
    }
    let policy = fields.text("failurePolicy");
    let policy = one_of(&policy, &["NoOpinion", "Deny"], &path.child("failurePolicy"), errors);
    let connection = fields.object_or_empty("connectionInfo");
    let kubeconfig = read_connection(connection, &path.child("connectionInfo"), errors);
    let conditions = read_conditions(conditions, &path.child("matchConditions"), errors);
    Some(WebhookConfig {
        timeout: timeout?,
        version: version?,
        failure_policy: if policy? == "Deny" { FailurePolicy::Deny } else { FailurePolicy::NoOpinion },
        authorized_ttl,
        unauthorized_ttl,
        kubeconfig: kubeconfig?,
        conditions,
    })
}

/// The value if it is a supported one.
fn one_of(value: &str, supported: &[&'static str], path: &Path, errors: &mut Errors) -> Option<&'static str> {
    let found = supported.iter().copied().find(|known| *known == value);
    match found {
        None if value.is_empty() => errors.required(path, ""),
        None => errors.not_supported(path, &value.into(), supported),
        Some(_) => {}
    }
    found
}

fn read_timeout(timeout: i64, path: &Path, errors: &mut Errors) -> Option<Duration> {
    if timeout == 0 {
        errors.required(path, "");
    } else if !(0..=MAX_TIMEOUT).contains(&timeout) {
        errors.invalid(path, &time::go_duration(timeout).into(), "must be > 0s and <= 30s");
    }
    u64::try_from(timeout).ok().map(Duration::from_nanos)
}

/// How long answers are kept; the second field turns that off.
fn read_ttl(
    fields: &mut Fields<'_>,
    [name, is_on]: [&str; 2],
    default: i64,
    path: &Path,
    errors: &mut Errors,
) -> Option<Duration> {
    let (ttl, is_on) = (fields.duration(name), fields.flag(is_on).unwrap_or(true));
    if ttl < 0 {
        errors.invalid(&path.child(name), &time::go_duration(ttl).into(), "must be > 0s");
    }
    let ttl = if ttl == 0 { default } else { ttl };
    u64::try_from(ttl).ok().filter(|_| is_on).map(Duration::from_nanos)
}

fn read_connection(mut fields: Fields<'_>, path: &Path, errors: &mut Errors) -> Option<PathBuf> {
    let (kind, file) = (fields.text("type"), fields.text("kubeConfigFile"));
    let kind_path = path.child("type");
    // A webhook is not reached with the server's own rights.
    one_of(&kind, &["KubeConfigFile"], &kind_path, errors)?;
    let path = path.child("kubeConfigFile");
    let problem = match (FilePath::new(&file), std::fs::metadata(&file)) {
        _ if file.is_empty() => {
            errors.required(&path, "");
            return None;
        }
        (file, _) if !file.is_absolute() => "must be an absolute path".to_owned(),
        (_, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("error loading file: stat {file}: no such file or directory")
        }
        (_, Err(error)) => format!("error loading file: stat {file}: {error}"),
        (_, Ok(found)) if !found.is_file() => "must be a regular file".to_owned(),
        _ => return Some(PathBuf::from(file)),
    };
    errors.invalid(&path, &file.into(), &problem);
    None
}

fn read_conditions(list: Vec<Fields<'_>>, path: &Path, errors: &mut Errors) -> Vec<ConfigExpression> {
    let sources: Vec<String> = list.into_iter().map(|mut condition| condition.text("expression")).collect();
    if sources.len() > MAX_CONDITIONS {
        errors.too_many(path, sources.len(), MAX_CONDITIONS);
        return Vec::new();
    }
    let (scope, mut known, mut conditions) = (scopes::request(), BTreeSet::new(), Vec::new());
    for (at, source) in sources.iter().enumerate() {
        let path = path.index(at).child("expression");
        if source.trim().is_empty() {
            errors.required(&path, "");
        } else if !known.insert(source) {
            errors.duplicate(&path, &source.as_str().into());
        } else if let Some(checked) = compile_predicate(source, &scope, true, &path, errors) {
            conditions.push(ConfigExpression::new(source, checked));
        }
    }
    conditions
}
