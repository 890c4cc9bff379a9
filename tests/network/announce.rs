//! Addresses of load balancers on a real link: another kernel's neighbour table is the judge.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_datapath::Announcer;
use skep_tests::netns::{NetNs, connect};

const V4: &str = "192.0.2.50";
const V6: &str = "2001:db8::50";

fn addrs(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// What the client's kernel holds for the address.
fn neighbour(client: &NetNs, addr: &str) -> Result<String> {
    let output = client.command("ip").args(["neigh", "show", addr]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn mac(netns: &NetNs, interface: &str) -> Result<String> {
    let output = Command::new("ip").args(["-n", netns.name(), "-o", "link", "show", interface]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    Ok(word.context("no link/ether")?.to_owned())
}

/// Has the client's kernel ask, and waits for what it then holds.
fn until(client: &NetNs, addr: &'static str, wanted: &str) -> Result<()> {
    let (start, socket) = (
        Instant::now(),
        client.run(|| -> Result<_> {
            let any = if addr.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            Ok(std::net::UdpSocket::bind(any)?)
        })??,
    );
    let to = if addr.contains(':') { format!("[{addr}]:9") } else { format!("{addr}:9") };
    loop {
        let held = neighbour(client, addr)?;
        if held.contains(wanted) {
            return Ok(());
        }
        // A neighbour entry that is being resolved is left alone; a finished one is resolved again.
        if !held.contains("INCOMPLETE") {
            // No answer makes some of these fail.
            let _ = socket.send_to(b"x", &to);
        }
        ensure!(start.elapsed() < Duration::from_secs(20), "{addr}: wanted {wanted:?}, have {held:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An announcer in a namespace, which answers until it is dropped.
struct Answering {
    sender: Option<tokio::sync::mpsc::Sender<IpAddr>>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Answering {
    fn start(node: &NetNs, texts: &[&str]) -> Result<Answering> {
        let (path, wanted) = (node.path(), addrs(texts));
        let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
        let (opened, open) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || -> Result<()> {
            let file = std::fs::File::open(&path)?;
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut announcer = Announcer::open("up0")?;
                ensure!(announcer.answer_for(&wanted).len() == wanted.len(), "every address is new");
                opened.send(())?;
                loop {
                    tokio::select! {
                        addr = receiver.recv() => match addr {
                            Some(addr) => announcer.announce(addr)?,
                            None => return Ok(()),
                        },
                        error = announcer.serve() => return Err(error.into()),
                    }
                }
            })
        });
        let answering = Answering { sender: Some(sender), thread: Some(thread) };
        open.recv_timeout(Duration::from_secs(10)).context("the sockets do not open")?;
        Ok(answering)
    }

    fn announce(&self, addr: &str) -> Result<()> {
        self.sender.as_ref().context("it is ending")?.blocking_send(addr.parse()?)?;
        Ok(())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || matches!(ended, Ok(Ok(()))), "{ended:?}");
        }
    }
}

#[test]
fn a_link_finds_an_address_where_it_is_announced() -> Result<()> {
    let (client, a, b) = (NetNs::new("lb-client")?, NetNs::new("lb-a")?, NetNs::new("lb-b")?);
    client.ip(&["link", "add", "br0", "type", "bridge"])?;
    client.ip(&["link", "set", "br0", "up"])?;
    for (node, port, number) in [(&a, "pa", 11), (&b, "pb", 12)] {
        connect(
            (&client, port, &format!("10.99.{number}.1/24")),
            (node, "up0", &format!("192.0.2.{number}/24")),
        )?;
        node.ip(&["addr", "add", &format!("2001:db8::{number}/64"), "dev", "up0", "nodad"])?;
        client.ip(&["link", "set", port, "master", "br0"])?;
    }
    client.ip(&["addr", "add", "192.0.2.9/24", "dev", "br0"])?;
    client.ip(&["addr", "add", "2001:db8::9/64", "dev", "br0", "nodad"])?;
    let (mac_a, mac_b) = (mac(&a, "up0")?, mac(&b, "up0")?);

    // No node answers for an address that is not announced.
    until(&client, V4, "FAILED")?;
    let answering = Answering::start(&a, &[V4, V6])?;
    until(&client, V4, &mac_a)?;
    until(&client, V6, &mac_a)?;
    // The other node takes over with an unsolicited announcement, so no client has to ask again.
    drop(answering);
    let answering = Answering::start(&b, &[V4, V6])?;
    answering.announce(V4)?;
    answering.announce(V6)?;
    for addr in [V4, V6] {
        let start = Instant::now();
        while !neighbour(&client, addr)?.contains(&mac_b) {
            ensure!(
                start.elapsed() < Duration::from_secs(5),
                "{addr} is still {:?}",
                neighbour(&client, addr)?
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}
