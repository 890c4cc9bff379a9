//! One port of a client for two connections, to a node port and to its backend itself: a process of the node, for which the two have
//! the same ends. The client's kernel takes them for different ones.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType};
use skep_abi::{Proto, Scope};

use crate::namespaces::{ANSWER_TIMEOUT, NODE, OUTSIDE, World, ask, serve, service, world};

const NODE_PORT: u16 = 30_080;
const TARGET: u16 = 8_080;
/// Of the client, and none that the kernel gives out by itself.
const PORT: u16 = 20_000;
/// Time for TCP to try again several times.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The other connection is tried for so long, and fails.
const CONTEST: Duration = Duration::from_secs(4);

fn shared(name: &str) -> Result<World> {
    let mut world = world(name)?;
    serve(&world.node.netns, SocketAddr::from((NODE, TARGET)), b'h')?;
    let port = (NODE, NODE_PORT);
    world.node.apply(&service(port, Proto::TCP, Scope::EXTERNAL, 1, &[(NODE, TARGET)]))?;
    Ok(world)
}

/// A connection from the client's port.
fn connect(world: &World, to: u16) -> Result<TcpStream> {
    let stream = world.outside.run(|| -> Result<TcpStream> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        set_socket_reuseaddr(&socket, true)?;
        set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_TIMEOUT))?;
        rustix::net::bind(&socket, &SocketAddr::from((OUTSIDE, PORT)))?;
        rustix::net::connect(&socket, &SocketAddr::from((NODE, to))).with_context(|| format!("port {to}"))?;
        Ok(TcpStream::from(socket))
    })??;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

#[test]
fn a_node_port_answers_where_a_connection_to_its_backend_has_the_port() -> Result<()> {
    let world = shared("spd")?;
    let mut direct = connect(&world, TARGET)?;
    ensure!(ask(&mut direct)? == b'h');
    let mut by_port = connect(&world, NODE_PORT)?;
    for _ in 0..3 {
        ensure!(ask(&mut by_port).context("by the node port")? == b'h');
        ensure!(ask(&mut direct).context("direct")? == b'h');
    }
    Ok(())
}

#[test]
fn a_connection_to_the_backend_waits_while_one_by_the_node_port_has_the_port() -> Result<()> {
    let world = shared("spn")?;
    let mut by_port = connect(&world, NODE_PORT)?;
    ensure!(ask(&mut by_port)? == b'h');
    std::thread::scope(|scope| {
        let direct = scope.spawn(|| connect(&world, TARGET));
        let start = Instant::now();
        while start.elapsed() < CONTEST {
            ensure!(ask(&mut by_port).context("by the node port")? == b'h');
            std::thread::sleep(CONTEST / 100);
        }
        ensure!(!direct.is_finished(), "both had the same ends");
        drop(by_port);
        let mut direct = direct.join().ok().context("a panic")??;
        ensure!(ask(&mut direct)? == b'h');
        Ok(())
    })
}
