//! What is not in force as the API says, for administrators.
//!
//! In: the planner's problems. Out: log lines as they come and go, the message of the Node's condition, the lines of
//! `/metrics`, and by [`crate::events`] an Event each.

use std::collections::BTreeMap;
use std::fmt::Write;

use skep_netplan::Problem;

/// Problems that the condition's message names; it counts the others.
const NAMED_PROBLEMS: usize = 10;

/// The problems by their text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Problems(BTreeMap<String, Problem>);

impl Problems {
    /// Takes the problems of now, and logs what came and what went; whether anything did.
    pub(crate) fn replace(&mut self, now: BTreeMap<String, Problem>) -> bool {
        for (problem, _) in now.iter().filter(|(text, _)| !self.0.contains_key(*text)) {
            tracing::warn!(problem, "an object cannot be served as the API says");
        }
        for (problem, _) in self.0.iter().filter(|(text, _)| !now.contains_key(*text)) {
            tracing::info!(problem, "problem solved");
        }
        let changed = self.0 != now;
        self.0 = now;
        changed
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Problem)> {
        self.0.iter()
    }

    /// The problems that this node alone has, in words; `None` without any.
    pub(crate) fn of_node(&self) -> Option<String> {
        let mut texts =
            self.0.iter().filter(|(_, problem)| problem.is_of_node()).map(|(text, _)| text.as_str());
        let named: Vec<&str> = texts.by_ref().take(NAMED_PROBLEMS).collect();
        let more = texts.count();
        match (named.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(named.join("; ")),
            (false, more) => Some(format!("{}; and {more} more", named.join("; "))),
        }
    }

    /// In Prometheus' text format.
    pub(crate) fn metrics(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for problem in self.0.values() {
            *counts.entry(problem.reason()).or_default() += 1;
        }
        let mut out = String::from(
            "# HELP skep_network_problems What this node cannot serve as the API says, by reason\n\
             # TYPE skep_network_problems gauge\n",
        );
        for (reason, count) in counts {
            let _ = writeln!(out, "skep_network_problems{{reason=\"{reason}\"}} {count}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(count: usize) -> Problems {
        let problem = |n: usize| {
            let problem = Problem::ServicesFull { service: format!("ns/s{n:02}").into() };
            (problem.to_string(), problem)
        };
        Problems((0..count).map(problem).collect())
    }

    #[test]
    fn the_condition_names_some_problems_and_counts_the_others() {
        assert_eq!(problems(0).of_node(), None);
        let message = problems(NAMED_PROBLEMS + 3).of_node().unwrap();
        assert!(message.contains("ns/s09") && !message.contains("ns/s10"), "{message}");
        assert!(message.ends_with("; and 3 more"), "{message}");
    }

    #[test]
    fn problems_are_counted_by_reason() {
        let text = problems(3).metrics();
        assert!(text.ends_with("skep_network_problems{reason=\"ServicesFull\"} 3\n"), "{text}");
    }
}
