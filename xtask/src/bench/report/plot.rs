//! The rows as a picture: a panel a measure, the best subject on top, one colour a subject in all panels.

use std::fmt::Write as _;

use super::Report;
use super::row::{Goal, Row};
use super::table::number;

/// Distinct on white also for people who do not see red and green (after Okabe and Ito).
const PALETTE: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#7f7f7f"];
/// The subject that every plot is about has the first colour.
const OURS: [&str; 2] = ["skep", "embedded"];

const WIDTH: f64 = 860.0;
const LEFT: f64 = 280.0;
const BARS: f64 = 420.0;
const LINE: f64 = 22.0;

/// Bars for medians, a whisker from the smallest to the largest sample, a dashed line for the goal.
pub(super) fn plot(report: &Report<'_>) -> String {
    let rows = report.rows;
    let colours = Colours::of(rows);
    let mut measures: Vec<&str> = Vec::new();
    for row in rows {
        if !measures.contains(&row.measure) {
            measures.push(row.measure);
        }
    }
    let mut body = String::new();
    let mut y = colours.legend(&mut body, 52.0);
    for measure in measures {
        let mut of: Vec<&Row> = rows.iter().filter(|row| row.measure == measure).collect();
        sort_best_first(&mut of);
        y = panel(&mut body, measure, &of, &colours, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
         <text x=\"10\" y=\"42\">{}</text>\n{body}</svg>\n",
        escaped(report.name),
        escaped(&report.headline)
    )
}

fn sort_best_first(rows: &mut [&Row]) {
    let higher = rows.iter().any(|row| row.goal.is_some() && row.higher_is_better())
        || rows.iter().all(|row| row.goal.is_none() && row.higher_is_better());
    rows.sort_by(|a, b| if higher { b.median.total_cmp(&a.median) } else { a.median.total_cmp(&b.median) });
}

/// Which colour each subject has.
struct Colours<'a>(Vec<&'a str>);

impl<'a> Colours<'a> {
    fn of(rows: &'a [Row]) -> Colours<'a> {
        let mut subjects: Vec<&str> = Vec::new();
        for row in rows {
            if !subjects.contains(&row.subject.as_str()) {
                subjects.push(&row.subject);
            }
        }
        subjects.sort_by_key(|subject| !OURS.contains(subject));
        Colours(subjects)
    }

    fn colour(&self, subject: &str) -> &'static str {
        let index = self.0.iter().position(|known| *known == subject).unwrap_or(0);
        PALETTE[index.min(PALETTE.len() - 1)]
    }

    /// Subjects beyond the palette share its last colour; their names are beside their bars.
    fn legend(&self, out: &mut String, top: f64) -> f64 {
        let (mut x, mut y) = (10.0, top);
        for subject in self.0.iter().take(PALETTE.len() - 1) {
            let width = 30.0 + 7.0 * subject.len() as f64;
            if x + width > WIDTH {
                (x, y) = (10.0, y + LINE);
            }
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text>",
                self.colour(subject),
                x + 17.0,
                y + 11.0,
                escaped(subject)
            );
            x += width;
        }
        y + LINE + 6.0
    }
}

fn panel(out: &mut String, measure: &str, rows: &[&Row], colours: &Colours<'_>, top: f64) -> f64 {
    let unit = rows.first().map_or("", |row| row.unit);
    let largest =
        rows.iter().flat_map(|row| [row.max, row.goal.map_or(0.0, Goal::value)]).fold(0.0, f64::max);
    let scale = if largest > 0.0 { BARS / largest } else { 0.0 };
    let direction = if rows.iter().any(|row| row.higher_is_better()) { "higher" } else { "lower" };
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"{}\"><tspan font-weight=\"bold\">{}</tspan> ({}, {direction} is better)</text>",
        top + 16.0,
        escaped(measure),
        escaped(unit)
    );
    let mut y = top + LINE;
    for row in rows {
        bar(out, row, colours.colour(&row.subject), scale, y);
        y += LINE;
    }
    y + 14.0
}

fn bar(out: &mut String, row: &Row, fill: &str, scale: f64, y: f64) {
    let x = |value: f64| LEFT + scale * value;
    let middle = y + LINE / 2.0;
    let missed = row.goal.is_some_and(|goal| !goal.is_met(row.median));
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{fill}\"/>\
         <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/>\
         <text x=\"{}\" y=\"{}\">{}{}</text>",
        LEFT - 8.0,
        middle + 4.0,
        escaped(&row.name()),
        y + 3.0,
        scale * row.median,
        LINE - 6.0,
        x(row.min),
        x(row.max),
        LEFT + BARS + 12.0,
        middle + 4.0,
        number(row.median),
        if missed { " (goal missed)" } else { "" },
    );
    if let Some(goal) = row.goal {
        let at = x(goal.value());
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{y}\" y2=\"{}\" stroke=\"#b5543f\" stroke-width=\"2\" stroke-dasharray=\"4 2\"/>",
            y + LINE
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(measure: &'static str, subject: &str, unit: &'static str, value: f64) -> Row {
        Row::new(measure, subject, unit, &[value]).unwrap()
    }

    fn drawn(rows: &[Row]) -> String {
        plot(&Report { name: "a<b", headline: String::new(), rows })
    }

    #[test]
    fn names_cannot_break_the_plot() {
        assert!(drawn(&[row("get", "<x>", "1/s", 1.0)]).contains("a&lt;b"));
    }

    #[test]
    fn a_subject_has_one_colour_and_subjects_have_different_ones() {
        let rows = [row("get", "loopback", "1/s", 2.0), row("get", "skep", "1/s", 1.0)];
        let colours = Colours::of(&rows);
        assert_eq!(colours.colour("skep"), PALETTE[0]);
        assert_eq!(colours.colour("loopback"), PALETTE[1]);
    }

    #[test]
    fn the_best_is_on_top_whichever_way_the_measure_goes() {
        let order = |unit| {
            let rows = [row("m", "one", unit, 1.0), row("m", "three", unit, 3.0), row("m", "two", unit, 2.0)];
            let mut of: Vec<&Row> = rows.iter().collect();
            sort_best_first(&mut of);
            of.iter().map(|row| row.subject.clone()).collect::<Vec<_>>()
        };
        assert_eq!(order("1/s"), ["three", "two", "one"]);
        assert_eq!(order("ms"), ["one", "two", "three"]);
    }

    #[test]
    fn a_missed_goal_is_written_beside_the_bar() {
        let missed = row("get", "skep", "1/s", 1.0).with_goal(Goal::AtLeast(2.0));
        assert!(drawn(&[missed]).contains("goal missed"));
    }
}
