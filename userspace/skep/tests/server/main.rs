//! `skep server` as a process: what it keeps when it is killed, what lies on its disk, what it tells of requests, and
//! etcd behind TLS.

mod audit;
mod disk;
mod etcd_tls;
mod harness;
mod kill;
mod secrets;
