//! Both ends of a tunnel over a pipe in memory, with real TCP connections behind the agent's end.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skep_tunnel::{DialError, Reach, Tunnels, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// What the node has.
#[derive(Default)]
struct Addresses(Mutex<BTreeSet<SocketAddr>>);

impl Reach for Addresses {
    fn permits(&self, address: SocketAddr) -> bool {
        self.0.lock().unwrap().contains(&address)
    }
}

/// A node with an open tunnel.
struct World {
    tunnels: Tunnels,
    reach: Arc<Addresses>,
    agent: JoinHandle<std::io::Result<()>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl World {
    async fn start() -> World {
        let tunnels = Tunnels::default();
        let reach = Arc::new(Addresses::default());
        let (agent, server) = join(&tunnels, "a", reach.clone()).await;
        World { tunnels, reach, agent, server }
    }

    /// A listener of the node on an address that an agent may dial, which is one of this machine.
    async fn listen(&self) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        self.reach.0.lock().unwrap().insert(address);
        (listener, address)
    }

    /// Both ends of a connection through the tunnel.
    async fn connected(&self) -> (skep_tunnel::TunnelStream, TcpStream) {
        let (listener, address) = self.listen().await;
        let (near, far) = tokio::join!(self.tunnels.dial("a", address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }
}

/// Connects both ends.
async fn join(
    tunnels: &Tunnels,
    node: &'static str,
    reach: Arc<Addresses>,
) -> (JoinHandle<std::io::Result<()>>, JoinHandle<std::io::Result<()>>) {
    let (near, far): (DuplexStream, DuplexStream) = duplex(64 << 10);
    let opened = tunnels.counts().opened;
    let agent = tokio::spawn(serve(far, reach));
    let serving = tunnels.clone();
    let server = tokio::spawn(async move { serving.serve(node, near, None).await });
    while tunnels.counts().opened == opened {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (agent, server)
}

/// The connection of a datagram socket sends nothing.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).expect("a route");
    socket.local_addr().unwrap().ip()
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
    let world = World::start().await;
    let (mut near, mut far) = world.connected().await;
    let sent: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
    let echo = async {
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        far.write_all(&all).await.unwrap();
        far.shutdown().await.unwrap();
    };
    let ask = async {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.unwrap();
        all
    };
    let (received, ()) = timeout(LIMIT, async { tokio::join!(ask, echo) }).await.unwrap();
    assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
    let counts = world.tunnels.counts();
    assert_eq!((counts.streams, counts.dialled, counts.sent, counts.received), (1, 1, 3 << 20, 3 << 20));
    drop(near);
    assert_eq!(world.tunnels.counts().streams, 0);
}

#[tokio::test]
async fn a_reset_is_no_end() {
    let world = World::start().await;
    let (mut near, far) = world.connected().await;
    // The kernel resets a connection that is closed with unread data.
    near.write_all(b"unread").await.unwrap();
    far.peek(&mut [0]).await.unwrap();
    drop(far);
    let error = timeout(LIMIT, near.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::ConnectionReset, "connection reset by peer")
    );
    // The other way round: a stream that is dropped resets the node's connection.
    let (near, mut far) = world.connected().await;
    drop(near);
    assert!(timeout(LIMIT, far.read(&mut [0])).await.unwrap().map_or(true, |count| count == 0));
}

#[tokio::test]
async fn only_addresses_of_the_node_are_dialled() {
    let world = World::start().await;
    for address in ["10.9.9.9:80", "169.254.169.254:80", "127.0.0.1:80", "[::1]:80", "[fe80::1]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        // Whatever the node believes of itself.
        if !address.ip().is_unspecified() && address.ip() != IpAddr::from([10, 9, 9, 9]) {
            world.reach.0.lock().unwrap().insert(address);
        }
        let Err(error) = world.tunnels.dial("a", address).await else { panic!("{address} was dialled") };
        let wanted =
            format!("node a refused: {address} is served neither by this node's agent nor by a pod on it");
        assert_eq!(error.to_string(), wanted);
    }
    let (listener, address) = world.listen().await;
    drop(listener);
    let Err(error) = world.tunnels.dial("a", address).await else { panic!("nothing listens") };
    assert!(
        error.to_string().starts_with(&format!("node a: dial tcp {address}: Connection refused")),
        "{error}"
    );
    assert_eq!(world.tunnels.counts().failed, 6);
}

#[tokio::test]
async fn a_slow_reader_holds_up_no_other() {
    let world = World::start().await;
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let (near, mut far) = world.connected().await;
        let writer = tokio::spawn(async move { far.write_all(&vec![7; 64 << 20]).await });
        stuck.push((near, writer));
    }
    let (mut near, mut far) = world.connected().await;
    for _ in 0..200 {
        let there_and_back = async {
            near.write_all(b"ping").await.unwrap();
            far.read_exact(&mut [0; 4]).await.unwrap();
            far.write_all(&[1; 8 << 10]).await.unwrap();
            near.read_exact(&mut [0; 8 << 10]).await.unwrap();
        };
        timeout(LIMIT, there_and_back).await.unwrap();
    }
    assert!(stuck.iter().all(|(_, writer)| !writer.is_finished()));
    // What waits is bounded by the windows.
    let received = world.tunnels.counts().received;
    assert_eq!(received, 200 * (8 << 10));
    stuck.iter().for_each(|(_, writer)| writer.abort());
}

#[tokio::test]
async fn a_tunnel_that_dies_breaks_its_streams_and_says_so() {
    let world = World::start().await;
    let (mut near, _far) = world.connected().await;
    world.agent.abort();
    let error = timeout(LIMIT, near.read(&mut [0])).await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("the tunnel to node a broke: "), "{error}");
    let _ = timeout(LIMIT, world.server).await.unwrap();
    assert!(!world.tunnels.has("a"));
}

#[tokio::test]
async fn a_dial_waits_for_an_agent_that_comes_back_and_no_longer_for_others() {
    let world = World::start().await;
    let (listener, address) = world.listen().await;
    world.agent.abort();
    let _ = timeout(LIMIT, world.server).await.unwrap();
    let back = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        join(&world.tunnels, "a", world.reach.clone()).await
    };
    let (dialled, _ends) =
        timeout(LIMIT, async { tokio::join!(world.tunnels.dial("a", address), back) }).await.unwrap();
    dialled.unwrap();
    drop(listener);
    // A node that never had a tunnel is waited for only after this server's own start.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    let refused = world.tunnels.dial("b", address).await;
    assert!(matches!(refused, Err(DialError::NoTunnel(_))) && began.elapsed() < Duration::from_secs(1));
    assert_eq!(
        refused.err().map(|error| error.to_string()).as_deref(),
        Some("node b has no tunnel to this server")
    );
}

#[tokio::test]
async fn a_dial_that_meets_a_dying_tunnel_takes_the_next_one() {
    let world = World::start().await;
    // The first connection opens the parked tunnel.
    drop(world.connected().await);
    let (_listener, address) = world.listen().await;
    world.agent.abort();
    let back = join(&world.tunnels, "a", world.reach.clone());
    let (dialled, _ends) =
        timeout(LIMIT, async { tokio::join!(world.tunnels.dial("a", address), back) }).await.unwrap();
    dialled.unwrap();
}

#[tokio::test]
async fn the_newest_tunnel_is_used_and_the_older_ones_keep_their_streams() {
    let world = World::start().await;
    let (mut near, mut far) = world.connected().await;
    let mut ends = Vec::new();
    for _ in 0..3 {
        ends.push(join(&world.tunnels, "a", world.reach.clone()).await);
    }
    assert_eq!((world.tunnels.counts().open, world.tunnels.counts().nodes), (4, 1));
    near.write_all(b"still there").await.unwrap();
    far.read_exact(&mut [0; 11]).await.unwrap();
    world.connected().await;
    // One more than there may be: the oldest ends.
    ends.push(join(&world.tunnels, "a", world.reach.clone()).await);
    assert!(timeout(LIMIT, near.read(&mut [0])).await.unwrap().is_err());
    world.connected().await;
    drop(ends);
}

#[tokio::test]
async fn a_tunnel_ends_with_the_nodes_certificate() {
    let (tunnels, reach) = (Tunnels::default(), Arc::new(Addresses::default()));
    let (near, far) = duplex(64 << 10);
    let agent = tokio::spawn(serve(far, reach));
    let expiry = Instant::now() + Duration::from_millis(200);
    let ended = timeout(LIMIT, tunnels.serve("a", near, Some(expiry))).await.unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "the node's certificate has expired");
    assert!(timeout(LIMIT, agent).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_parked_tunnel_ends_with_its_agent_and_with_one_that_says_too_much() {
    let world = World::start().await;
    assert!(world.tunnels.has("a"));
    world.agent.abort();
    assert!(timeout(LIMIT, world.server).await.unwrap().unwrap().is_err());
    assert!(!world.tunnels.has("a"));
    let (near, mut far) = duplex(64 << 10);
    let serving = world.tunnels.clone();
    let server = tokio::spawn(async move { serving.serve("a", near, None).await });
    far.write_all(&[7; 10_000]).await.unwrap();
    let ended = timeout(LIMIT, server).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "the agent sent more than its settings");
}

/// Passes bytes until it is frozen; then both connections stay open and silent, as when a cable is pulled.
async fn relay(mut a: DuplexStream, mut b: DuplexStream, frozen: tokio::sync::oneshot::Receiver<()>) {
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut a, &mut b) => {}
        _ = frozen => std::future::pending().await,
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_ends_the_streams_of_a_tunnel_within_seconds() {
    let (tunnels, reach) = (Tunnels::default(), Arc::new(Addresses::default()));
    let ((near, a), (b, far)) = (duplex(64 << 10), duplex(64 << 10));
    let (freeze, frozen) = tokio::sync::oneshot::channel();
    tokio::spawn(relay(a, b, frozen));
    let agent = tokio::spawn(serve(far, reach.clone()));
    let serving = tunnels.clone();
    let server = tokio::spawn(async move { serving.serve("a", near, None).await });
    let world = World { tunnels, reach, agent, server };
    let (listener, address) = world.listen().await;
    let (near, far) = tokio::join!(world.tunnels.dial("a", address), listener.accept());
    let (mut near, mut far) = (near.unwrap(), far.unwrap().0);
    near.write_all(b"there").await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    freeze.send(()).unwrap();
    let began = Instant::now();
    let error = timeout(LIMIT, near.read(&mut [0])).await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("the tunnel to node a broke: "), "{error}");
    // The other end gives up too, and closes what it opened for the server.
    assert!(timeout(LIMIT, far.read(&mut [0])).await.unwrap().map_or(true, |count| count == 0));
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(timeout(LIMIT, world.server).await.unwrap().unwrap().is_err());
}
