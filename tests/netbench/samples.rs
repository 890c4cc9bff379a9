//! What was measured, by measure and subject, and its rows.

use std::collections::BTreeMap;

use serde_json::Value;
use xtask::bench::report::Row;

use crate::world::Subject;

/// A measure and its unit.
type Measure = (&'static str, &'static str);

#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// In the order of first mention, which is the order of the report.
    measures: Vec<Measure>,
    values: BTreeMap<(Measure, Subject), Vec<f64>>,
}

impl Samples {
    pub(crate) fn put(&mut self, measure: &'static str, unit: &'static str, subject: Subject, value: f64) {
        let measure = (measure, unit);
        if !self.measures.contains(&measure) {
            self.measures.push(measure);
        }
        self.values.entry((measure, subject)).or_default().push(value);
    }

    pub(crate) fn of(&self, measure: &str, subject: &Subject) -> Option<&[f64]> {
        let measure = self.measures.iter().find(|(name, _)| *name == measure)?;
        self.values.get(&(*measure, *subject)).map(Vec::as_slice)
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for measure in &self.measures {
            let of = self.values.iter().filter(|((of, _), _)| of == measure);
            rows.extend(of.filter_map(|((_, subject), values)| row(*measure, subject, values)));
        }
        rows
    }
}

pub(crate) fn row((measure, unit): Measure, subject: &Subject, values: &[f64]) -> Option<Row> {
    let policy = subject.policy.map(|on| if on { "on" } else { "off" });
    let row = Row::new(measure, subject.name, unit, values)?;
    Some(row.with("services", Value::from(subject.services)).with("policy", Value::from(policy)))
}
