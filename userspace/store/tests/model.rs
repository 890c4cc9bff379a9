//! Random histories, compared step by step with a model that keeps every state. Both stores.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use skep_store::embedded::EmbeddedStore;
use skep_store::{Entry, Event, Expect, Range, Revision, Store, StoreError, Watch};

/// A call of the store. Numbers are reduced to the existing range when they are used.
#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, expect: Guess },
    Delete { key: u8, expect: Guess },
    Get { key: u8, back: Option<u8> },
    Range { after: Option<u8>, limit: u8, back: Option<u8> },
    Watch { back: u8 },
    Compact { back: u8 },
}

#[derive(Clone, Copy, Debug)]
enum Guess {
    Any,
    Absent,
    Right,
    Wrong,
}

fn guesses() -> impl Strategy<Value = Guess> {
    prop_oneof![Just(Guess::Any), Just(Guess::Absent), Just(Guess::Right), Just(Guess::Wrong)]
}

fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    let key = || 0u8..6;
    let step = prop_oneof![
        8 => (key(), guesses()).prop_map(|(key, expect)| Step::Put { key, expect }),
        4 => (key(), guesses()).prop_map(|(key, expect)| Step::Delete { key, expect }),
        3 => (key(), any::<Option<u8>>()).prop_map(|(key, back)| Step::Get { key, back }),
        3 => (prop::option::of(key()), 0u8..5, any::<Option<u8>>())
            .prop_map(|(after, limit, back)| Step::Range { after, limit, back }),
        1 => any::<u8>().prop_map(|back| Step::Watch { back }),
        1 => any::<u8>().prop_map(|back| Step::Compact { back }),
    ];
    prop::collection::vec(step, 1..length)
}

/// Every state at every revision.
struct Model {
    prefix: String,
    base: Revision,
    compacted: Revision,
    states: Vec<BTreeMap<String, Entry>>,
    events: Vec<Event>,
}

impl Model {
    fn new(prefix: &str, base: Revision) -> Model {
        Model {
            prefix: prefix.to_owned(),
            base,
            compacted: base,
            states: vec![BTreeMap::new()],
            events: Vec::new(),
        }
    }

    fn key(&self, key: u8) -> String {
        format!("{}{key}", self.prefix)
    }

    fn current(&self) -> Revision {
        self.base + self.events.len() as Revision
    }

    fn now(&self) -> &BTreeMap<String, Entry> {
        self.at(self.current())
    }

    fn at(&self, revision: Revision) -> &BTreeMap<String, Entry> {
        &self.states[(revision - self.base) as usize]
    }

    /// The revision that many steps back, at most the first one.
    fn back(&self, steps: u8) -> Revision {
        self.current() - Revision::from(steps).min(self.current() - self.base)
    }

    fn expect(&self, key: &str, guess: Guess) -> Expect {
        let modified = self.now().get(key).map(|entry| entry.modified);
        match guess {
            Guess::Any => Expect::Any,
            Guess::Absent => Expect::Absent,
            Guess::Right => modified.map_or(Expect::Absent, Expect::Revision),
            Guess::Wrong => Expect::Revision(modified.unwrap_or(1) + 1),
        }
    }

    fn fits(&self, key: &str, expect: Expect) -> bool {
        match (expect, self.now().get(key)) {
            (Expect::Any, _) => true,
            (Expect::Absent, found) => found.is_none(),
            (Expect::Revision(revision), found) => found.is_some_and(|entry| entry.modified == revision),
        }
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) -> Event {
        let revision = self.current() + 1;
        let mut state = self.now().clone();
        let previous = state.remove(key);
        let event = match value {
            Some(value) => {
                let created = previous.as_ref().map_or(revision, |entry| entry.created);
                let entry = Entry { key: key.into(), value, created, modified: revision };
                state.insert(key.to_owned(), entry.clone());
                Event::Put { entry, previous }
            }
            None => Event::Delete { previous: previous.unwrap(), revision },
        };
        self.states.push(state);
        self.events.push(event.clone());
        event
    }

    fn range(&self, after: Option<&str>, limit: usize, at: Revision) -> Range {
        let is_after = |entry: &&Entry| after.is_none_or(|after| &*entry.key > after);
        let mut entries: Vec<Entry> = self.at(at).values().filter(is_after).cloned().collect();
        let page = if limit == 0 { entries.len() } else { limit.min(entries.len()) };
        let more = !entries.split_off(page).is_empty();
        Range { entries, revision: at, more }
    }

    fn since(&self, after: Revision) -> &[Event] {
        &self.events[(after - self.base) as usize..]
    }
}

async fn read_all(watch: &mut Watch, until: usize) -> Vec<Event> {
    let mut received = Vec::new();
    while received.len() < until {
        received.extend(common::next_events(watch).await);
    }
    received
}

async fn check_write(store: &dyn Store, model: &mut Model, key: &str, expect: Expect, delete: bool) {
    let before = model.now().get(key).cloned();
    let value = Bytes::from(format!("{key}@{}", model.current()));
    let answer = if delete {
        store.delete(key, expect).await.map(|(previous, revision)| Event::Delete { previous, revision })
    } else {
        let entry = store.put(key, value.clone(), expect).await;
        entry.map(|entry| Event::Put { entry, previous: before.clone() })
    };
    match answer {
        Ok(event) => {
            assert!(model.fits(key, expect), "{expect:?} over {before:?}");
            assert_eq!(event, model.write(key, (!delete).then_some(value)));
        }
        Err(StoreError::NotFound) => assert!(delete && before.is_none()),
        Err(StoreError::Conflict { actual }) => {
            assert!(!model.fits(key, expect));
            assert_eq!(actual, before);
        }
        Err(error) => panic!("{error}"),
    }
}

async fn check(store: &dyn Store, model: &mut Model, step: &Step) {
    match *step {
        Step::Put { key, expect } | Step::Delete { key, expect } => {
            let key = model.key(key);
            let expect = model.expect(&key, expect);
            check_write(store, model, &key, expect, matches!(step, Step::Delete { .. })).await;
        }
        Step::Get { key, back } => {
            let (key, at) = (model.key(key), back.map(|back| model.back(back)));
            let revision = at.unwrap_or(model.current());
            match store.get(&key, at).await {
                Ok(found) => assert_eq!(found, (model.at(revision).get(&key).cloned(), revision)),
                Err(StoreError::Compacted { oldest }) => {
                    assert!(revision < model.compacted && oldest == model.compacted);
                }
                Err(error) => panic!("{error}"),
            }
        }
        Step::Range { after, limit, back } => {
            let (after, at) = (after.map(|key| model.key(key)), back.map(|back| model.back(back)));
            let (revision, limit) = (at.unwrap_or(model.current()), usize::from(limit));
            match store.range(&model.prefix, after.as_deref(), limit, at).await {
                Ok(page) => {
                    assert_eq!(page, model.range(after.as_deref(), limit, revision));
                    let count = store.count(&model.prefix, after.as_deref(), Some(revision)).await.unwrap();
                    assert_eq!(count, model.range(after.as_deref(), 0, revision).entries.len() as u64);
                }
                Err(StoreError::Compacted { .. }) => assert!(revision < model.compacted),
                Err(error) => panic!("{error}"),
            }
        }
        Step::Watch { back } => {
            let after = model.back(back);
            match store.watch(&model.prefix, after).await {
                Ok(mut watch) => {
                    let expected = model.since(after);
                    assert_eq!(read_all(&mut watch, expected.len()).await, expected);
                }
                Err(StoreError::Compacted { .. }) => assert!(after < model.compacted),
                Err(error) => panic!("{error}"),
            }
        }
        Step::Compact { back } => {
            let before = model.back(back);
            store.compact(before).await.unwrap();
            model.compacted = model.compacted.max(before);
        }
    }
}

/// Plays a history. A watch from its start receives all of it.
async fn play(store: &dyn Store, prefix: &str, history: &[Step]) -> Model {
    let mut model = Model::new(prefix, store.revision().await.unwrap());
    let mut watch = store.watch(prefix, model.base).await.unwrap();
    for step in history {
        check(store, &mut model, step).await;
    }
    assert_eq!(read_all(&mut watch, model.events.len()).await, model.events);
    assert_eq!(store.revision().await.unwrap(), model.current());
    model
}

#[test]
fn the_embedded_store_agrees_with_the_model_also_after_it_was_opened_again() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    // A checkpoint after every write, after some of them, or only when the store is closed.
    let checkpoints = prop::sample::select(vec![1, 400, usize::MAX]);
    let result = TestRunner::new(config).run(&(steps(80), checkpoints), |(history, checkpoint_bytes)| {
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (path, killed) = (folder.path().join("store.redb"), tempfile::tempdir().unwrap());
            let store = EmbeddedStore::open_with(&path, checkpoint_bytes).unwrap();
            let mut model = play(&store, "/model/", &history).await;
            // The files after a kill. With checkpoints the tables could change while they are copied.
            let copied = checkpoint_bytes == usize::MAX;
            if copied {
                copy(folder.path(), killed.path());
            }
            drop(store);
            let again = EmbeddedStore::open(&path).unwrap();
            check_again(&again, &mut model).await;
            if copied {
                // Only the tables record a compaction.
                model.compacted = 0;
                check_again(&EmbeddedStore::open(&killed.path().join("store.redb")).unwrap(), &mut model)
                    .await;
            }
        });
        Ok(())
    });
    result.unwrap();
}

async fn check_again(store: &EmbeddedStore, model: &mut Model) {
    check(store, model, &Step::Range { after: None, limit: 0, back: None }).await;
    for back in [0, 1, 7, u8::MAX] {
        check(store, model, &Step::Watch { back }).await;
        check(store, model, &Step::Range { after: None, limit: 3, back: Some(back) }).await;
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn etcd_agrees_with_the_model() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_etcd, store) = runtime.block_on(common::etcd());
    let config = Config { cases: 8, failure_persistence: None, ..Config::default() };
    let case = std::cell::Cell::new(0);
    let result = TestRunner::new(config).run(&steps(80), |history| {
        let prefix = format!("/model/{}/", case.replace(case.get() + 1));
        runtime.block_on(play(&store, &prefix, &history));
        Ok(())
    });
    result.unwrap();
}
