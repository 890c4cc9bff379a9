//! What a bench reports: a table and a headline for people, JSON for programs, a plot for both.

mod plot;
mod row;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

pub use row::{Goal, Row};
pub use table::{number, table};

/// The result of one bench.
pub struct Report<'a> {
    /// The name of the bench and of its files.
    pub name: &'a str,
    /// The answer in one sentence.
    pub headline: String,
    pub rows: &'a [Row],
}

impl Report<'_> {
    /// Prints headline and table, and writes `NAME.json` and `NAME.svg` into the folder.
    pub fn publish(&self, folder: &Path) -> Result<()> {
        self.publish_into(folder, self.name)
    }

    /// As [`Report::publish`], with the rows in the JSON file of that name. Rows of other benches stay there.
    pub fn publish_into(&self, folder: &Path, file: &str) -> Result<()> {
        let Report { name, headline, rows } = self;
        print!("{}", table(rows));
        println!("{headline}");
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let json = folder.join(file).with_extension("json");
        let rows = beside_others(fs::read(&json).ok().as_deref(), name, rows)?;
        let svg = folder.join(name).with_extension("svg");
        for (file, text) in [(json, serde_json::to_string_pretty(&rows)?), (svg, plot::plot(self))] {
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            println!("{}", file.display());
        }
        Ok(())
    }
}

/// The rows in `before` that other benches wrote, then these.
fn beside_others(before: Option<&[u8]>, bench: &str, rows: &[Row]) -> Result<Vec<Value>> {
    let before = before.and_then(|bytes| serde_json::from_slice::<Vec<Value>>(bytes).ok());
    let of_other = |row: &Value| row["bench"].as_str().is_some_and(|other| other != bench);
    let mut all: Vec<Value> = before.unwrap_or_default().into_iter().filter(of_other).collect();
    for row in rows {
        let mut row = serde_json::to_value(row)?;
        row["bench"] = bench.into();
        all.push(row);
    }
    Ok(all)
}

/// The median of the first row of a measure, for a headline.
pub fn median(rows: &[Row], measure: &str) -> String {
    rows.iter().find(|row| row.measure == measure).map_or_else(|| "-".to_owned(), |row| number(row.median))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_other_benches_stay_and_own_ones_are_replaced() {
        let before = json!([
            {"bench": "net", "measure": "rr", "median": 1.0},
            {"bench": "scale", "measure": "old", "median": 2.0},
            {"measure": "of an earlier form"},
        ]);
        let row = Row::new("new", "skep", "ms", &[3.0]).unwrap();
        let rows = beside_others(Some(before.to_string().as_bytes()), "scale", &[row]).unwrap();
        let names: Vec<_> = rows.iter().map(|row| (row["bench"].clone(), row["measure"].clone())).collect();
        assert_eq!(names, [("net".into(), "rr".into()), ("scale".into(), "new".into())]);
    }

    #[test]
    fn a_file_that_is_none_is_replaced() {
        let row = Row::new("new", "skep", "ms", &[3.0]).unwrap();
        for before in [None, Some(&b"{"[..])] {
            assert_eq!(beside_others(before, "net", std::slice::from_ref(&row)).unwrap().len(), 1);
        }
    }
}
