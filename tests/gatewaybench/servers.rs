//! The processes of a run: an endpoint, the gateway, and its peers. Each gateway has the last core, the endpoint shares one with the load.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skep_tests::far_end;

use crate::{load, objects};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A gateway's process, ended on drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) name: &'static str,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    /// Bytes of the configuration, and of the process before any request.
    pub(crate) memory: Option<(u64, u64)>,
}

/// The certificate of all gateways, in files.
pub(crate) struct Pem {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as haproxy reads them.
    pub(crate) both: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // nginx ends its workers on this signal, and would leave them behind when it is killed.
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn start(name: &'static str, mut command: Command, ports: [SocketAddr; 2]) -> Result<Server> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("start {name}"))?;
        Ok(Server { child, name, http: ports[0], https: ports[1], memory: None })
    }

    fn until_it_listens(self) -> Result<Server> {
        let begun = Instant::now();
        while TcpStream::connect(self.http).is_err() {
            ensure!(begun.elapsed() < START_TIMEOUT, "{} does not listen", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(self)
    }
}

/// This program as the gateway of so many routes.
pub(crate) fn skep(name: &'static str, routes: usize, upstream: SocketAddr, pem: &Pem) -> Result<Server> {
    let ports = free_addrs()?;
    let mut command = pinned(&last_core(), std::env::current_exe()?);
    command.args(["serve", "--routes", &routes.to_string(), "--upstream", &upstream.to_string()]);
    command.args(["--http", &ports[0].port().to_string(), "--https", &ports[1].port().to_string()]);
    command.arg("--certificate").arg(&pem.certificate).arg("--key").arg(&pem.key);
    let mut server = Server::start(name, command, ports)?;
    let output = server.child.stdout.take().context("no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let (config, all) = line.trim().split_once(' ').context("the gateway said no size")?;
    server.memory = Some((config.parse()?, all.parse()?));
    server.until_it_listens()
}

/// What answers behind every gateway.
pub(crate) fn endpoint(folder: &Path) -> Result<Server> {
    // An endpoint of the API may not be on loopback.
    let ports = free_addrs_of(far_end::own_address())?;
    let body = "x".repeat(objects::BODY_BYTES);
    let server =
        format!("server {{ listen {} backlog=4096; location / {{ return 200 \"{body}\"; }} }}", ports[0]);
    nginx("endpoint", load::CORE, &folder.join("endpoint"), &server, ports)
}

pub(crate) fn nginx_gateway(folder: &Path, upstream: SocketAddr, pem: &Pem) -> Result<Server> {
    let ports = free_addrs()?;
    // The same headers about the client as Skep sends.
    let server = format!(
        "upstream web {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
         server {{
           listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{https} ssl http2 backlog=4096; server_name localhost;
           ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
           location / {{
             proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection \"\";
             proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;
             proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
             proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port;
           }}
         }}",
        http = ports[0].port(),
        https = ports[1].port(),
        certificate = pem.certificate.display(),
        key = pem.key.display(),
    );
    nginx("nginx", &last_core(), &folder.join("nginx"), &server, ports)
}

fn nginx(
    name: &'static str,
    core: &str,
    folder: &Path,
    server: &str,
    ports: [SocketAddr; 2],
) -> Result<Server> {
    std::fs::create_dir_all(folder)?;
    let config = format!(
        "daemon off; worker_processes 1; pid {pid}; error_log stderr crit; worker_rlimit_nofile 65536;
         events {{ worker_connections 16384; }}
         http {{ access_log off; server_tokens off; keepalive_requests 1000000000; keepalive_timeout 75s; tcp_nodelay on;
           client_body_temp_path {temporary}/body; proxy_temp_path {temporary}/proxy; fastcgi_temp_path {temporary}/f;
           uwsgi_temp_path {temporary}/u; scgi_temp_path {temporary}/s; {server} }}",
        pid = folder.join("pid").display(),
        temporary = folder.display(),
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = pinned(core, "nginx");
    command.arg("-c").arg(file).arg("-p").arg(folder);
    Server::start(name, command, ports)?.until_it_listens()
}

pub(crate) fn haproxy(folder: &Path, upstream: SocketAddr, pem: &Pem) -> Result<Server> {
    let ports = free_addrs()?;
    let config = format!(
        "global\n maxconn 4096\n nbthread 1\n
         defaults\n mode http\n timeout connect 3s\n timeout client 75s\n timeout server 60s\n http-reuse always\n option forwardfor\n
         frontend web\n bind {http} backlog 4096\n bind {https} ssl crt {both} alpn h2,http/1.1\n
         http-request set-header X-Forwarded-Proto http\n http-request set-header X-Real-IP %[src]\n default_backend endpoints\n
         backend endpoints\n server one {upstream}\n",
        http = ports[0],
        https = ports[1],
        both = pem.both.display(),
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let mut command = pinned(&last_core(), "haproxy");
    command.arg("-db").arg("-f").arg(file);
    Server::start("haproxy", command, ports)?.until_it_listens()
}

fn last_core() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores - 1).to_string()
}

fn pinned(core: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Two ports of loopback that are free.
fn free_addrs() -> Result<[SocketAddr; 2]> {
    free_addrs_of(Ipv4Addr::LOCALHOST.into())
}

fn free_addrs_of(ip: IpAddr) -> Result<[SocketAddr; 2]> {
    let bind = || TcpListener::bind((ip, 0));
    let both = [bind()?, bind()?];
    Ok([both[0].local_addr()?, both[1].local_addr()?])
}
