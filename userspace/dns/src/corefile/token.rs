//! Words, lines and blocks of a Corefile.

use super::problem::Problem;

/// A line: its words, and the lines in braces after it. A server block is one too: its words are zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    pub(super) words: Vec<String>,
    pub(super) body: Vec<Line>,
}

/// A server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) line: usize,
    pub(super) labels: Vec<String>,
    pub(super) body: Vec<Line>,
}

/// Blocks deeper than this have no meaning in a Corefile.
const MAX_DEPTH: usize = 8;

pub(super) fn parse_blocks(text: &str, problems: &mut Vec<Problem>) -> Vec<Block> {
    // The open lines from the outermost to the innermost; the first is the file.
    let mut open = vec![Line::default()];
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let mut words = words(line);
        if words.iter().all(|word| word == "}") && !words.is_empty() {
            for _ in &words {
                close(&mut open, number, problems);
            }
            continue;
        }
        let opens = words.last().is_some_and(|word| word == "{");
        if opens {
            words.pop();
        }
        if words.is_empty() && !opens {
            continue;
        }
        let line = Line { number, words, body: Vec::new() };
        if opens && open.len() < MAX_DEPTH {
            open.push(line);
        } else if let Some(parent) = open.last_mut() {
            if opens {
                problems.push(Problem { line: number, text: "blocks are too deep".to_owned() });
            }
            parent.body.push(line);
        }
    }
    while open.len() > 1 {
        let number = open.last().map_or(0, |line| line.number);
        problems.push(Problem { line: number, text: "the block has no end".to_owned() });
        close(&mut open, number, problems);
    }
    let file = open.pop().unwrap_or_default();
    let block = |line: Line| Block {
        line: line.number,
        labels: line.words.iter().map(|word| word.trim_end_matches(',').to_owned()).collect(),
        body: line.body,
    };
    file.body.into_iter().map(block).collect()
}

fn close(open: &mut Vec<Line>, number: usize, problems: &mut Vec<Problem>) {
    if open.len() < 2 {
        problems.push(Problem { line: number, text: "a brace that closes nothing".to_owned() });
        return;
    }
    if let (Some(line), Some(parent)) = (open.pop(), open.last_mut()) {
        parent.body.push(line);
    }
}

/// Words are separated by white space; quotes make one word; a word that begins with `#` begins a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '#' if !quoted && word.is_none() => break,
            character if character.is_whitespace() && !quoted => words.extend(word.take()),
            character => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}
