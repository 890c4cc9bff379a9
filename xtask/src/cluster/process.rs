//! Processes that outlive the command that started them. A record identifies each exactly, so that no other is ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

/// Clock ticks a second in /proc, on every architecture with BPF.
const USER_HZ: f64 = 100.0;

/// How a process is started.
pub struct Spec {
    /// Names the record and the log.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    /// The network namespace to run in; None is the caller's.
    pub netns: Option<PathBuf>,
    /// The cgroup v2 folder to run in.
    pub cgroup: Option<PathBuf>,
    pub log: PathBuf,
}

/// The record of a started process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Start time in clock ticks since boot: with the pid it identifies one process for ever.
    started: u64,
    /// Arguments and the program's modification time: a change requires a restart.
    identity: String,
}

/// The folder of records.
pub struct Processes {
    folder: PathBuf,
}

impl Processes {
    pub fn new(folder: PathBuf) -> Processes {
        Processes { folder }
    }

    /// Starts it, unless the same program with the same arguments runs already; true if it started one.
    pub fn converge(&self, spec: &Spec) -> Result<bool> {
        let identity = identity(spec)?;
        if let Some(record) = self.running(&spec.name) {
            if record.identity == identity {
                return Ok(false);
            }
            self.end(&spec.name, Duration::from_secs(10))?;
        }
        self.start(spec, identity)?;
        Ok(true)
    }

    fn start(&self, spec: &Spec, identity: String) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("create {}", self.folder.display()))?;
        if let Some(folder) = spec.log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let log = fs::File::options().create(true).append(true).open(&spec.log);
        let log = log.with_context(|| format!("open {}", spec.log.display()))?;
        let mut command = command(spec);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.envs(spec.env.iter().map(|(key, value)| (key, value)));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("start {}", spec.name))?;
        let pid = i32::try_from(child.id()).context("process id")?;
        let started = started(pid).with_context(|| format!("{} ended at once", spec.name))?;
        let record = serde_json::to_vec(&Record { pid, started, identity })?;
        let file = self.file(&spec.name);
        fs::write(&file, record).with_context(|| format!("write {}", file.display()))
    }

    /// The process id, if it runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.running(name).and_then(|record| u32::try_from(record.pid).ok())
    }

    /// Names of all that have a record, running or not.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let files = entries.flatten().map(|entry| entry.path());
        files.filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned())).collect()
    }

    /// Ends it: SIGTERM first, SIGKILL after `timeout`. True if there was one.
    pub fn end(&self, name: &str, timeout: Duration) -> Result<bool> {
        self.signal(name, Signal::TERM, timeout)
    }

    /// Sends SIGKILL at once and waits until it is gone.
    pub fn kill(&self, name: &str) -> Result<bool> {
        self.signal(name, Signal::KILL, Duration::from_secs(10))
    }

    fn signal(&self, name: &str, signal: Signal, timeout: Duration) -> Result<bool> {
        let Some(record) = self.running(name) else {
            let _ = fs::remove_file(self.file(name));
            return Ok(false);
        };
        let ended = end(&record, signal, timeout).with_context(|| format!("end {name}"))?;
        if !ended {
            bail!("{name} (process {}) does not end", record.pid);
        }
        let _ = fs::remove_file(self.file(name));
        Ok(true)
    }

    fn running(&self, name: &str) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.file(name)).ok()?).ok()?;
        reap(record.pid);
        (started(record.pid) == Some(record.started)).then_some(record)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

/// The shell enters the cgroup and then executes the program, so every socket is made inside.
fn command(spec: &Spec) -> Command {
    let mut words: Vec<OsString> = Vec::new();
    if let Some(cgroup) = &spec.cgroup {
        words.extend(["sh", "-c", r#"echo 0 >"$0" && exec "$@""#].map(OsString::from));
        words.push(cgroup.join("cgroup.procs").into());
    }
    if let Some(netns) = &spec.netns {
        // `ip netns exec` would mount a /sys that hides cgroups and pins.
        let mut net = OsString::from("--net=");
        net.push(netns);
        words.extend(["nsenter".into(), net, "--".into()]);
    }
    words.push(spec.program.clone().into());
    words.extend(spec.args.iter().cloned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

fn identity(spec: &Spec) -> Result<String> {
    let program = fs::metadata(&spec.program);
    let program = program.with_context(|| format!("{} is missing", spec.program.display()))?;
    let args: Vec<String> = spec.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let env: Vec<String> =
        spec.env.iter().map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy())).collect();
    Ok(format!(
        "{} {} {:?} {:?} {:?}",
        spec.program.display(),
        program.len(),
        program.modified().ok(),
        args,
        env
    ))
}

/// When a process that has not ended was started, in ticks since boot: field 22 of proc(5)'s stat.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

fn end(record: &Record, signal: Signal, timeout: Duration) -> Result<bool> {
    let pid = Pid::from_raw(record.pid).context("process id 0")?;
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(true) };
    // Between the record's check and the descriptor the process may have ended and its id gone to another.
    if started(record.pid) != Some(record.started) {
        return Ok(true);
    }
    for (signal, timeout) in [(signal, timeout), (Signal::KILL, Duration::from_secs(10))] {
        match pidfd_send_signal(&fd, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let timeout = Timespec::try_from(timeout)?;
        if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))? > 0 {
            reap(record.pid);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reaps the process if it is a child of ours; does nothing for any other.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.get(from..).unwrap_or_default().join("\n")
}

/// Resident memory in KiB and processor time in seconds that a process has used.
pub fn usage(pid: u32) -> Option<(u64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let resident = resident.trim().trim_end_matches("kB").trim().parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((resident, (user + system) as f64 / USER_HZ))
}

/// Collects arguments of any string type.
pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(words: I) -> Vec<OsString> {
    words.into_iter().map(|word| word.as_ref().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path, seconds: &str) -> Spec {
        Spec {
            name: "sleeper".to_owned(),
            program: "/bin/sleep".into(),
            args: args([seconds]),
            env: Vec::new(),
            netns: None,
            cgroup: None,
            log: folder.join("log"),
        }
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("skep-process-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = Processes::new(self.0.clone()).kill("sleeper");
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_same_process_is_not_started_twice() {
        let folder = Folder::new("twice");
        let processes = Processes::new(folder.0.clone());
        assert!(processes.converge(&sleeper(&folder.0, "1000")).unwrap());
        let pid = processes.pid("sleeper");
        assert!(!processes.converge(&sleeper(&folder.0, "1000")).unwrap());
        assert_eq!(processes.pid("sleeper"), pid);
    }

    #[test]
    fn other_arguments_replace_the_process() {
        let folder = Folder::new("replace");
        let processes = Processes::new(folder.0.clone());
        processes.converge(&sleeper(&folder.0, "1000")).unwrap();
        let pid = processes.pid("sleeper").unwrap();
        assert!(processes.converge(&sleeper(&folder.0, "1001")).unwrap());
        assert_ne!(processes.pid("sleeper"), Some(pid));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_record_of_an_earlier_process_ends_nobody() {
        let folder = Folder::new("earlier");
        let processes = Processes::new(folder.0.clone());
        let record = Record { pid: std::process::id() as i32, started: 1, identity: String::new() };
        fs::write(folder.0.join("sleeper.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(!processes.kill("sleeper").unwrap());
        assert!(processes.names().is_empty());
    }
}
