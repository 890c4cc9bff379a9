//! Each rule finds what it is for, and nothing in code that keeps it.

use std::fs;
use std::path::Path;

use super::{Rule, check, circles_of};

const MANIFEST: &str = r#"
[workspace]
members = ["low", "high"]
[workspace.dependencies]
serde = "1"
"#;

const TABLE: &str = r#"
[packages.low]
imports = []
pure = true
production = true
[packages.high]
imports = []
production = true
"#;

/// A workspace of two packages; `files` replace or add to the usual ones.
fn workspace(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("make a folder");
    let usual = [
        ("Cargo.toml", MANIFEST),
        ("xtask/architecture.toml", TABLE),
        ("low/Cargo.toml", "[package]\nname = \"low\"\n"),
        ("low/src/lib.rs", "pub fn one() -> u8 { 1 }\n"),
        ("high/Cargo.toml", "[package]\nname = \"high\"\n[dependencies]\nserde.workspace = true\n"),
        ("high/src/lib.rs", "use serde::Serialize;\n#[derive(Serialize)]\npub struct Two;\n"),
    ];
    for (path, text) in usual.iter().chain(files) {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make its folder");
        fs::write(path, text).expect("write it");
    }
    folder
}

/// What the check finds: rule, file, line.
fn found(files: &[(&str, &str)]) -> Vec<(Rule, String, usize)> {
    let folder = workspace(files);
    let findings = check(folder.path()).expect("check the workspace");
    findings.into_iter().map(|finding| (finding.rule, finding.file, finding.line)).collect()
}

fn one(rule: Rule, file: &str, line: usize) -> Vec<(Rule, String, usize)> {
    vec![(rule, file.to_owned(), line)]
}

fn circles(root: &Path, folder: &str) -> Vec<Vec<String>> {
    circles_of(root, folder).expect("find circles").into_iter().map(|circle| circle.files).collect()
}

#[test]
fn a_tree_that_keeps_the_rules_has_no_findings() {
    assert_eq!(found(&[]), []);
}

#[test]
fn a_package_without_a_row_is_found_and_a_row_without_a_package() {
    let table = "[packages.low]\nimports = []\n[packages.gone]\nimports = []\n";
    let files = [("xtask/architecture.toml", table)];
    assert_eq!(
        found(&files),
        [one(Rule::Table, super::table::FILE, 0), one(Rule::Table, super::table::FILE, 0)].concat()
    );
}

#[test]
fn an_import_that_the_table_does_not_have_is_found() {
    let manifest = "[package]\nname = \"low\"\n[dependencies]\nskep-api = \"0\"\n";
    let files = [("low/Cargo.toml", manifest), ("low/src/lib.rs", "pub use skep_api::Kind;\n")];
    assert_eq!(found(&files), one(Rule::Import, "low/Cargo.toml", 0));
}

#[test]
fn a_clock_in_pure_code_is_found_under_any_name() {
    for (text, line) in [
        ("use std::time::Instant;\npub fn now() -> Instant { Instant::now() }\n", 1),
        ("\npub fn now() -> u64 { std::time::SystemTime::UNIX_EPOCH; 1 }\n", 2),
        ("use std::time as t;\npub struct At(pub t::Instant);\n", 2),
        (
            "use std::time::Duration;\npub fn f() { println!(\"{:?}\", std::env::args()) }\npub const D: Duration = Duration::ZERO;\n",
            2,
        ),
    ] {
        let findings = found(&[("low/src/lib.rs", text)]);
        assert_eq!(findings.first(), one(Rule::Pure, "low/src/lib.rs", line).first(), "{text}");
    }
    assert_eq!(found(&[("low/src/lib.rs", "#[cfg(test)]\nmod tests { use std::fs; }\n")]), []);
}

#[test]
fn files_that_import_each_other_are_a_circle_through_aliases_and_reexports() {
    let files = [
        ("low/src/lib.rs", "mod a;\nmod b;\npub use a::A;\nuse b as other;\npub struct Top(pub other::B);\n"),
        ("low/src/a.rs", "use crate::b::B;\npub struct A(pub B);\n"),
        ("low/src/b.rs", "pub struct B;\npub fn f(_: super::A) {}\n"),
    ];
    let folder = workspace(&files);
    assert_eq!(circles(folder.path(), "low"), [["low/src/a.rs", "low/src/b.rs"]]);
    assert_eq!(found(&files), one(Rule::Circle, "low/src/a.rs", 0));
}

#[test]
fn a_parent_that_only_declares_and_passes_on_is_in_no_circle() {
    let files = [
        ("low/src/lib.rs", "mod a;\nmod b;\npub use a::A;\npub use b::*;\n"),
        ("low/src/a.rs", "pub struct A;\n"),
        ("low/src/b.rs", "pub struct B(pub super::A);\n"),
    ];
    assert_eq!(found(&files), []);
}

#[test]
fn a_recorded_circle_that_got_smaller_must_be_lowered() {
    let table = TABLE.replace("imports = []\npure", "imports = []\nlargest_circle = 4\npure");
    assert_eq!(found(&[("xtask/architecture.toml", &table)]), one(Rule::Table, super::table::FILE, 0));
}

#[test]
fn a_dependency_that_no_code_names_is_found() {
    assert_eq!(
        found(&[("high/src/lib.rs", "pub struct Two;\n")]),
        one(Rule::Dependency, "high/Cargo.toml", 0)
    );
    let unused = MANIFEST.to_owned() + "toml = \"1\"\n";
    assert_eq!(found(&[("Cargo.toml", &unused)]), one(Rule::Dependency, "Cargo.toml", 0));
}

#[test]
fn long_files_and_functions_are_found_and_a_reason_excuses_a_function() {
    let long = "// line\n".repeat(601);
    assert_eq!(found(&[("low/src/lib.rs", &long)]), one(Rule::FileLength, "low/src/lib.rs", 0));
    let long = format!("\npub fn long() {{\n{}}}\n", "// line\n".repeat(60));
    assert_eq!(found(&[("low/src/lib.rs", &long)]), one(Rule::FunctionLength, "low/src/lib.rs", 2));
    let table = TABLE.to_owned()
        + "[[long_functions]]\nfile = \"low/src/lib.rs\"\nfunction = \"long\"\nreason = \"a table\"\n";
    assert_eq!(found(&[("low/src/lib.rs", &long), ("xtask/architecture.toml", &table)]), []);
}

#[test]
fn errors_without_a_type_are_counted_and_the_count_only_goes_down() {
    let text = "pub fn f() -> Result<u8, String> { Ok(1) }\n";
    assert_eq!(found(&[("low/src/lib.rs", text)]), one(Rule::StringError, "low/src/lib.rs", 1));
    let one_allowed = TABLE.to_owned() + "[string_errors]\n\"low/src/lib.rs\" = 1\n";
    let two_allowed = TABLE.to_owned() + "[string_errors]\n\"low/src/lib.rs\" = 2\n";
    assert_eq!(found(&[("low/src/lib.rs", text), ("xtask/architecture.toml", &one_allowed)]), []);
    let files = [("low/src/lib.rs", text), ("xtask/architecture.toml", &two_allowed)];
    assert_eq!(found(&files), one(Rule::Table, super::table::FILE, 0));
}

#[test]
fn unwrap_is_found_in_production_code_and_not_in_tests_or_parsers() {
    let unwraps = "pub fn f(x: Option<u8>) -> u8 {\n    x.unwrap()\n}\n";
    assert_eq!(found(&[("low/src/lib.rs", unwraps)]), one(Rule::Panic, "low/src/lib.rs", 2));
    let expects = "pub fn f(x: Option<u8>) -> u8 {\n    x.expect(\"a byte\")\n}\n";
    assert_eq!(found(&[("low/src/lib.rs", expects)]), one(Rule::Panic, "low/src/lib.rs", 2));
    let parser = "pub fn f(p: P) { p.expect(Token::Comma); }\npub struct P;\npub enum Token { Comma }\n";
    assert_eq!(found(&[("low/src/lib.rs", parser)]), []);
    let tests = "#[cfg(test)]\nmod tests {\n    #[test]\n    fn t() { Some(1).unwrap(); }\n}\n";
    assert_eq!(found(&[("low/src/lib.rs", tests)]), []);
}

#[test]
fn a_document_that_names_a_missing_file_is_found() {
    let text = "See `docs/gone.md` and `userspace/NAME/src` and\n[this](gone.md), [that](https://example.org), [own](a.md#part).\n";
    let gone = (Rule::Document, "docs/a.md".to_owned());
    let expected = [(gone.0, gone.1.clone(), 1), (gone.0, gone.1, 2)];
    assert_eq!(found(&[("docs/a.md", text)]), expected);
}

#[test]
fn an_exception_that_excuses_nothing_is_found() {
    let row = "[[long_functions]]\nfile = \"low/src/lib.rs\"\nfunction = \"gone\"\nreason = \"a table\"\n";
    let table = TABLE.to_owned() + row;
    assert_eq!(found(&[("xtask/architecture.toml", &table)]), one(Rule::Table, super::table::FILE, 0));
    let table = "pure_paths = [\"low/src/gone.rs\"]\n".to_owned() + TABLE;
    assert_eq!(found(&[("xtask/architecture.toml", &table)]), one(Rule::Table, super::table::FILE, 0));
}
