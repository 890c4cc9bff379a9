//! Each line of the table: a text, its canonical form, its value in whole units (`?` if it is beyond 2^40), and the canonical
//! form in a list of resources if that is another one; or a text and `!` with its error. Answers of Kubernetes v1.36.

use proptest::prelude::*;

use super::*;

#[test]
fn suffixes_scale() {
    for (text, millis) in [
        ("100m", 100),
        ("1", 1000),
        ("1.5", 1500),
        ("1Ki", 1_024_000),
        ("0.5Gi", 536_870_912_000),
        ("2e3", 2_000_000),
        ("1E", 1_000_000_000_000_000_000_000),
        (".5", 500),
        ("-1", -1000),
        ("1n", 1),
    ] {
        assert_eq!(text.parse::<Quantity>().map(Quantity::millis), Ok(millis), "{text}");
    }
    for bad in ["", "x", "1.2.3", "1kk", "1e", "--1", "1 Gi"] {
        assert!(bad.parse::<Quantity>().is_err(), "{bad}");
    }
}

#[test]
fn canonical_forms_are_upstreams() {
    let mut failures = Vec::new();
    for line in include_str!("quantities.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (text, wanted) = (words[0].trim_matches('"'), words[1]);
        let shown = |found: Result<Option<String>, BadQuantity>| match found {
            Ok(found) => found.unwrap_or_else(|| text.to_owned()),
            Err(BadQuantity::Form) => "!form".to_owned(),
            Err(BadQuantity::Number) => "!number".to_owned(),
            Err(BadQuantity::Suffix) => "!suffix".to_owned(),
        };
        let wanted_resource = *words.get(3).unwrap_or(&wanted);
        let found = shown(Quantity::canonical(text));
        let found_resource = shown(Quantity::canonical_resource(text));
        if (found.as_str(), found_resource.as_str()) != (wanted, wanted_resource) {
            failures
                .push(format!("{text}: {found} and {found_resource}, not {wanted} and {wanted_resource}"));
        }
        if let Some(value) = words.get(2).and_then(|value| value.parse::<i128>().ok()) {
            let found = text.parse::<Quantity>().map(Quantity::value);
            if found != Ok(value) {
                failures.push(format!("{text}: the value is {found:?}, not {value}"));
            }
        }
        if let Ok(Some(canonical)) = Quantity::canonical(text)
            && Quantity::canonical(&canonical) != Ok(None)
        {
            failures.push(format!("{text}: {canonical} is not canonical"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn sums_keep_the_notation() {
    let sum = |all: &[&str]| {
        let quantities = all.iter().map(|text| text.parse::<Quantity>().unwrap());
        quantities.fold(Quantity::default(), Quantity::saturating_add).to_string()
    };
    for (all, wanted) in [
        (&["0", "512Mi", "512Mi"][..], "1Gi"),
        (&["1Gi", "1000"], "1073742824"),
        (&["100m", "900m"], "1"),
        (&["1e3", "1e3"], "2e3"),
        (&["500m", "1k"], "1000500m"),
        (&["1000Mi"], "1000Mi"),
        (&["0Gi"], "0"),
        (&["5E"], "5E"),
    ] {
        assert_eq!(sum(all), wanted, "{all:?}");
    }
}

proptest! {
    #[test]
    fn display_is_parsed_to_the_same_quantity(millis in -1_000_000_000_000i128..1_000_000_000_000) {
        let quantity = Quantity::from_millis(millis);
        prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".{0,40}") {
        let _ = text.parse::<Quantity>();
        let _ = Quantity::canonical_resource(&text);
    }
}
