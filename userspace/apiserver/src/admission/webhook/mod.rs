//! Mutating and validating webhooks: which to call for a request, in which order, and the meaning of their answers.

mod hook;
mod review;

use futures::future::join_all;
use serde_json::Value;
use skep_api::Status;
use skep_api::cel::{Budget, PER_CONDITIONS};

use super::reinvocation::Reinvocation;
use super::request::Request;
use super::variables::bindings;
use super::versioned_attributes::VersionedAttributes;
use crate::blocking::run_blocking;
use review::Answer;

pub(super) use hook::Hook;

/// The position of a call among the calls for a request.
#[derive(Clone, Copy)]
struct Invocation {
    mutating: bool,
    round: usize,
    index: usize,
}

impl Invocation {
    /// The key of the audit annotation for a failure that is ignored.
    fn failed_open_key(self) -> String {
        let form = if self.mutating { "mutation" } else { "validating" };
        format!("failed-open.{form}.webhook.admission.k8s.io/round_{}_index_{}", self.round, self.index)
    }
}

impl Hook {
    /// The request in the webhook's version if the webhook matches it.
    async fn match_request(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<Option<VersionedAttributes>, Status> {
        let Some(kind) = self.rules.match_request(request, object) else { return Ok(None) };
        let versioned = VersionedAttributes::of(request, kind, object).await?;
        if self.conditions.is_empty() {
            return Ok(Some(versioned));
        }
        match run_blocking(|| {
            self.conditions.hold(&bindings(request, &versioned), &mut Budget(PER_CONDITIONS))
        }) {
            Ok(holds) => Ok(Some(versioned).filter(|_| holds)),
            Err(_) if self.ignores_failure => Ok(None),
            Err(why) => Err(request.forbidden(object, why)),
        }
    }

    /// Calls the webhook. `None` if it failed and its policy ignores failures, which the audit event records.
    async fn call(
        &self,
        request: &Request<'_>,
        versioned: &VersionedAttributes,
        invocation: Invocation,
    ) -> Result<Option<Answer>, Status> {
        if request.dry_run && !self.allows_dry_run {
            return Err(Status::bad_request(format!(
                "admission webhook \"{}\" does not support dry run",
                self.name
            )));
        }
        match review::call(self, request, versioned, invocation.mutating).await {
            Ok(answer) => {
                self.note(request, &answer);
                Ok(Some(answer))
            }
            Err(error) if self.ignores_failure => {
                tracing::warn!(webhook = self.name, %error, "admission webhook failed; its failure policy admits the request");
                request.call.notes.annotate(invocation.failed_open_key(), self.name.as_str());
                Ok(None)
            }
            Err(error) => Err(Status::internal(format!("failed calling webhook \"{}\": {error}", self.name))),
        }
    }

    fn note(&self, request: &Request<'_>, answer: &Answer) {
        for warning in &answer.warnings {
            request.call.notes.warn(warning.as_str());
        }
        for (key, value) in &answer.annotations {
            request.call.notes.annotate(format!("{}/{key}", self.name), value.as_str());
        }
    }
}

/// Calls the mutating webhooks one after the other, each with the output of the one before.
pub(super) async fn mutate(
    request: &Request<'_>,
    object: &mut Value,
    rounds: &mut Reinvocation<usize>,
) -> Result<(), Status> {
    let configurations = request.admission.hooks.mutating.all();
    for (number, hook) in configurations.iter().flat_map(|hooks| hooks.iter()).enumerate() {
        if !rounds.take_due(&number) {
            continue;
        }
        let Some(versioned) = hook.match_request(request, object).await? else { continue };
        let invocation =
            Invocation { mutating: true, round: usize::from(rounds.is_second_round()), index: number };
        let Some(answer) = hook.call(request, &versioned, invocation).await? else { continue };
        if let Some(refusal) = answer.refusal {
            return Err(refusal);
        }
        if let Some(patch) = &answer.patch {
            match review::patched(request, &versioned, patch) {
                Ok(new) if new != versioned.object => {
                    *object = versioned.to_request_version(request, new).await?;
                    rounds.mark_changed();
                }
                Ok(_) => {}
                Err(_) if hook.ignores_failure => {}
                Err(why) => return Err(Status::internal(why)),
            }
        }
        if hook.reinvoke_if_needed {
            rounds.add_reinvocable(number);
        }
    }
    rounds.finish_round(object);
    Ok(())
}

/// Calls all validating webhooks at once; the first refusal in their order is the answer.
pub(super) async fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let configurations = request.admission.hooks.validating.all();
    let mut matching = Vec::new();
    for hook in configurations.iter().flat_map(|hooks| hooks.iter()) {
        if let Some(versioned) = hook.match_request(request, object).await? {
            matching.push((hook, versioned));
        }
    }
    let calls = matching.iter().enumerate().map(|(index, (hook, versioned))| {
        hook.call(request, versioned, Invocation { mutating: false, round: 0, index })
    });
    let answers = join_all(calls).await;
    for answer in answers {
        if let Some(refusal) = answer?.and_then(|answer| answer.refusal) {
            return Err(refusal);
        }
    }
    Ok(())
}
