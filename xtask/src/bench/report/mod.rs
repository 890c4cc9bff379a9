//! What a bench reports: a table and a headline for people, JSON for programs, a plot for both.

mod plot;
mod row;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

pub use row::{Goal, Row};
pub use table::{number, table};

/// The result of one bench.
pub struct Report<'a> {
    /// The name of its files.
    pub name: &'a str,
    /// The answer in one sentence.
    pub headline: String,
    pub rows: &'a [Row],
}

impl Report<'_> {
    /// Prints headline and table, and writes `NAME.json` and `NAME.svg` into the folder.
    pub fn publish(&self, folder: &Path) -> Result<()> {
        let Report { name, headline, rows } = self;
        print!("{}", table(rows));
        println!("{headline}");
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        for (extension, text) in [("json", serde_json::to_string_pretty(rows)?), ("svg", plot::plot(self))] {
            let file = folder.join(name).with_extension(extension);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            println!("{}", file.display());
        }
        Ok(())
    }
}

/// The median of the first row of a measure, for a headline.
pub fn median(rows: &[Row], measure: &str) -> String {
    rows.iter().find(|row| row.measure == measure).map_or_else(|| "-".to_owned(), |row| number(row.median))
}
