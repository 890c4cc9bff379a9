//! Output with what differs from run to run taken out: times, ages, identities, versions, ports, made-up names.

use std::sync::LazyLock;

use regex::Regex;

/// What is replaced, and by what; in this order.
const RULES: &[(&str, &str)] = &[
    (r"X509SHA256=[0-9a-f]+", "X509SHA256=HASH"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", "TIME"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"/tmp/[^/ ]+/", "/tmp/DIR/"),
    (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "TOKEN"),
    // Addresses and ports that the server chose.
    (r"10\.(9[6-9]|1[01]\d)\.\d+\.\d+", "CLUSTER-IP"),
    (r"([:\s])3[0-2]\d{3}\b", "${1}NODE-PORT"),
    // kubectl's diff of two folders.
    (r"(LIVE|MERGED)-\d+", "$1"),
    (r"(?m)^(---|\+\+\+) (\S+)\t.*$", "$1 $2"),
    (r#"(resourceVersion"?: ?)"\d+""#, "${1}RV"),
    (r"(Resource Version:\s+)\d+", "${1}RV"),
    // The log's head: level, date, time, process.
    (r"(?m)^([EWI])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\w+\.go):\d+\]", "$1 $2]"),
    (r"\b(\d+h)?(\d+m)?\d+(\.\d+)?s\b", "AGE"),
    (r"\b\d+(\.\d+)?ms\b", "AGE"),
    // Generated names: a hash and five letters, or the five alone.
    (r"-[0-9a-f]{7,10}\b", "-HASH"),
    (r"-[bcdf-hj-np-tv-xz2456789]{7,10}-", "-HASH-"),
    (r"-[bcdf-hj-np-tv-xz2456789]{5}\b", "-NAME"),
    (r"(pod-template-hash=)\w+", "${1}HASH"),
    // Columns are as wide as their widest cell.
    (r"(\S)(  +)(\S)", "$1   $3"),
    (r"(?m)[ \t]+$", ""),
];

static COMPILED: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| RULES.iter().map(|(pattern, by)| (Regex::new(pattern).expect("a rule"), *by)).collect());

pub(crate) fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, by) in &*COMPILED {
        text = pattern.replace_all(&text, *by).into_owned();
    }
    text
}
