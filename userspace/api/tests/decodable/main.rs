//! Whatever passes the schema check decodes into the type that controllers, the scheduler and nodes read it as.

mod canonical;
mod generate;
mod types;

use serde_json::Value;
use skep_api::schema::{self, SchemaProblem, named};
use skep_api::{Kind, kinds};

use generate::{Choices, object};
use types::{Decode, TYPES};

const OBJECTS_OF_A_TYPE: u64 = 400;

fn decoder(schema: &str) -> Option<Decode> {
    TYPES.iter().find(|(name, _)| *name == schema).map(|(_, decode)| *decode)
}

/// The objects of a type that pass the check, as the check leaves them.
fn accepted(schema: &'static str) -> impl Iterator<Item = (Value, Value)> {
    (0..OBJECTS_OF_A_TYPE).filter_map(move |seed| {
        // Every third object is sound but for the forms of its values.
        let sanity = [usize::MAX, 60, 15][(seed % 3) as usize];
        let sent = object(named(schema)?, &mut Choices(seed), sanity);
        let mut checked = sent.clone();
        let problems = schema::check(schema, &mut checked);
        SchemaProblem::undecodable(&problems).is_none().then_some((sent, checked))
    })
}

fn fill_type(object: &mut Value, api_version: &str, kind: &str) {
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
}

#[test]
fn what_passes_the_check_decodes() {
    let mut failures = Vec::new();
    for (schema, decode) in TYPES {
        let names = named(schema).and_then(|found| found.kinds.first()).expect("a kind");
        let (group_version, kind) = names.rsplit_once('/').expect("a version");
        let mut count = 0;
        for (sent, mut checked) in accepted(schema) {
            count += 1;
            fill_type(&mut checked, group_version.trim_start_matches('/'), kind);
            if let Err(error) = decode(&checked) {
                failures.push(format!("{schema}: {error}\n  sent {sent}\n  checked {checked}"));
                break;
            }
        }
        if count < OBJECTS_OF_A_TYPE / 5 && failures.is_empty() {
            failures.push(format!("{schema}: the generator made only {count} valid objects"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_is_prepared_for_the_store_decodes() {
    let mut failures = Vec::new();
    // Kinds of others, which k8s-openapi does not have. Metrics are never stored.
    let is_foreign = |kind: &&Kind| {
        ["skep.dev", "metrics.k8s.io"].contains(&&*kind.group) || kind.schema.starts_with("skep.")
    };
    for kind in kinds().iter().filter(|kind| !is_foreign(kind)) {
        let Some(decode) = decoder(kind.schema) else { panic!("no type for {}", kind.schema) };
        for (sent, mut prepared) in accepted(kind.schema) {
            fill_type(&mut prepared, &kind.api_version(), &kind.kind);
            kind.complete_new(&mut prepared);
            if let (true, Err(error)) = (kind.validate_create(&prepared).is_empty(), decode(&prepared)) {
                failures.push(format!("{}: {error}\n  sent {sent}\n  prepared {prepared}", kind.schema));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
