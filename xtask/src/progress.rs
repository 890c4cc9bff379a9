//! What a person sees while a command works: bars on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One step of a command.
pub struct Step {
    bar: Option<ProgressBar>,
    title: String,
    from: Instant,
    ended: bool,
}

impl Step {
    /// A step without a known length.
    pub fn new(title: impl Into<String>) -> Step {
        Step::with(title.into(), "{spinner} {prefix}  {wide_msg} {elapsed:>5}", 0)
    }

    /// A step of `length` parts.
    pub fn of(title: impl Into<String>, length: u64) -> Step {
        Step::with(title.into(), "{spinner} {prefix}  {bar:30} {pos}/{len}  {wide_msg} {elapsed:>5}", length)
    }

    fn with(title: String, template: &str, length: u64) -> Step {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(length).with_style(style).with_prefix(format!("{title:<28}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step { bar, title, from: Instant::now(), ended: false }
    }

    pub fn at(&self, position: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(position as u64);
        }
    }

    pub fn say(&self, message: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.into());
        }
    }

    /// Ends it with one line that stays.
    pub fn done(mut self, result: impl AsRef<str>) {
        self.line("ok", result.as_ref());
    }

    fn line(&mut self, mark: &str, result: &str) {
        self.ended = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let seconds = self.from.elapsed().as_secs_f64();
        eprintln!("{mark:<6} {:<28} {result}  ({seconds:.1} s)", self.title);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.line("FAILED", "");
        }
    }
}
