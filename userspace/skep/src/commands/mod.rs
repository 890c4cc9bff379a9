//! The commands, one file each.

mod access;
mod acme;
pub(crate) mod agent;
mod agent_gateway;
mod agent_kubelet;
mod audit;
mod authentication;
pub(crate) mod backup;
mod backup_server;
pub(crate) mod certs;
mod cgroup;
mod etcd;
pub(crate) mod flows;
pub(crate) mod hold_sockets;
pub(crate) mod ingress;
pub(crate) mod restore;
pub(crate) mod secrets;
pub(crate) mod server;
pub(crate) mod token;

use std::time::Duration;

use skep_datapath::FlowGroup;

/// Why a flag's value is none.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum FlagError {
    #[error("{0}")]
    NoDuration(String),
    #[error("a duration must not be negative")]
    Negative,
    #[error("a timeout is group=duration")]
    NoPair,
    #[error("{0} is none of {1}")]
    UnknownGroup(String, String),
    #[error("{0} is not between 10s and 136 years")]
    OutOfRange(String),
}

/// Parses a duration in the notation of Kubernetes' flags: `500ms`, `5s`, `1m30s`, `24h`.
pub(crate) fn duration(text: &str) -> Result<Duration, FlagError> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|error: jiff::Error| FlagError::NoDuration(error.to_string()))?;
    Duration::try_from(parsed).map_err(|_| FlagError::Negative)
}

/// Parses `group=duration`; the duration is at least ten seconds, which closed flows have.
pub(crate) fn flow_timeout(text: &str) -> Result<(FlowGroup, u32), FlagError> {
    let (name, time) = text.split_once('=').ok_or(FlagError::NoPair)?;
    let found = FlowGroup::SETTABLE.into_iter().find(|(known, _)| *known == name);
    let names = || FlowGroup::SETTABLE.map(|(name, _)| name).join(", ");
    let (_, group) = found.ok_or_else(|| FlagError::UnknownGroup(name.to_owned(), names()))?;
    match u32::try_from(duration(time)?.as_secs()) {
        Ok(seconds) if seconds >= 10 => Ok((group, seconds)),
        _ => Err(FlagError::OutOfRange(time.to_owned())),
    }
}

/// Raises the soft limit of open files to the hard one, as the Go runtime does. Usual defaults are a thousand, which a
/// server of many connections exceeds.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(from = current, to = maximum, "raised the limit of open files"),
        Err(error) => {
            tracing::warn!(from = current, to = maximum, %error, "raise the limit of open files failed")
        }
    }
}

/// Returns when the process receives SIGTERM or SIGINT.
pub(crate) async fn terminated() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        raise_descriptor_limit();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn durations_have_the_notation_of_kubernetes() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("-5s").is_err());
        assert!(duration("soon").is_err());
    }
}
