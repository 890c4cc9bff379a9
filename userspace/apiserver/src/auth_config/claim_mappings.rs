//! What the claims of a token make of its user.

use std::collections::BTreeSet;

use skep_api::Errors;
use skep_api::cel::{Checked, Scope};
use skep_api::field::Path;
use skep_api::kinds::prefixed_path::validate_prefixed_path;

use super::expressions::{ConfigExpression, compile};
use super::fields::Fields;
use super::scopes::CLAIMS;

const EMAIL: &str = "email";
pub(super) const EMAIL_VERIFIED: &str = "email_verified";

#[derive(Debug)]
pub(crate) struct Mappings {
    pub(crate) username: ClaimSource,
    /// `None`: no groups.
    pub(crate) groups: Option<ClaimSource>,
    /// `None`: no uid.
    pub(crate) uid: Option<ClaimSource>,
    /// By key.
    pub(crate) extra: Vec<(String, ConfigExpression)>,
}

/// Where a value comes from.
#[derive(Debug)]
pub(crate) enum ClaimSource {
    /// Each text of a claim, after a prefix.
    Claim {
        name: String,
        prefix: String,
    },
    Expression(ConfigExpression),
}

/// Whether expressions read the claims about an address of mail.
#[derive(Clone, Copy, Default)]
struct MailClaims {
    address: bool,
    verified: bool,
}

impl MailClaims {
    fn of(checked: &Checked) -> MailClaims {
        MailClaims {
            address: checked.selects(CLAIMS, EMAIL),
            verified: checked.selects(CLAIMS, EMAIL_VERIFIED),
        }
    }
}

/// Reads the mappings. `rules_verify`: whether a rule about claims reads `email_verified`. `None` if there is no username.
pub(super) fn read(
    mut fields: Fields<'_>,
    scope: &Scope<'_>,
    path: &Path,
    rules_verify: bool,
    errors: &mut Errors,
) -> Option<Mappings> {
    let username = fields.object_or_empty("username");
    let username = prefixed_source(username, scope, &path.child("username"), true, errors);
    let groups = fields.object_or_empty("groups");
    let groups = prefixed_source(groups, scope, &path.child("groups"), false, errors);
    let uid = uid_source(fields.object_or_empty("uid"), scope, &path.child("uid"), errors);
    let (extra, extra_verifies) = extra(fields.objects("extra"), scope, &path.child("extra"), errors);
    let (username, mail) = username?;
    if let ClaimSource::Expression(expression) = &username
        && mail.address
        && !(mail.verified || rules_verify || extra_verifies)
    {
        let why = "claims.email_verified must be used in claimMappings.username.expression or \
                   claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is \
                   used in claimMappings.username.expression";
        errors.invalid(&path.child("username").child("expression"), &expression.source().into(), why);
    }
    Some(Mappings { username, groups: groups.map(|(groups, _)| groups), uid, extra })
}

fn prefixed_source(
    mut fields: Fields<'_>,
    scope: &Scope<'_>,
    path: &Path,
    is_required: bool,
    errors: &mut Errors,
) -> Option<(ClaimSource, MailClaims)> {
    let (name, source) = (fields.text("claim"), fields.text("expression"));
    let prefix = fields.optional_text("prefix");
    match (name.is_empty(), source.is_empty()) {
        (false, false) => errors.invalid(path, &"".into(), "claim and expression can't both be set"),
        (true, true) if is_required => errors.required(path, "claim or expression is required"),
        (true, true) => {}
        (true, false) => {
            if let Some(prefix) = prefix {
                let why = "may not be specified when expression is set";
                errors.invalid(&path.child("prefix"), &prefix.into(), why);
            }
            let checked = compile(&source, scope, &path.child("expression"), errors)?;
            let mail = MailClaims::of(&checked);
            return Some((ClaimSource::Expression(ConfigExpression::new(&source, checked)), mail));
        }
        (false, true) => match prefix {
            Some(prefix) => return Some((ClaimSource::Claim { name, prefix }, MailClaims::default())),
            None => errors.required(
                &path.child("prefix"),
                "prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            ),
        },
    }
    None
}

fn uid_source(
    mut fields: Fields<'_>,
    scope: &Scope<'_>,
    path: &Path,
    errors: &mut Errors,
) -> Option<ClaimSource> {
    let (name, source) = (fields.text("claim"), fields.text("expression"));
    match (name.is_empty(), source.is_empty()) {
        (true, true) => None,
        (false, false) => {
            errors.invalid(path, &"".into(), "claim and expression can't both be set");
            None
        }
        (false, true) => Some(ClaimSource::Claim { name, prefix: String::new() }),
        (true, false) => {
            let checked = compile(&source, scope, &path.child("expression"), errors)?;
            Some(ClaimSource::Expression(ConfigExpression::new(&source, checked)))
        }
    }
}

/// The expressions by key, and whether one of them reads `email_verified`.
fn extra(
    list: Vec<Fields<'_>>,
    scope: &Scope<'_>,
    path: &Path,
    errors: &mut Errors,
) -> (Vec<(String, ConfigExpression)>, bool) {
    let (mut known, mut extra, mut verifies) = (BTreeSet::new(), Vec::new(), false);
    for (at, mut fields) in list.into_iter().enumerate() {
        let (key, source) = (fields.text("key"), fields.text("valueExpression"));
        let (key_path, path) = (path.index(at).child("key"), path.index(at).child("valueExpression"));
        validate_prefixed_path(&key, &key_path, errors);
        if key != key.to_lowercase() {
            errors.invalid(&key_path, &key.as_str().into(), "must be lowercase");
        }
        if is_reserved(&key) {
            let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            errors.invalid(&key_path, &key.as_str().into(), why);
        }
        if !known.insert(key.clone()) {
            errors.duplicate(&key_path, &key.into());
            continue;
        }
        if source.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if let Some(checked) = compile(&source, scope, &path, errors) {
            verifies |= MailClaims::of(&checked).verified;
            extra.push((key, ConfigExpression::new(&source, checked)));
        }
    }
    (extra, verifies)
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    ["kubernetes.io", "k8s.io"].iter().any(|reserved| {
        domain.strip_suffix(reserved).is_some_and(|above| above.is_empty() || above.ends_with('.'))
    })
}
