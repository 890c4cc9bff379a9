//! The rows as a table of text.

use std::fmt::Write as _;

use super::row::{Goal, Row};

/// One line a row, in columns.
pub fn table(rows: &[Row]) -> String {
    let head = ["measure", "subject", "median", "min", "max", "unit", "goal", ""].map(str::to_owned);
    let mut lines = vec![head];
    lines.extend(rows.iter().map(|row| {
        let (goal, met) = match row.goal {
            None => (String::new(), String::new()),
            Some(goal) => {
                let sign = if matches!(goal, Goal::AtLeast(_)) { ">=" } else { "<=" };
                let met = if goal.is_met(row.median) { "met".to_owned() } else { goal.missed_by(row.median) };
                (format!("{sign} {}", number(goal.value())), met)
            }
        };
        let [median, min, max] = [row.median, row.min, row.max].map(number);
        [row.measure.to_owned(), row.name(), median, min, max, row.unit.to_owned(), goal, met]
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

/// Three significant digits, and groups of thousands.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        middle if middle >= 1.0 => 2,
        small if small >= 0.1 => 3,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(samples: &[f64]) -> Row {
        Row::new("get", "embedded", "1/s", samples).unwrap().with_goal(Goal::AtLeast(3.0))
    }

    #[test]
    fn a_missed_goal_shows() {
        assert!(table(&[row(&[2.4])]).contains("MISSED by 20.0 %"));
        assert!(!table(&[row(&[3.0])]).contains("MISSED"));
        assert!(Goal::AtMost(1.0).is_met(1.0) && !Goal::AtMost(1.0).is_met(1.1));
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(-1234.0), "-1,234");
        assert_eq!(number(0.1234), "0.123");
        assert_eq!(number(0.01234), "0.0123");
    }
}
