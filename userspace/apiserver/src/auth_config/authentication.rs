//! AuthenticationConfiguration: the issuers whose tokens are accepted, what their claims mean, and anonymous requests.

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use skep_api::Errors;
use skep_api::cel::Scope;
use skep_api::field::Path;

use super::claim_mappings::{self, Mappings};
use super::expressions::{ConfigExpression, compile_predicate};
use super::fields::{Fields, Problems};
use super::{ConfigError, issuer_url, scopes};

const KIND: &str = "AuthenticationConfiguration";
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const MAX_ISSUERS: usize = 64;
const MATCH_ANY: &str = "MatchAny";

/// A valid file.
#[derive(Debug)]
pub(crate) struct AuthenticationConfig {
    pub(crate) issuers: Vec<IssuerConfig>,
    /// `None`: the file does not say.
    pub(crate) anonymous: Option<Anonymous>,
}

/// Which requests without a credential have an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anonymous {
    enabled: bool,
    /// The only paths; all if there are none.
    paths: BTreeSet<String>,
}

impl Anonymous {
    pub(crate) fn everywhere(enabled: bool) -> Anonymous {
        Anonymous { enabled, paths: BTreeSet::new() }
    }

    /// Whether an anonymous request for a path is served. The path is that of the request, not decoded.
    pub(crate) fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.contains(path))
    }
}

/// One issuer of tokens.
#[derive(Debug)]
pub(crate) struct IssuerConfig {
    /// The `iss` of its tokens, byte for byte.
    pub(crate) url: String,
    /// Where its discovery document is.
    pub(crate) discovery_url: String,
    /// PEM; empty: the system's CAs.
    pub(crate) certificate_authority: String,
    /// A token is for at least one of them.
    pub(crate) audiences: Vec<String>,
    pub(crate) claim_rules: Vec<ClaimRule>,
    pub(crate) mappings: Mappings,
    pub(crate) user_rules: Vec<Rule>,
}

#[derive(Debug)]
pub(crate) enum ClaimRule {
    /// A claim that is this text.
    Required {
        claim: String,
        value: String,
    },
    Expression(Rule),
}

/// An expression that must be true, and what to say if it is not.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) expression: ConfigExpression,
    pub(crate) message: String,
}

impl AuthenticationConfig {
    /// From YAML or JSON. `reserved`: the issuer of this cluster's own tokens, which no file can take.
    pub(crate) fn parse(text: &str, reserved: &str) -> Result<AuthenticationConfig, ConfigError> {
        if text.trim().is_empty() {
            return Err(ConfigError::new("empty config data"));
        }
        let (problems, mut errors) = (Problems::default(), Errors::default());
        let config = {
            let mut file = Fields::of_file(text, KIND, &VERSIONS, &problems)?;
            AuthenticationConfig {
                issuers: issuers(file.objects("jwt"), reserved, &mut errors),
                anonymous: file.object("anonymous").map(|fields| anonymous(fields, &mut errors)),
            }
        };
        problems.check()?;
        match ConfigError::of(&errors) {
            Some(error) => Err(ConfigError::new(format!("invalid authentication configuration: {error}"))),
            None => Ok(config),
        }
    }
}

fn issuers(list: Vec<Fields<'_>>, reserved: &str, errors: &mut Errors) -> Vec<IssuerConfig> {
    let root = Path::new("jwt");
    if list.len() > MAX_ISSUERS {
        errors.too_many(&root, list.len(), MAX_ISSUERS);
        // None of their fields is looked at.
        list.into_iter().for_each(Fields::ignore);
        return Vec::new();
    }
    let (mut urls, mut discovery_urls) = (BTreeSet::new(), BTreeSet::new());
    let mut issuers = Vec::new();
    for (at, mut fields) in list.into_iter().enumerate() {
        let path = root.index(at);
        let issuer = path.child("issuer");
        let Some(read) = read_issuer(&mut fields, &path, reserved, errors) else { continue };
        if !urls.insert(read.url.clone()) {
            errors.duplicate(&issuer.child("url"), &read.url.as_str().into());
        }
        let own_discovery = read.discovery_url != well_known(&read.url);
        if own_discovery && !discovery_urls.insert(read.discovery_url.clone()) {
            errors.duplicate(&issuer.child("discoveryURL"), &read.discovery_url.as_str().into());
        }
        issuers.push(read);
    }
    issuers
}

/// `None` if what a user is called cannot be known. The errors say why.
fn read_issuer(
    fields: &mut Fields<'_>,
    path: &Path,
    reserved: &str,
    errors: &mut Errors,
) -> Option<IssuerConfig> {
    let at = path.child("issuer");
    let mut issuer = fields.object_or_empty("issuer");
    let url = issuer.text("url");
    let url_path = at.child("url");
    if url.is_empty() {
        errors.required(&url_path, "");
    } else {
        if url == reserved {
            let why = format!("URL must not overlap with disallowed issuers: [{reserved}]");
            errors.invalid(&url_path, &url.as_str().into(), &why);
        }
        issuer_url::validate(&url, &url_path, errors);
    }
    let discovery_url = read_discovery_url(&mut issuer, &url, &at, errors);
    let audiences = read_audiences(&mut issuer, &at, errors);
    let certificate_authority = issuer.text("certificateAuthority");
    validate_authority(&certificate_authority, &at.child("certificateAuthority"), errors);
    validate_egress(&issuer.text("egressSelectorType"), &at.child("egressSelectorType"), errors);
    let scope = scopes::claims();
    let mut uses_verified = false;
    let rules = fields.objects("claimValidationRules");
    let claim_rules =
        claim_rules(rules, &scope, &path.child("claimValidationRules"), &mut uses_verified, errors);
    let mappings = fields.object_or_empty("claimMappings");
    let mappings =
        claim_mappings::read(mappings, &scope, &path.child("claimMappings"), uses_verified, errors);
    let rules = fields.objects("userValidationRules");
    let user_rules = user_rules(rules, &path.child("userValidationRules"), errors);
    Some(IssuerConfig {
        url,
        discovery_url,
        certificate_authority,
        audiences,
        claim_rules,
        mappings: mappings?,
        user_rules,
    })
}

/// Where an issuer's discovery document is unless its configuration says otherwise (OpenID Connect Discovery 1.0).
fn well_known(url: &str) -> String {
    format!("{}/.well-known/openid-configuration", url.strip_suffix('/').unwrap_or(url))
}

fn read_discovery_url(issuer: &mut Fields<'_>, url: &str, at: &Path, errors: &mut Errors) -> String {
    let (found, path) = (issuer.text("discoveryURL"), at.child("discoveryURL"));
    if found.is_empty() {
        return well_known(url);
    }
    if !url.is_empty() && found.trim_end_matches('/') == url.trim_end_matches('/') {
        errors.invalid(&path, &found.as_str().into(), "discoveryURL must be different from URL");
    }
    issuer_url::validate(&found, &path, errors);
    found
}

fn read_audiences(issuer: &mut Fields<'_>, at: &Path, errors: &mut Errors) -> Vec<String> {
    let (audiences, path) = (issuer.texts("audiences"), at.child("audiences"));
    let policy = issuer.text("audienceMatchPolicy");
    if audiences.is_empty() {
        errors.required(&path, &format!("at least one {path} is required"));
        return audiences;
    }
    let mut known = BTreeSet::new();
    for (at, audience) in audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.required(&path.index(at), "");
        }
        if !known.insert(audience) {
            errors.duplicate(&path.index(at), &audience.as_str().into());
        }
    }
    let path = at.child("audienceMatchPolicy");
    let why = match audiences.len() {
        1 if policy.is_empty() => None,
        1 => Some("audienceMatchPolicy must be empty or MatchAny for single audience"),
        _ => Some("audienceMatchPolicy must be MatchAny for multiple audiences"),
    };
    if let Some(why) = why.filter(|_| policy != MATCH_ANY) {
        errors.invalid(&path, &policy.into(), why);
    }
    audiences
}

fn validate_authority(pem: &str, path: &Path, errors: &mut Errors) {
    if pem.is_empty() {
        return;
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let why = match certificates {
        Ok(all) if all.is_empty() => "data does not contain any valid RSA or ECDSA certificates",
        Ok(all) if all.iter().any(|der| x509_parser::parse_x509_certificate(der).is_err()) => {
            "data contains a certificate that cannot be parsed"
        }
        Ok(_) => return,
        Err(_) => "data is not PEM",
    };
    errors.invalid(path, &"<omitted>".into(), why);
}

/// Connections to issuers go out from the server itself.
fn validate_egress(selector: &str, path: &Path, errors: &mut Errors) {
    let why = match selector {
        "" => return,
        "controlplane" | "cluster" => "egress selector is not supported by this server",
        _ => "egress selector must be either controlplane or cluster",
    };
    errors.invalid(path, &selector.into(), why);
}

fn claim_rules(
    list: Vec<Fields<'_>>,
    scope: &Scope<'_>,
    path: &Path,
    uses_verified: &mut bool,
    errors: &mut Errors,
) -> Vec<ClaimRule> {
    let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
    let mut rules = Vec::new();
    for (at, mut fields) in list.into_iter().enumerate() {
        let path = path.index(at);
        let (claim, value) = (fields.text("claim"), fields.text("requiredValue"));
        let (source, message) = (fields.text("expression"), fields.text("message"));
        match (claim.is_empty(), source.is_empty()) {
            (false, false) => {
                errors.invalid(&path, &claim.into(), "claim and expression can't both be set");
            }
            (true, true) => errors.required(&path, "claim or expression is required"),
            (false, true) => {
                if !message.is_empty() {
                    let why = "may not be specified when claim is set";
                    errors.invalid(&path.child("message"), &message.into(), why);
                }
                if !claims.insert(claim.clone()) {
                    errors.duplicate(&path.child("claim"), &claim.as_str().into());
                }
                rules.push(ClaimRule::Required { claim, value });
            }
            (true, false) => {
                if !value.is_empty() {
                    let why = "may not be specified when expression is set";
                    errors.invalid(&path.child("requiredValue"), &value.into(), why);
                }
                let path = path.child("expression");
                if !expressions.insert(source.clone()) {
                    errors.duplicate(&path, &source.into());
                    continue;
                }
                let Some(checked) = compile_predicate(&source, scope, false, &path, errors) else { continue };
                *uses_verified |= checked.selects(scopes::CLAIMS, claim_mappings::EMAIL_VERIFIED);
                let expression = ConfigExpression::new(&source, checked);
                rules.push(ClaimRule::Expression(Rule { expression, message }));
            }
        }
    }
    rules
}

fn user_rules(list: Vec<Fields<'_>>, path: &Path, errors: &mut Errors) -> Vec<Rule> {
    let (scope, mut known, mut rules) = (scopes::user(), BTreeSet::new(), Vec::new());
    for (at, mut fields) in list.into_iter().enumerate() {
        let path = path.index(at).child("expression");
        let (source, message) = (fields.text("expression"), fields.text("message"));
        if source.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if !known.insert(source.clone()) {
            errors.duplicate(&path, &source.into());
            continue;
        }
        if let Some(checked) = compile_predicate(&source, &scope, false, &path, errors) {
            rules.push(Rule { expression: ConfigExpression::new(&source, checked), message });
        }
    }
    rules
}

fn anonymous(mut fields: Fields<'_>, errors: &mut Errors) -> Anonymous {
    let enabled = fields.flag("enabled").unwrap_or_default();
    let conditions = fields.objects("conditions");
    let paths: Vec<String> = conditions.into_iter().map(|mut condition| condition.text("path")).collect();
    if !enabled && !paths.is_empty() {
        let value = paths.iter().map(|path| serde_json::json!({"path": path})).collect();
        let why = "enabled should be set to true when conditions are defined";
        errors.invalid(&Path::new("anonymous").child("conditions"), &value, why);
    }
    Anonymous { enabled, paths: paths.into_iter().collect() }
}
