//! The gateway that is measured: the data plane with the configuration of so many Ingresses, and nothing else in the process.
//!
//! Out: a line with the bytes of memory of the configuration and of the process before any request.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;
use skep_gateway::ingress::{Index, Ports};
use skep_gateway::{Bound, Gateway, Limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{objects, process};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    http: u16,
    #[arg(long)]
    https: u16,
    #[arg(long)]
    routes: usize,
    #[arg(long)]
    upstream: SocketAddr,
    /// PEM of the certificate and of its key.
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
}

/// Connections and files of a node.
const DESCRIPTORS: u64 = 65_536;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // As the `skep` binary: without a subscriber each span of a library costs a record for another logger.
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let gateway = Gateway::new(Limits::of_descriptors(DESCRIPTORS), None);
    let (bound_in, mut bound) = watch::channel(Bound::default());
    let (running, stop) = (gateway.clone(), CancellationToken::new());
    let address = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    runtime.spawn(async move { running.run(&address, bound_in, stop).await });
    let before = process::resident(std::process::id())?;
    let now = jiff::Timestamp::now().as_second();
    let mut index = index(arguments, now)?;
    gateway.apply(&index.compile(now).config);
    runtime.block_on(bound.wait_for(|bound| bound.open.len() == 2)).context("the gateway ended")?;
    let all = process::resident(std::process::id())?;
    println!("{} {all}", all.saturating_sub(before));
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn index(arguments: &Arguments, now: i64) -> Result<Index> {
    let Arguments { http, https, routes, upstream, certificate, key } = arguments;
    let mut index = Index::new(Ports { http: Some(*http), https: Some(*https) });
    index.apply_class(&serde_json::from_value(objects::class())?);
    let [service, slice] = objects::service(*upstream);
    index.apply_service(&serde_json::from_value(service)?);
    index.apply_slice(&serde_json::from_value(slice)?);
    for number in 0..*routes {
        index.apply_ingress(&serde_json::from_value(objects::ingress(number, "/", number == 0))?);
    }
    let pem = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
    let mut secret: Value = objects::secret("", "");
    let bytes = |bytes: Vec<u8>| serde_json::to_value(k8s_openapi::ByteString(bytes));
    secret["data"] = serde_json::json!({"tls.crt": bytes(pem(certificate)?)?, "tls.key": bytes(pem(key)?)?});
    for name in index.secrets() {
        index.apply_secret(&name, Some(&serde_json::from_value(secret.clone())?), now);
    }
    Ok(index)
}
