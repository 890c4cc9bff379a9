//! `skep server` as a process: what it keeps when it is killed, what lies on its disk, and etcd behind TLS.

mod etcd_tls;
mod harness;
mod kill;
mod secrets;
