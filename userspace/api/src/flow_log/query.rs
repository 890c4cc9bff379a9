//! What a client asks of the flow log. PURE.
//!
//! The text is a URL's query: names of objects, numbers and words, which need no escapes.

use std::fmt;

use super::record::{FlowRecord, Verdict};

/// Lines of the past that an answer has at most, if the client does not say.
pub const DEFAULT_LAST: usize = 100;
/// Lines of each verdict that an agent remembers.
pub const MAX_LAST: usize = 4_096;

/// All conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowQuery {
    /// A pod of the namespace is part of it.
    pub namespace: Option<String>,
    /// A pod of that name, or `namespace/name`, is part of it.
    pub pod: Option<String>,
    /// Either end has the port.
    pub port: Option<u16>,
    /// By name, in any case.
    pub protocol: Option<String>,
    pub verdict: Option<Verdict>,
    /// With `-` for spaces.
    pub reason: Option<String>,
    /// Newest lines of the past.
    pub last: usize,
    /// Go on with what happens.
    pub follow: bool,
}

/// The parameter that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("there is no parameter {0:?}")]
    Unknown(String),
    #[error("{parameter}: invalid value {value:?}")]
    Invalid { parameter: &'static str, value: String },
}

impl Default for FlowQuery {
    fn default() -> Self {
        FlowQuery {
            namespace: None,
            pod: None,
            port: None,
            protocol: None,
            verdict: None,
            reason: None,
            last: DEFAULT_LAST,
            follow: false,
        }
    }
}

impl FlowQuery {
    /// Parses the text of a URL's query. A parameter that occurs twice has its last value.
    pub fn parse(text: &str) -> Result<FlowQuery, QueryError> {
        let mut query = FlowQuery::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let invalid = |parameter| QueryError::Invalid { parameter, value: value.to_owned() };
            match name {
                "namespace" => query.namespace = Some(value.to_owned()),
                "pod" => query.pod = Some(value.to_owned()),
                "protocol" => query.protocol = Some(value.to_owned()),
                "reason" => query.reason = Some(value.to_owned()),
                "port" => query.port = Some(value.parse().map_err(|_| invalid("port"))?),
                "last" => query.last = value.parse().map_err(|_| invalid("last"))?,
                "verdict" => {
                    query.verdict = Some(match value {
                        "allowed" => Verdict::Allowed,
                        "dropped" => Verdict::Dropped,
                        _ => return Err(invalid("verdict")),
                    });
                }
                "follow" => {
                    query.follow = match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(invalid("follow")),
                    };
                }
                _ => return Err(QueryError::Unknown(name.to_owned())),
            }
        }
        Ok(query)
    }

    /// Whether the record is one of those asked for.
    pub fn matches(&self, record: &FlowRecord) -> bool {
        let FlowQuery { namespace, pod, port, protocol, verdict, reason, last: _, follow: _ } = self;
        let in_namespace = |wanted: &String| record.pods().any(|pod| pod.namespace == *wanted);
        let of_pod = |wanted: &String| {
            record.pods().any(|pod| match wanted.split_once('/') {
                Some((namespace, name)) => pod.namespace == namespace && pod.name == name,
                None => pod.name == *wanted,
            })
        };
        let has_port = |wanted: &u16| [record.source.port, record.destination.port].contains(&Some(*wanted));
        let has_reason = |wanted: &String| {
            record.reason.as_ref().is_some_and(|reason| hyphenated(reason) == hyphenated(wanted))
        };
        namespace.as_ref().is_none_or(in_namespace)
            && pod.as_ref().is_none_or(of_pod)
            && port.as_ref().is_none_or(has_port)
            && protocol.as_ref().is_none_or(|wanted| record.protocol.eq_ignore_ascii_case(wanted))
            && verdict.is_none_or(|wanted| record.verdict == wanted)
            && reason.as_ref().is_none_or(has_reason)
    }
}

fn hyphenated(reason: &str) -> String {
    reason.replace(' ', "-").to_ascii_lowercase()
}

/// The text that [`FlowQuery::parse`] reads.
impl fmt::Display for FlowQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FlowQuery { namespace, pod, port, protocol, verdict, reason, last, follow } = self;
        write!(f, "last={last}&follow={follow}")?;
        let verdict = verdict.map(|verdict| match verdict {
            Verdict::Allowed => "allowed".to_owned(),
            Verdict::Dropped => "dropped".to_owned(),
        });
        let parameters = [
            ("namespace", namespace.clone()),
            ("pod", pod.clone()),
            ("port", port.map(|port| port.to_string())),
            ("protocol", protocol.clone()),
            ("verdict", verdict),
            ("reason", reason.as_deref().map(hyphenated)),
        ];
        for (name, value) in parameters {
            if let Some(value) = value {
                write!(f, "&{name}={value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{End, Line, Pod};
    use super::*;

    fn record() -> FlowRecord {
        let pod = |namespace: &str, name: &str| Some(Pod { namespace: namespace.into(), name: name.into() });
        FlowRecord {
            time: jiff::Timestamp::UNIX_EPOCH,
            node: "n".into(),
            verdict: Verdict::Dropped,
            reason: Some("ingress policy".into()),
            direction: "from-pod".into(),
            protocol: "TCP".into(),
            source: End { port: Some(40_000), pod: pod("a", "client"), ..End::default() },
            destination: End { port: Some(80), pod: pod("b", "web"), ..End::default() },
            interface: pod("a", "client"),
            service: None,
            route: None,
            rule: None,
            denied_by: vec!["b/guard".into()],
            bytes: 74,
        }
    }

    #[test]
    fn conditions_select_by_either_end() {
        for (text, selected) in [
            ("", true),
            ("namespace=a", true),
            ("namespace=b&pod=web", true),
            ("namespace=c", false),
            ("pod=b/web", true),
            ("pod=a/web", false),
            ("port=80&protocol=tcp", true),
            ("port=81", false),
            ("verdict=allowed", false),
            ("reason=ingress-policy&verdict=dropped", true),
            ("reason=egress-policy", false),
        ] {
            assert_eq!(FlowQuery::parse(text).unwrap().matches(&record()), selected, "{text}");
        }
    }

    #[test]
    fn a_query_is_its_text() {
        let text = "last=7&follow=true&namespace=a&pod=b&port=53&protocol=udp&verdict=dropped&reason=no-port";
        let query = FlowQuery::parse(text).unwrap();
        assert_eq!(query.to_string(), text);
        let query = FlowQuery { reason: Some("No port".into()), ..query };
        assert_eq!(query.to_string(), text);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, error) in [
            ("colour=red", "there is no parameter \"colour\""),
            ("port=http", "port: invalid value \"http\""),
            ("verdict=x", "verdict: invalid value \"x\""),
            ("follow", "follow: invalid value \"\""),
            ("last=-1", "last: invalid value \"-1\""),
        ] {
            assert_eq!(FlowQuery::parse(text).unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn a_line_is_a_record_or_a_number_of_lost_ones() {
        for line in [Line::Lost { lost: 3 }, Line::Flow(Box::new(record()))] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }
}
