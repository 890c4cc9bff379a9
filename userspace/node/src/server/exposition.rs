//! PURE. Samples in Prometheus' text format (prometheus.io, "Exposition formats").

use std::fmt::Write;

use jiff::Timestamp;

/// A text that grows by families of samples.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

pub(super) type Labels<'a> = [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family; `kind` is `gauge` or `counter`.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the family, as of a time.
    pub(super) fn sample(&mut self, name: &str, labels: &Labels<'_>, value: f64, at: Option<Timestamp>) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{label}=\"{escaped}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = write!(self.0, " {value}");
        if let Some(at) = at {
            let _ = write!(self.0, " {}", at.as_millisecond());
        }
        self.0.push('\n');
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// As a sample's value; exact up to 2^53.
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

/// Nanoseconds as seconds.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    number(nanoseconds) / 1e9
}

pub(super) fn since_epoch(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_times_are_milliseconds() {
        let mut out = Exposition::default();
        out.family("up", "gauge", "Whether it is up");
        let at = Timestamp::from_millisecond(1_500).ok();
        out.sample("up", &[("a", "x\"y"), ("b", "\\")], 1.0, at);
        out.sample("up", &[], seconds(1_500_000_000), None);
        let wanted =
            "# HELP up Whether it is up\n# TYPE up gauge\nup{a=\"x\\\"y\",b=\"\\\\\"} 1 1500\nup 1.5\n";
        assert_eq!(out.finish(), wanted);
    }
}
