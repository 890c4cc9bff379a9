//! What a bench tells: a table for people, JSON for programs, a plot for both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
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
    /// What it is to reach.
    #[serde(skip)]
    pub bar: Option<Bar>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
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
        Some(Row { measure, subject: subject.to_owned(), conditions, median, min, max, unit, bar: None })
    }

    pub fn with(mut self, condition: &'static str, value: impl Into<Value>) -> Row {
        self.conditions.insert(condition, value.into());
        self
    }

    pub fn to_reach(mut self, bar: Bar) -> Row {
        self.bar = Some(bar);
        self
    }

    fn name(&self) -> String {
        let conditions = self.conditions.iter().filter(|(_, value)| !value.is_null());
        conditions.fold(self.subject.clone(), |name, (condition, value)| match value {
            Value::String(text) => format!("{name} {condition}={text}"),
            value => format!("{name} {condition}={value}"),
        })
    }
}

impl Bar {
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Bar::AtLeast(least) => value >= least,
            Bar::AtMost(most) => value <= most,
        }
    }

    fn missed_by(self, value: f64) -> String {
        format!("MISSED by {:.1} %", (value / self.value() - 1.0).abs() * 100.0)
    }

    fn value(self) -> f64 {
        match self {
            Bar::AtLeast(value) | Bar::AtMost(value) => value,
        }
    }
}

/// Prints the table, and writes `NAME.json` and `NAME.svg` into the folder.
pub fn publish(folder: &Path, name: &str, rows: &[Row]) -> Result<()> {
    print!("{}", table(rows));
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for (extension, text) in [("json", serde_json::to_string_pretty(rows)?), ("svg", plot(name, rows))] {
        let file = folder.join(name).with_extension(extension);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}

pub fn table(rows: &[Row]) -> String {
    let head = ["measure", "subject", "median", "min", "max", "unit", "to reach", ""].map(str::to_owned);
    let mut lines = vec![head];
    lines.extend(rows.iter().map(|row| {
        let (bar, met) = match row.bar {
            None => (String::new(), String::new()),
            Some(bar) => {
                let sign = if matches!(bar, Bar::AtLeast(_)) { ">=" } else { "<=" };
                let met = if bar.is_met(row.median) { "met".to_owned() } else { bar.missed_by(row.median) };
                (format!("{sign} {}", number(bar.value())), met)
            }
        };
        let [median, min, max] = [row.median, row.min, row.max].map(number);
        [row.measure.to_owned(), row.name(), median, min, max, row.unit.to_owned(), bar, met]
    }));
    let widths: Vec<usize> =
        (0..8).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            if (2..5).contains(&column) {
                let _ = write!(text, "{cell:>width$}  ");
            } else {
                let _ = write!(text, "{cell:<width$}  ");
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// Three digits that count, and no more.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        middle if middle >= 1.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let grouped: Vec<&str> =
        whole.as_bytes().rchunks(3).rev().filter_map(|part| str::from_utf8(part).ok()).collect();
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}", grouped.join(","))
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 280.0;
const BARS: f64 = 420.0;
const LINE: f64 = 22.0;

/// A panel for each measure, for their units differ: bars for medians, a whisker from least to most, a line to reach.
fn plot(name: &str, rows: &[Row]) -> String {
    let mut measures: Vec<&str> = Vec::new();
    for row in rows {
        if !measures.contains(&row.measure) {
            measures.push(row.measure);
        }
    }
    let (mut body, mut y) = (String::new(), 40.0);
    for measure in measures {
        let of: Vec<&Row> = rows.iter().filter(|row| row.measure == measure).collect();
        y = panel(&mut body, measure, &of, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" font-size=\"16\">{}</text>\n{body}</svg>\n",
        escaped(name)
    )
}

fn panel(out: &mut String, measure: &str, rows: &[&Row], top: f64) -> f64 {
    let unit = rows.first().map_or("", |row| row.unit);
    let most = rows.iter().flat_map(|row| [row.max, row.bar.map_or(0.0, Bar::value)]).fold(0.0, f64::max);
    let x = |value: f64| if most > 0.0 { LEFT + BARS * value / most } else { LEFT };
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{} ({})</text>",
        top + 16.0,
        escaped(measure),
        escaped(unit)
    );
    let mut y = top + LINE;
    for row in rows {
        let met = row.bar.is_none_or(|bar| bar.is_met(row.median));
        let fill = if met { "#4a7a96" } else { "#b5543f" };
        let middle = y + LINE / 2.0;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{fill}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            LEFT - 8.0,
            middle + 4.0,
            escaped(&row.name()),
            y + 3.0,
            x(row.median) - LEFT,
            LINE - 6.0,
            x(row.min),
            x(row.max),
            LEFT + BARS + 12.0,
            middle + 4.0,
            number(row.median),
        );
        if let Some(bar) = row.bar {
            let at = x(bar.value());
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{y}\" y2=\"{}\" stroke=\"#b5543f\" stroke-width=\"2\" stroke-dasharray=\"4 2\"/>",
                y + LINE
            );
        }
        y += LINE;
    }
    y + 14.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(samples: &[f64]) -> Row {
        Row::new("get", "embedded", "1/s", samples).unwrap().to_reach(Bar::AtLeast(3.0))
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(row(&[9.0, 1.0, 4.0]).median, 4.0);
        let even = row(&[4.0, 1.0, 2.0, 9.0]);
        assert_eq!((even.min, even.median, even.max), (1.0, 3.0, 9.0));
        assert!(Row::new("get", "embedded", "1/s", &[]).is_none());
    }

    #[test]
    fn conditions_stand_beside_the_measure_in_json() {
        let json = serde_json::to_value(row(&[1.0]).with("services", 10)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"measure": "get", "subject": "embedded", "services": 10, "median": 1.0, "min": 1.0, "max": 1.0, "unit": "1/s"})
        );
    }

    #[test]
    fn a_missed_bar_shows() {
        assert!(table(&[row(&[2.4])]).contains("MISSED by 20.0 %"));
        assert!(!table(&[row(&[3.0])]).contains("MISSED"));
        assert!(Bar::AtMost(1.0).is_met(1.0) && !Bar::AtMost(1.0).is_met(1.1));
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(-1234.0), "-1,234");
        assert_eq!(number(0.01234), "0.0123");
    }

    #[test]
    fn names_cannot_break_the_plot() {
        assert!(plot("a<b", &[row(&[1.0])]).contains("a&lt;b"));
    }
}
