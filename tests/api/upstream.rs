//! The cases in `fidelity/` are answered as a real Kubernetes API server answered them.

use skep_tests::api_server::TestApiServer;
use skep_tests::fidelity::cases::{self, differences};
use skep_tests::fidelity::compare::Difference;
use skep_tests::fidelity::target::Target;

#[tokio::test(flavor = "multi_thread")]
async fn every_case_is_answered_as_upstream_answers_it() {
    let server = TestApiServer::start().await.unwrap();
    let target = Target::new(server.client());
    target.remove_default_classes().await.unwrap();
    let mut found = Vec::new();
    for group in cases::groups().unwrap() {
        let (wanted, played) = (group.recorded().unwrap(), group.play(&target).await.unwrap());
        for ((case, wanted), played) in group.cases.iter().zip(wanted).zip(played) {
            let differences = described(&differences(&wanted, &played));
            if !differences.is_empty() {
                found.push(format!("{}: {case}{differences}", group.name));
            }
        }
    }
    assert!(found.is_empty(), "{} cases differ\n{}", found.len(), found.join("\n"));
}

/// Each difference once, with the steps that show it.
fn described(differences: &[(String, Difference)]) -> String {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for (step, Difference { aspect, path, oracle, skep }) in differences {
        let line = format!("{} {path}\n    upstream {oracle}\n    Skep     {skep}", aspect.title());
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, steps)) => steps.push(step),
            None => lines.push((line, vec![step])),
        }
    }
    lines.iter().map(|(line, steps)| format!("\n  {}: {line}", steps.join(", "))).collect()
}
