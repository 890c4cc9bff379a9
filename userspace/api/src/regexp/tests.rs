use serde_json::Value;

use super::Regexp;

/// Patterns with Go's answers: an error, or for each text whether it matches, the first match and all matches.
const GO: &str = include_str!("testdata/go.json");

#[test]
fn patterns_are_accepted_refused_and_matched_as_in_go() {
    let table: Value = serde_json::from_str(GO).unwrap();
    let mut wrong = Vec::new();
    for row in table.as_array().unwrap() {
        let pattern = row["pattern"].as_str().unwrap();
        let error = row["error"].as_str().map(str::to_owned);
        let checked = Regexp::check(pattern).err().map(|error| error.to_string());
        if checked != error {
            wrong.push(format!("{pattern}: check {checked:?}, Go {error:?}"));
            continue;
        }
        let regexp = match Regexp::new(pattern) {
            Ok(regexp) => regexp,
            Err(_) if error.is_some() => continue,
            Err(found) => {
                let shown: String = found.to_string().chars().take(200).collect();
                wrong.push(format!("{pattern}: compile {shown}"));
                continue;
            }
        };
        for case in row["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let all: Vec<&str> = regexp.find_all(text).collect();
            let found = regexp.find(text).map_or(Value::Null, Value::from);
            assert_eq!(regexp.is_match(text), !found.is_null());
            if found != case["find"] || Value::from(all.clone()) != case["all"] {
                wrong.push(format!("{pattern} on {text:?}: {found} {all:?}, Go {case}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_script_name_is_known_to_the_engine() {
    for script in super::unicode::SCRIPTS.split_ascii_whitespace() {
        assert!(Regexp::new(&format!("\\p{{{script}}}")).is_ok(), "{script}");
    }
}

#[test]
fn large_expressions_are_compiled_or_refused_when_they_are_checked() {
    assert!(Regexp::new(r"^[^/]{1,1000}$").unwrap().is_match(&"é".repeat(1000)));
    let huge = r"\pL{1000}".repeat(3);
    let error = Regexp::check(&huge).unwrap_err();
    assert_eq!(error.to_string(), format!("error parsing regexp: expression too large: `{huge}`"));
}

#[test]
fn nested_groups_compile_on_a_small_stack_up_to_the_limit() {
    let nested = |levels: usize| format!("{}x{}", "(?:a".repeat(levels), "b)*".repeat(levels));
    let compiled = std::thread::Builder::new().stack_size(1 << 20).spawn(move || Regexp::new(&nested(49)));
    assert!(compiled.unwrap().join().unwrap().unwrap().is_match("aaxbb"));
    for levels in [60, 1000, 100_000] {
        let error = Regexp::check(&nested(levels)).unwrap_err().to_string();
        assert!(error.starts_with("error parsing regexp: expression nests too deeply: `"), "{error}");
    }
    assert!(Regexp::new(&format!("{}x{}", "(".repeat(900), ")".repeat(900))).unwrap().is_match("x"));
}
