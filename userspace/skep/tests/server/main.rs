//! `skep server` as a process: durability when it is killed, data on its disk, the audit log, and etcd over TLS.

mod audit;
mod backup;
mod disk;
mod etcd_tls;
mod harness;
mod kill;
mod secrets;
