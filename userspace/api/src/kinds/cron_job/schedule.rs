//! Cron schedules: whether one can be parsed, with the errors of upstream's parser.

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: [&str; 7] =
    ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: &MONTHS },
    Bounds { min: 0, max: 6, names: &DAYS },
];

/// The numbers of a field and their names; the first name is that of `min`.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

/// The error in a schedule of five fields or a descriptor; `None` if it is valid.
pub(super) fn problem(schedule: &str) -> Option<String> {
    if schedule.is_empty() {
        return Some("empty spec string".to_owned());
    }
    let spec = match schedule.split_once(' ') {
        Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => rest.trim(),
        _ => schedule,
    };
    if spec.starts_with('@') {
        return descriptor(spec);
    }
    let fields: Vec<&str> = spec.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).find_map(|(field, bounds)| {
        field.split(',').filter(|part| !part.is_empty()).find_map(|part| range(part, bounds).err())
    })
}

fn descriptor(spec: &str) -> Option<String> {
    let Some(span) = spec.strip_prefix("@every ") else {
        return (!DESCRIPTORS.contains(&spec)).then(|| format!("unrecognized descriptor: {spec}"));
    };
    let digits = span.bytes().next().is_some_and(|c| c.is_ascii_digit());
    let unit = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().any(|unit| span.ends_with(unit));
    (!digits || !unit).then(|| format!("failed to parse duration {spec}: time: invalid duration \"{span}\""))
}

fn range(part: &str, bounds: &Bounds) -> Result<(), String> {
    let (spans, steps): (Vec<&str>, Vec<&str>) =
        (part.split('/').next().unwrap_or_default().split('-').collect(), part.split('/').collect());
    let first = spans.first().copied().unwrap_or_default();
    let (start, mut end) = if matches!(first, "*" | "?") {
        (bounds.min, bounds.max)
    } else {
        let start = number(first, bounds)?;
        match spans.as_slice() {
            [_] => (start, start),
            [_, end] => (start, number(end, bounds)?),
            _ => return Err(format!("too many hyphens: {part}")),
        }
    };
    let step = match steps.as_slice() {
        [_] => 1,
        [_, step] => {
            if spans.len() == 1 {
                end = bounds.max;
            }
            integer(step)?
        }
        _ => return Err(format!("too many slashes: {part}")),
    };
    let (min, max) = (bounds.min, bounds.max);
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {part}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok(())
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    match bounds.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(at) => Ok(bounds.min + at as u32),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn schedules_are_read_as_upstream_reads_them() {
        for good in
            ["* * * * *", "*/5 1-3 1,15 jan-mar MON", "@daily", "@every 1h30m", "0 0 ? * 6", "5/10 * * * *"]
        {
            assert_eq!(problem(good), None, "{good}");
        }
        let mut failed = Vec::new();
        for (bad, wanted) in [
            ("sometimes", "expected exactly 5 fields, found 1: [sometimes]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("* x * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ] {
            let found = problem(bad);
            if found.as_deref() != Some(wanted) {
                failed.push(format!("{bad}: wanted {wanted}, found {found:?}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
