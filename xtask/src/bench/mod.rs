//! `cargo xtask bench`: measurements that repeat, one module each.

pub mod api;
pub mod dns;
pub mod gateway;
pub mod idle;
pub mod net;
pub mod pods;
pub mod report;
pub mod scale;
pub mod scheduler;
mod server;

#[derive(clap::Subcommand)]
pub enum Bench {
    /// Measure the API server over TLS, with each store
    Api(api::Arguments),
    /// Measure a node's DNS under dnsperf, beside dnsmasq
    Dns(dns::Arguments),
    /// Measure the gateway under wrk and h2load, beside nginx and haproxy
    Gateway(gateway::Arguments),
    /// Measure what server and agents cost while nothing happens
    Idle(idle::Arguments),
    /// Measure services and policy in the kernel, beside plain routing and kube-proxy's rules
    Net(net::Arguments),
    /// Measure how a node starts, runs and ends pods
    Pods(pods::Arguments),
    /// Measure a node of a cluster of 100,000 services and 50,000 pods
    Scale(scale::Arguments),
    /// Measure the scheduler alone, and through the API
    Scheduler(scheduler::Arguments),
}

pub fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Api(arguments) => api::run(arguments),
        Bench::Dns(arguments) => dns::run(&arguments),
        Bench::Gateway(arguments) => gateway::run(&arguments),
        Bench::Idle(arguments) => idle::run(arguments),
        Bench::Net(arguments) => net::run(&arguments),
        Bench::Pods(arguments) => pods::run(&arguments),
        Bench::Scale(arguments) => scale::run(&arguments),
        Bench::Scheduler(arguments) => scheduler::run(&arguments),
    }
}
