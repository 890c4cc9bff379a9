//! The text form of a metric that is not kept in a registry.

/// A family of samples: labels and value.
pub(super) fn family(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl Iterator<Item = (String, f64)>,
) {
    *out += &format!("# HELP {name} {help}.\n# TYPE {name} {kind}\n");
    samples.for_each(|(labels, value)| *out += &format!("{name}{labels} {value}\n"));
}
