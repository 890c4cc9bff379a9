//! kubectl as a library: tests act through the same client as users.

use std::ffi::OsStr;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// kubectl and the cluster it talks to.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    pub kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        // Discovery is cached by address, and an address may be another cluster's today.
        let cache = self.kubeconfig.with_file_name("kubectl-cache");
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(cache);
        // What follows `--` is a container's.
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs it and returns the output, whether it succeeded or not.
    pub fn output<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        self.command(args).output().with_context(|| format!("run {}", self.program.display()))
    }

    /// Returns its standard output, or an error with its standard error.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        let output = self.output(args)?;
        if !output.status.success() {
            let words: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
            bail!("kubectl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "--output=json"], args].concat())?;
        serde_json::from_str(&text).context("what kubectl prints is not JSON")
    }

    pub fn apply(&self, manifests: &Path) -> Result<String> {
        self.run(&["apply".as_ref(), "--filename".as_ref(), manifests.as_os_str()])
    }

    /// Applies a manifest from a string.
    pub fn apply_text(&self, manifest: &str) -> Result<String> {
        use std::io::Write;
        let mut command = self.command(&["apply", "--filename=-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("run kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(manifest.as_bytes()).context("write to kubectl")?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Watches objects: every existing one, then every change.
    pub fn watch(&self, args: &[&str]) -> Result<Watch> {
        self.follow(&[&["get", "--output=json", "--watch", "--output-watch-events"], args].concat())
    }

    /// Reads the JSON values that a command prints, as they come.
    pub fn follow(&self, args: &[&str]) -> Result<Watch> {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("run kubectl")?;
        let stdout = child.stdout.take().context("kubectl has no output")?;
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for event in serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Value>() {
                let Ok(event) = event else { return };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Watch { child, events })
    }

    /// Waits until `done` returns a value for the present objects; it is called at first and after each change.
    pub fn wait<T>(
        &self,
        args: &[&str],
        timeout: Duration,
        mut done: impl FnMut(&Objects) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut objects = Objects::default();
            if let Ok(list) = self.get(args) {
                objects.reset(list);
                if let Some(found) = done(&objects) {
                    return Ok(found);
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "kubectl get {}: the condition does not hold after {} s",
                    args.join(" "),
                    timeout.as_secs()
                );
            }
            let watch = self.watch(args)?;
            // A watch ends with its server and misses what was deleted between list and watch: repeat both.
            while let Some(event) = watch.next(deadline.min(Instant::now() + Duration::from_secs(5))) {
                objects.apply(event);
                if let Some(found) = done(&objects) {
                    return Ok(found);
                }
            }
        }
    }
}

/// A running kubectl, ended when dropped.
pub struct Watch {
    child: Child,
    events: Receiver<Value>,
}

impl Watch {
    /// The next value, of a watch `{"type": ..., "object": ...}`; none when the deadline is past or the watch has ended.
    pub fn next(&self, deadline: Instant) -> Option<Value> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(timeout) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // The server is down; retry a little later.
                std::thread::sleep(timeout.min(Duration::from_millis(200)));
                None
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The objects that a watch has reported, by namespace and name.
#[derive(Default)]
pub struct Objects(std::collections::BTreeMap<(String, String), Value>);

impl Objects {
    /// Replaces all objects by those of a list.
    pub fn reset(&mut self, mut list: Value) {
        self.0.clear();
        let items = match list.pointer_mut("/items").map(Value::take) {
            Some(Value::Array(items)) => items,
            Some(_) => Vec::new(),
            None => vec![list],
        };
        for object in items {
            self.apply(serde_json::json!({"type": "ADDED", "object": object}));
        }
    }

    pub fn apply(&mut self, mut event: Value) {
        let object = event["object"].take();
        let key =
            (text(&object, "/metadata/namespace").to_owned(), text(&object, "/metadata/name").to_owned());
        match event["type"].as_str() {
            Some("DELETED") => {
                self.0.remove(&key);
            }
            Some("ADDED" | "MODIFIED") => {
                self.0.insert(key, object);
            }
            _ => {}
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Value> {
        self.0.values()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The string at a JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a condition of the object's status is true.
pub fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}
