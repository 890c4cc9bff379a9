//! A translated pattern while it is built, and the measures that Go's limits are about.

/// Steps of a program, Go's limit (128 MiB of 40 bytes).
pub(super) const MAX_SIZE: u64 = (128 << 20) / 40;
/// Levels of a syntax tree, Go's limit.
pub(super) const MAX_LEVELS: u32 = 1000;
/// Levels of a translated pattern. The `regex` crate compiles it by recursion, so this is lower than Go's limit.
pub(super) const MAX_DEPTH: u32 = 100;
/// Copies of one part that nested repetitions may make, Go's limit.
pub(super) const MAX_COPIES: u32 = 1000;

/// A pattern in the syntax of the `regex` crate.
#[derive(Debug)]
pub(super) struct Translated {
    pattern: String,
    /// Byte offsets where a group opens that the pattern does not have, in order.
    opens: Vec<usize>,
    /// Estimated ranges of characters in the compiled program.
    pub(super) weight: u64,
}

impl Translated {
    pub(super) fn new(pattern: String, mut opens: Vec<usize>, all: Measures) -> Translated {
        opens.sort_unstable();
        Translated { pattern, opens, weight: all.weight }
    }

    pub(super) fn pattern(&self) -> String {
        let mut whole = String::with_capacity(self.pattern.len() + self.opens.len() * 3);
        let mut from = 0;
        for at in &self.opens {
            whole.push_str(&self.pattern[from..*at]);
            whole.push_str("(?:");
            from = *at;
        }
        whole.push_str(&self.pattern[from..]);
        whole
    }
}

/// What a part of a pattern is, as far as Go's simplifications depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Successive characters.
    Literal {
        single: bool,
        fold: bool,
    },
    /// One character of several.
    Class,
    Concatenation,
    Alternation,
    Repetition,
    Other,
}

impl Form {
    pub(super) fn is_one_character(self) -> bool {
        matches!(self, Form::Class | Form::Literal { single: true, .. })
    }
}

/// The measures of a part of a pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measures {
    pub(super) form: Form,
    pub(super) levels: u32,
    /// Levels of the translated pattern, which has no captures.
    pub(super) depth: u32,
    /// Steps of Go's program.
    pub(super) size: u64,
    /// The largest product of nested repetitions.
    pub(super) copies: u32,
    /// Estimated ranges of characters in the compiled program.
    pub(super) weight: u64,
}

impl Measures {
    pub(super) fn leaf(form: Form, weight: u64) -> Measures {
        Measures { form, levels: 1, depth: 1, size: 1, copies: 1, weight }
    }

    pub(super) fn capture(self) -> Measures {
        let levels = self.levels.saturating_add(1);
        Measures { form: Form::Other, levels, size: self.size.saturating_add(2), ..self }
    }

    /// Two literals side by side are one.
    pub(super) fn join(&mut self, next: &Measures) {
        if let Form::Literal { single, .. } = &mut self.form {
            *single = false;
        }
        self.size = self.size.saturating_add(next.size);
        self.weight = self.weight.saturating_add(next.weight);
    }

    /// A concatenation or alternation of parts. One within another of its kind adds no level.
    pub(super) fn of_all(form: Form, parts: &[Measures]) -> Measures {
        let Some((first, rest)) = parts.split_first() else { return Measures::leaf(Form::Other, 1) };
        if rest.is_empty() {
            return *first;
        }
        let between = if form == Form::Alternation { rest.len() as u64 } else { 0 };
        let mut all = Measures { form, levels: 2, depth: 2, size: between, copies: 1, weight: 1 };
        for part in parts {
            let added = u32::from(part.form != form);
            all.levels = all.levels.max(part.levels.saturating_add(added));
            all.depth = all.depth.max(part.depth.saturating_add(added));
            all.size = all.size.saturating_add(part.size);
            all.copies = all.copies.max(part.copies);
            all.weight = all.weight.saturating_add(part.weight);
        }
        all
    }

    /// `None` as the maximum: no limit.
    pub(super) fn repeat(self, min: u32, max: Option<u32>) -> Measures {
        let times = max.unwrap_or(min);
        let size = match max {
            None if min == 0 => self.size.saturating_add(2),
            None => self.size.saturating_mul(min.into()).saturating_add(1),
            Some(max) => self.size.saturating_mul(max.into()).saturating_add(max.saturating_sub(min).into()),
        };
        let copies = match max {
            Some(0) => 1,
            _ => self.copies.saturating_mul(times.max(1)),
        };
        let weight = self.weight.saturating_add(1).saturating_mul(times.max(1).into());
        Measures {
            form: Form::Repetition,
            levels: self.levels.saturating_add(1),
            depth: self.depth.saturating_add(1),
            size: size.max(1),
            copies,
            weight,
        }
    }
}
