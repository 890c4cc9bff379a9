//! Measures durable writes: `puts [--store FILE|http://ETCD] [--clients 64] [--puts 20000] [--bytes 1024]`.
//!
//! Prints one line of JSON: writes a second, and the latency's median, 99th percentile and maximum in milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_store::embedded::EmbeddedStore;
use skep_store::etcd::{EtcdOptions, EtcdStore};
use skep_store::{Expect, Store};

#[derive(Clone)]
struct Load {
    store: String,
    clients: usize,
    puts: usize,
    bytes: usize,
}

fn load(mut args: impl Iterator<Item = String>) -> Result<Load, String> {
    let mut load = Load { store: "store.redb".to_owned(), clients: 64, puts: 20_000, bytes: 1024 };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(format!("{flag} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{flag} needs a number, not {value}"));
        match flag.as_str() {
            "--store" => load.store = value,
            "--clients" => load.clients = number()?,
            "--puts" => load.puts = number()?,
            "--bytes" => load.bytes = number()?,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(load)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let load = load(std::env::args().skip(1))?;
    let store: Arc<dyn Store> = if load.store.starts_with("http") {
        Arc::new(EtcdStore::connect(std::slice::from_ref(&load.store), EtcdOptions::default()).await?)
    } else {
        Arc::new(EmbeddedStore::open(load.store.as_ref())?)
    };
    let start = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> =
        (0..load.clients).map(|_| tokio::spawn(client(store.clone(), load.clone(), next.clone()))).collect();
    let mut times = Vec::with_capacity(load.puts);
    for client in clients {
        times.extend(client.await??);
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64) * 1e3
    };
    let (median, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!(
        r#"{{"puts_per_second": {rate:.0}, "median_ms": {median:.2}, "p99_ms": {p99:.2}, "max_ms": {max:.2}}}"#
    );
    Ok(())
}

/// Half of the writes create a key, half update one.
async fn client(
    store: Arc<dyn Store>,
    load: Load,
    next: Arc<AtomicUsize>,
) -> Result<Vec<Duration>, skep_store::StoreError> {
    let value = Bytes::from(vec![b'x'; load.bytes]);
    let mut times = Vec::new();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= load.puts {
            return Ok(times);
        }
        let key = format!("/registry/bench/{:08}", n % load.puts.div_ceil(2));
        let start = Instant::now();
        store.put(&key, value.clone(), Expect::Any).await?;
        times.push(start.elapsed());
    }
}
