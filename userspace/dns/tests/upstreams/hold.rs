//! Sockets that a holder keeps: what is asked while no server runs is answered by the next server.

use std::time::Duration;

use skep_dns::Sockets;
use skep_holder::{Holder, Purpose};

use crate::node::{Node, SERVICE, SERVICE_IP, addresses};

#[test]
fn questions_between_two_servers_wait_in_the_held_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dns.sock");
    let process = skep_holder::listen(&path).unwrap();
    let holding = std::thread::spawn(move || process.hold());
    let holder = Holder::new(path, Purpose::Dns, Box::new(|_| panic!("the holder runs")));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut node = Node::new(Vec::new());
    let sockets = Sockets::bind([node.addr]).unwrap();
    runtime.block_on(holder.keep(&sockets.descriptors())).unwrap();
    node.serve(sockets);
    let mut client = node.client();
    assert_eq!(addresses(&client.ask(SERVICE)), [SERVICE_IP]);
    for _ in 0..3 {
        // The server ends; its sockets stay open in the holder alone.
        node.serve(Sockets::default());
        client.send(SERVICE);
        std::thread::sleep(Duration::from_millis(20));
        let held = Sockets::adopt(holder.fetch());
        assert!(held.is_complete());
        node.serve(held);
        assert_eq!(addresses(&client.receive().expect("the question waited")), [SERVICE_IP]);
    }
    // Without sockets the holder has nothing to do.
    runtime.block_on(holder.keep(&[])).unwrap();
    holding.join().unwrap();
}
