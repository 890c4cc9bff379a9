//! The server that is measured: a node's DNS with an index of Services, and nothing else in the process.
//!
//! Out: a line with the bytes of memory that the index takes, once it answers.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::json;
use skep_dns::{Dns, Settings, Sockets};

use crate::names;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    services: u32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let tls = skep_dns::tls::client_config()?;
    let dns = Dns::new(Settings::new(names::DOMAIN)?, tls, runtime.handle().clone());
    let serving = dns.serve(Sockets::bind([arguments.listen])?)?;
    let before = resident(std::process::id())?;
    for number in 0..arguments.services {
        let [service, slice] = names::objects(number);
        let namespace = json!({"metadata": {"name": names::namespace(number)}});
        let namespace = serde_json::from_value(namespace)?;
        let (service, slice) = (serde_json::from_value(service)?, serde_json::from_value(slice)?);
        dns.update(|index| {
            index.apply_namespace(&namespace);
            index.apply_service(&service);
            index.apply_slice(&slice);
        });
    }
    dns.listed();
    println!("{}", resident(std::process::id())?.saturating_sub(before));
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(serving);
    Ok(())
}

/// Bytes of resident memory (proc(5), status).
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
