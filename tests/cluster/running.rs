//! A kubectl that goes on until it is ended.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::fixture::Space;

/// How long what must come may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A running kubectl, ended when dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(space: &Space<'_>, args: &[&str]) -> Result<Running> {
        let mut command = space.kubectl.command(&[&["--namespace", &space.name], args].concat());
        Ok(Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?))
    }

    /// Lines of its output, as they come.
    pub(crate) fn lines(&mut self) -> Result<Receiver<String>> {
        let output = self.0.stdout.take().context("no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Ok(lines)
    }

    /// Waits for its end; its error output.
    pub(crate) fn failed(&mut self) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "kubectl goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        ensure!(!self.0.wait()?.success(), "kubectl succeeded");
        let mut said = String::new();
        self.0.stderr.take().context("no error output")?.read_to_string(&mut said)?;
        Ok(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
