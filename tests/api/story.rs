//! Stories: commands and what they are to answer, as text in `testdata`.
//!
//! `$ create ns a` is a command (without `kubectl`), `~ get pods` one that is repeated until it answers as written; `< ` lines
//! are its input, `> ` lines its output and then what it says on standard error, `1.32> ` a line of that version only,
//! `! 1` its exit code where that is not 0. A line `> ...` stands for any number of lines. `#` begins a comment.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Answer, Server};
use crate::normal::normal;
use crate::tools::Kubectl;

/// Set it to have the files say what was answered.
const REWRITE: &str = "SKEP_REWRITE";
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const ANY: &str = "...";

#[derive(Clone, Debug, Default)]
struct Step {
    /// Comments and empty lines that stand before it.
    before: String,
    command: String,
    repeated: bool,
    input: String,
    /// The version that says it, or none for all; the line.
    output: Vec<(Option<String>, String)>,
    exit: i32,
}

impl Step {
    fn expected(&self, version: &str) -> Vec<&str> {
        let ours = self.output.iter().filter(|(only, _)| only.as_deref().is_none_or(|only| only == version));
        ours.map(|(_, line)| line.as_str()).collect()
    }

    fn is_met(&self, version: &str, answer: &Answer) -> bool {
        let lines: Vec<&str> = answer.text.lines().collect();
        answer.exit == self.exit && matches(&self.expected(version), &lines)
    }

    /// The report of an answer that differs from the story.
    fn failure(&self, version: &str, answer: &Answer) -> Option<String> {
        (!self.is_met(version, answer)).then(|| {
            let expected = self.expected(version).join("\n");
            format!(
                "--- {version}: kubectl {}\n--- wanted (exit {})\n{expected}\n--- got (exit {})\n{}",
                self.command, self.exit, answer.exit, answer.text
            )
        })
    }

    fn run(&self, server: &Server, kubectl: &Kubectl) -> Answer {
        let start = Instant::now();
        loop {
            let mut answer = server.run(&kubectl.program, &words(&self.command), &self.input);
            answer.text = normal(&answer.text);
            let timeout = if rewriting() { READY_TIMEOUT / 3 } else { READY_TIMEOUT };
            let ended = !self.repeated || start.elapsed() > timeout;
            if ended || self.is_met(&kubectl.version, &answer) {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn matches(expected: &[&str], lines: &[&str]) -> bool {
    match expected {
        [] => lines.is_empty(),
        [ANY, rest @ ..] => (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..])),
        [first, rest @ ..] => lines.first() == Some(first) && matches(rest, &lines[1..]),
    }
}

/// Words as a shell splits them: quotes of both kinds, no expansion.
fn words(command: &str) -> Vec<String> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => all.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    all
}

fn parse(text: &str) -> (Vec<Step>, String) {
    let (mut steps, mut before) = (Vec::<Step>::new(), String::new());
    for line in text.lines() {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let last = steps.last_mut().filter(|_| before.is_empty());
        match (mark, last) {
            ("$" | "~", _) => steps.push(Step {
                before: std::mem::take(&mut before),
                command: rest.to_owned(),
                repeated: mark == "~",
                ..Step::default()
            }),
            ("<", Some(step)) => step.input += &format!("{rest}\n"),
            ("!", Some(step)) => step.exit = rest.parse().expect("an exit code"),
            (mark, Some(step)) if mark.ends_with('>') => {
                let version = mark.trim_end_matches('>');
                step.output.push(((!version.is_empty()).then(|| version.to_owned()), rest.to_owned()));
            }
            _ => before += &format!("{line}\n"),
        }
    }
    (steps, before)
}

fn written(steps: &[Step], end: &str) -> String {
    let mut out = String::new();
    for step in steps {
        out += &step.before;
        let mark = if step.repeated { '~' } else { '$' };
        let _ = writeln!(out, "{mark} {}", step.command);
        let input = step.input.lines().map(|line| format!("< {line}"));
        let exit = (step.exit != 0).then(|| format!("! {}", step.exit));
        let output =
            step.output.iter().map(|(only, line)| format!("{}> {line}", only.as_deref().unwrap_or_default()));
        for line in input.chain(output).chain(exit) {
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out + end
}

/// Plays a story with each of some kubectls, each against a server of its own.
pub(crate) async fn play(name: &str, kubectls: Vec<Kubectl>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("api/testdata/{name}.txt"));
    let text = std::fs::read_to_string(&file).expect("the story");
    let (mut steps, end) = parse(&text);
    assert_eq!(written(&steps, &end), text, "{}: is not written as it is read", file.display());
    let mut played = Vec::new();
    for kubectl in kubectls {
        let (server, steps) = (Server::with_controllers().await, steps.clone());
        played.push(tokio::task::spawn_blocking(move || {
            let answers: Vec<Answer> = steps.iter().map(|step| step.run(&server, &kubectl)).collect();
            (kubectl.version, answers)
        }));
    }
    let mut answers = Vec::new();
    for one in played {
        answers.push(one.await.expect("a player"));
    }
    if rewriting() {
        rewrite(&mut steps, &answers);
        std::fs::write(&file, written(&steps, &end)).expect("write the story");
        return;
    }
    let failures: Vec<String> = answers
        .iter()
        .flat_map(|(version, answers)| {
            steps.iter().zip(answers).filter_map(|(step, answer)| step.failure(version, answer))
        })
        .collect();
    assert!(failures.is_empty(), "{name}: {} answers differ\n{}", failures.len(), failures.join("\n"));
}

fn rewriting() -> bool {
    std::env::var_os(REWRITE).is_some()
}

fn rewrite(steps: &mut [Step], answers: &[(String, Vec<Answer>)]) {
    for (at, step) in steps.iter_mut().enumerate() {
        let all: Vec<(&str, &Answer)> =
            answers.iter().map(|(version, answers)| (version.as_str(), &answers[at])).collect();
        if all.iter().all(|(version, answer)| step.is_met(version, answer)) {
            continue;
        }
        step.exit = all[0].1.exit;
        let same = all.iter().all(|(_, answer)| answer.text == all[0].1.text);
        step.output = all[..if same { 1 } else { all.len() }]
            .iter()
            .flat_map(|(version, answer)| {
                let only = (!same).then(|| (*version).to_owned());
                answer.text.lines().map(move |line| (only.clone(), line.to_owned()))
            })
            .collect();
    }
}
