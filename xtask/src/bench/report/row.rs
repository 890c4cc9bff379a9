//! One measure of one subject: its samples in short, and the goal that it is compared with.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// One measure of one subject, over several runs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub measure: &'static str,
    pub subject: String,
    /// Under which conditions, such as the number of services.
    #[serde(flatten)]
    pub conditions: BTreeMap<&'static str, Value>,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub unit: &'static str,
    /// The figure that it is compared with.
    #[serde(skip)]
    pub goal: Option<Goal>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Row {
    /// `None` if nothing was measured.
    pub fn new(measure: &'static str, subject: &str, unit: &'static str, samples: &[f64]) -> Option<Row> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        let conditions = BTreeMap::new();
        Some(Row { measure, subject: subject.to_owned(), conditions, median, min, max, unit, goal: None })
    }

    pub fn with(mut self, condition: &'static str, value: impl Into<Value>) -> Row {
        self.conditions.insert(condition, value.into());
        self
    }

    pub fn with_goal(mut self, goal: Goal) -> Row {
        self.goal = Some(goal);
        self
    }

    /// The subject with its conditions.
    pub(super) fn name(&self) -> String {
        let conditions = self.conditions.iter().filter(|(_, value)| !value.is_null());
        conditions.fold(self.subject.clone(), |name, (condition, value)| match value {
            Value::String(text) => format!("{name} {condition}={text}"),
            value => format!("{name} {condition}={value}"),
        })
    }
}

impl Row {
    /// Rates and ratios are better when higher; times, sizes and costs when lower.
    pub(super) fn higher_is_better(&self) -> bool {
        match self.goal {
            Some(Goal::AtLeast(_)) => true,
            Some(Goal::AtMost(_)) => false,
            None => self.unit.ends_with("/s") || self.unit == "x",
        }
    }
}

impl Goal {
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(least) => value >= least,
            Goal::AtMost(most) => value <= most,
        }
    }

    pub(super) fn missed_by(self, value: f64) -> String {
        format!("MISSED by {:.1} %", (value / self.value() - 1.0).abs() * 100.0)
    }

    pub(super) fn value(self) -> f64 {
        match self {
            Goal::AtLeast(value) | Goal::AtMost(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(samples: &[f64]) -> Row {
        Row::new("get", "embedded", "1/s", samples).unwrap().with_goal(Goal::AtLeast(3.0))
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(row(&[9.0, 1.0, 4.0]).median, 4.0);
        let even = row(&[4.0, 1.0, 2.0, 9.0]);
        assert_eq!((even.min, even.median, even.max), (1.0, 3.0, 9.0));
        assert!(Row::new("get", "embedded", "1/s", &[]).is_none());
    }

    #[test]
    fn conditions_are_fields_beside_the_measure_in_json() {
        let json = serde_json::to_value(row(&[1.0]).with("services", 10)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"measure": "get", "subject": "embedded", "services": 10, "median": 1.0, "min": 1.0, "max": 1.0, "unit": "1/s"})
        );
    }

    #[test]
    fn rates_are_better_when_higher_and_times_when_lower() {
        assert!(Row::new("get", "a", "1/s", &[1.0]).unwrap().higher_is_better());
        assert!(Row::new("iperf_tcp", "a", "Gbit/s", &[1.0]).unwrap().higher_is_better());
        assert!(Row::new("crr/routed", "a", "x", &[1.0]).unwrap().higher_is_better());
        assert!(!Row::new("p99", "a", "ms", &[1.0]).unwrap().higher_is_better());
        assert!(!Row::new("rss", "a", "MB", &[1.0]).unwrap().higher_is_better());
    }
}
