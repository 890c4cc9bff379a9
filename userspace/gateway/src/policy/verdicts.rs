//! What a service that authenticates said, for requests that are alike.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, StatusCode};

use super::template::{Template, Values};

/// Answers that are kept.
const MAX_ANSWERS: usize = 4_096;

/// How long answers are kept; without statuses for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRule {
    pub statuses: Vec<StatusCode>,
    pub time: Duration,
}

/// Answers by the text that makes requests alike, and by what they were asked about.
#[derive(Debug)]
pub struct Verdicts {
    key: Template,
    rules: Vec<CacheRule>,
    answers: Mutex<HashMap<Key, Answer>>,
}

pub(crate) type Key = [u8; 32];

#[derive(Clone, Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// In milliseconds of the gateway's own clock.
    until: u64,
}

impl Verdicts {
    pub fn new(key: Template, rules: Vec<CacheRule>) -> Verdicts {
        Verdicts { key, rules, answers: Mutex::default() }
    }

    pub(crate) fn key(&self, values: &Values<'_>) -> Key {
        let text = self.key.fill(values);
        digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap_or_default()
    }

    pub(crate) fn get(&self, key: &Key, now_ms: u64) -> Option<(StatusCode, HeaderMap)> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.get(key).filter(|answer| answer.until > now_ms)?;
        Some((answer.status, answer.headers.clone()))
    }

    pub(crate) fn put(&self, key: Key, status: StatusCode, headers: &HeaderMap, now_ms: u64) {
        let applies = |rule: &&CacheRule| rule.statuses.is_empty() || rule.statuses.contains(&status);
        let Some(rule) = self.rules.iter().find(applies).filter(|rule| !rule.time.is_zero()) else { return };
        let until = now_ms.saturating_add(u64::try_from(rule.time.as_millis()).unwrap_or(u64::MAX));
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_ANSWERS {
            answers.retain(|_, answer| answer.until > now_ms);
        }
        // A flood of requests that are all different keeps nothing more.
        if answers.len() < MAX_ANSWERS || answers.contains_key(&key) {
            answers.insert(key, Answer { status, headers: headers.clone(), until });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_after_the_time_of_their_status() {
        let rule = |statuses: &[u16], seconds| CacheRule {
            statuses: statuses.iter().map(|code| StatusCode::from_u16(*code).unwrap()).collect(),
            time: Duration::from_secs(seconds),
        };
        let verdicts = Verdicts::new(Template::default(), vec![rule(&[200], 10), rule(&[401], 0)]);
        let kept = |code: u16, now| {
            let (key, status) = ([code as u8; 32], StatusCode::from_u16(code).unwrap());
            verdicts.put(key, status, &HeaderMap::new(), 0);
            verdicts.get(&key, now).is_some()
        };
        assert_eq!((kept(200, 9_999), kept(200, 10_000)), (true, false));
        assert_eq!((kept(401, 1), kept(403, 1)), (false, false));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let rules = vec![CacheRule { statuses: Vec::new(), time: Duration::from_secs(10) }];
        let verdicts = Verdicts::new(Template::default(), rules);
        let key = |at: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&at.to_le_bytes());
            key
        };
        for at in 0..=MAX_ANSWERS {
            verdicts.put(key(at), StatusCode::OK, &HeaderMap::new(), 0);
        }
        assert!(verdicts.get(&key(0), 1).is_some() && verdicts.get(&key(MAX_ANSWERS), 1).is_none());
        verdicts.put(key(MAX_ANSWERS), StatusCode::OK, &HeaderMap::new(), 10_000);
        assert!(verdicts.get(&key(MAX_ANSWERS), 10_001).is_some());
    }
}
