//! Mutating and validating webhooks: who is to be asked about a request, in which order, and what their answers mean.

mod review;

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use skep_api::Status;
use skep_api::cel::{Budget, PER_OBJECT};

use super::expression::{Conditions, bindings};
use super::rounds::Rounds;
use super::rules::Rules;
use super::seen::Seen;
use super::{Operation, Request};
use crate::write;
use review::{Answer, Failure};

const LONGEST: u64 = 30;
const USUAL: u64 = 10;

/// When a webhook is asked.
#[derive(Clone, Copy)]
struct Turn {
    mutating: bool,
    round: usize,
    index: usize,
}

impl Turn {
    /// The key of the note that it was not heard.
    fn failed_open(self) -> String {
        let form = if self.mutating { "mutation" } else { "validating" };
        format!("failed-open.{form}.webhook.admission.k8s.io/round_{}_index_{}", self.round, self.index)
    }
}

/// One webhook of a configuration.
pub(crate) struct Hook {
    name: String,
    client: Value,
    rules: Rules,
    conditions: Conditions,
    ignores_failure: bool,
    timeout: Duration,
    may_dry_run: bool,
    may_be_asked_again: bool,
}

impl Hook {
    /// The webhooks of a configuration.
    pub(super) fn all_of(configuration: &Value) -> Vec<Hook> {
        configuration["webhooks"].as_array().into_iter().flatten().map(Hook::of).collect()
    }

    fn of(hook: &Value) -> Hook {
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(USUAL).clamp(1, LONGEST);
        Hook {
            name: hook["name"].as_str().unwrap_or_default().to_owned(),
            client: hook["clientConfig"].clone(),
            rules: Rules::of_webhook(hook),
            conditions: Conditions::of(&hook["matchConditions"]),
            ignores_failure: hook["failurePolicy"] == "Ignore",
            timeout: Duration::from_secs(seconds),
            may_dry_run: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            may_be_asked_again: hook["reinvocationPolicy"] == "IfNeeded",
        }
    }

    /// What it is to be asked about, if anything; its conditions may fail.
    async fn sees(&self, request: &Request<'_>, object: &Value) -> Result<Option<Seen>, Status> {
        let Some(kind) = self.rules.match_request(request, object) else { return Ok(None) };
        let seen = Seen::of(request, kind, object).await?;
        if self.conditions.is_empty() {
            return Ok(Some(seen));
        }
        match write::aside(|| self.conditions.hold(&bindings(request, &seen), &mut Budget(PER_OBJECT))) {
            Ok(holds) => Ok(Some(seen).filter(|_| holds)),
            Err(_) if self.ignores_failure => Ok(None),
            Err(why) => Err(request.forbidden(object, why)),
        }
    }

    /// Asks. A failure that is to be ignored is noted and is no answer.
    async fn ask(&self, request: &Request<'_>, seen: &Seen, turn: Turn) -> Result<Option<Answer>, Status> {
        if request.dry_run && !self.may_dry_run {
            return Err(Status::bad_request(format!(
                "admission webhook \"{}\" does not support dry run",
                self.name
            )));
        }
        match review::ask(self, request, seen, turn.mutating).await {
            Ok(answer) => {
                self.note(request, &answer);
                Ok(Some(answer))
            }
            Err(Failure(why)) if self.ignores_failure => {
                tracing::warn!(webhook = self.name, why, "failed open");
                request.call.notes.annotate(turn.failed_open(), self.name.as_str());
                Ok(None)
            }
            Err(Failure(why)) => {
                Err(Status::internal(format!("failed calling webhook \"{}\": {why}", self.name)))
            }
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

/// Asks the mutating webhooks one after the other, each about what the last one left.
pub(super) async fn mutate(
    request: &Request<'_>,
    object: &mut Value,
    rounds: &mut Rounds<usize>,
) -> Result<(), Status> {
    let configurations = request.call.server.hooks.mutating.all();
    for (number, hook) in configurations.iter().flat_map(|hooks| hooks.iter()).enumerate() {
        if !rounds.takes(&number) {
            continue;
        }
        let Some(seen) = hook.sees(request, object).await? else { continue };
        let turn = Turn { mutating: true, round: usize::from(rounds.is_second()), index: number };
        let Some(answer) = hook.ask(request, &seen, turn).await? else { continue };
        if let Some(refusal) = answer.refusal {
            return Err(refusal);
        }
        if let Some(patch) = &answer.patch {
            match review::patched(request, &seen, patch) {
                Ok(new) if new != seen.object => {
                    *object = seen.back(request, new).await?;
                    rounds.change();
                }
                Ok(_) => {}
                Err(_) if hook.ignores_failure => {}
                Err(why) => return Err(Status::internal(why)),
            }
        }
        if hook.may_be_asked_again {
            rounds.remember(number);
        }
    }
    rounds.end(object);
    Ok(())
}

/// Asks all validating webhooks at once; the first refusal, in their order, is the answer.
pub(super) async fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let configurations = request.call.server.hooks.validating.all();
    let mut wanted = Vec::new();
    for hook in configurations.iter().flat_map(|hooks| hooks.iter()) {
        if let Some(seen) = hook.sees(request, object).await? {
            wanted.push((hook, seen));
        }
    }
    let asked = wanted
        .iter()
        .enumerate()
        .map(|(index, (hook, seen))| hook.ask(request, seen, Turn { mutating: false, round: 0, index }));
    let answers = join_all(asked).await;
    for answer in answers {
        if let Some(refusal) = answer?.and_then(|answer| answer.refusal) {
            return Err(refusal);
        }
    }
    Ok(())
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_as_upstream_has_it() {
        let hook = Hook::of(&json!({"name": "a", "sideEffects": "Some"}));
        assert!(!hook.ignores_failure && !hook.may_dry_run && !hook.may_be_asked_again);
        assert_eq!(hook.timeout, Duration::from_secs(10));
        assert_eq!(Hook::all_of(&json!({"webhooks": [{}, {}]})).len(), 2);
    }
}
