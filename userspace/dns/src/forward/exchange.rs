//! One question to one upstream: UDP, then TCP if the answer does not fit; or TCP; or TLS.
//!
//! Each UDP question has a socket and so a port of its own, and a random id (RFC 5452).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::accept::{Asked, Verdict, accept};
use crate::question::MAX_UDP_BYTES;
use crate::reply::Reply;
use crate::settings::{Transport, Upstream};

/// How long an upstream has for one question.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections by TLS that are kept for further questions, of an upstream.
const MAX_IDLE_CONNECTIONS: usize = 8;

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("no answer within {} s", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the answer is {0}")]
    Refused(ResponseCode),
    #[error("the answer is no answer to the question")]
    Foreign,
    #[error("encode the question: {0}")]
    Encode(#[from] hickory_proto::ProtoError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Connections that are kept open.
pub(crate) struct Exchanger {
    tls: Arc<ClientConfig>,
    idle: Mutex<HashMap<Upstream, Vec<TlsStream<TcpStream>>>>,
}

impl Exchanger {
    pub(crate) fn new(tls: Arc<ClientConfig>) -> Self {
        Exchanger { tls, idle: Mutex::default() }
    }

    pub(crate) async fn ask(&self, upstream: &Upstream, asked: &Asked) -> Result<Reply, ExchangeError> {
        let exchange = async {
            match &upstream.transport {
                Transport::Plain => match by_udp(upstream.addr, asked).await? {
                    Some(reply) => Ok(reply),
                    None => by_tcp(upstream.addr, asked).await,
                },
                Transport::Tcp => by_tcp(upstream.addr, asked).await,
                Transport::Tls { name } => self.by_tls(upstream, name, asked).await,
            }
        };
        timeout(EXCHANGE_TIMEOUT, exchange).await.unwrap_or(Err(ExchangeError::Timeout))
    }

    async fn by_tls(&self, upstream: &Upstream, name: &str, asked: &Asked) -> Result<Reply, ExchangeError> {
        let (id, packet) = question(asked)?;
        if let Some(mut kept) = self.take(upstream)
            && let Ok(reply) = converse(&mut kept, id, &packet, asked).await
        {
            self.keep(upstream, kept);
            return Ok(reply);
        }
        let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(upstream.addr).await?;
        tcp.set_nodelay(true)?;
        let mut stream = TlsConnector::from(self.tls.clone()).connect(server, tcp).await?;
        let reply = converse(&mut stream, id, &packet, asked).await?;
        self.keep(upstream, stream);
        Ok(reply)
    }

    fn take(&self, upstream: &Upstream) -> Option<TlsStream<TcpStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(upstream)?.pop()
    }

    fn keep(&self, upstream: &Upstream, stream: TlsStream<TcpStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(upstream.clone()).or_default();
        if kept.len() < MAX_IDLE_CONNECTIONS {
            kept.push(stream);
        }
    }
}

/// `None`: the answer is truncated.
async fn by_udp(upstream: SocketAddr, asked: &Asked) -> Result<Option<Reply>, ExchangeError> {
    let any: IpAddr = match upstream.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(upstream).await?;
    let (id, packet) = question(asked)?;
    socket.send(&packet).await?;
    let mut buffer = [0; MAX_UDP_BYTES as usize + 512];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match accept(buffer.get(..length).unwrap_or_default(), id, asked) {
            Verdict::Answer(reply) => return Ok(Some(reply)),
            Verdict::Truncated => return Ok(None),
            Verdict::Refused(code) => return Err(ExchangeError::Refused(code)),
            Verdict::Foreign => {}
        }
    }
}

async fn by_tcp(upstream: SocketAddr, asked: &Asked) -> Result<Reply, ExchangeError> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (id, packet) = question(asked)?;
    converse(&mut stream, id, &packet, asked).await
}

/// One question and its answer on a connection, each after its length (RFC 1035, 4.2.2).
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    id: u16,
    packet: &[u8],
    asked: &Asked,
) -> Result<Reply, ExchangeError> {
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    stream.write_all(&framed).await?;
    stream.flush().await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    match accept(&answer, id, asked) {
        Verdict::Answer(reply) => Ok(reply),
        Verdict::Refused(code) => Err(ExchangeError::Refused(code)),
        Verdict::Truncated | Verdict::Foreign => Err(ExchangeError::Foreign),
    }
}

/// The packet with its random id.
fn question(asked: &Asked) -> Result<(u16, Vec<u8>), ExchangeError> {
    let id = rand::random();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = asked.checking_disabled;
    message.add_query(Query::query(asked.name.clone(), asked.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES).set_dnssec_ok(asked.dnssec_ok);
    message.edns = Some(edns);
    Ok((id, message.to_vec()?))
}
