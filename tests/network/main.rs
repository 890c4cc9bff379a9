//! The network half of a node in the kernel: the plugin's calls, API objects, packets between pods, a restart.

mod agent;
mod announce;
mod churn;
mod datagrams;
mod dns;
mod flows;
mod node_ports;
mod off_link;
mod story;
mod uplinks;
mod verdicts;
