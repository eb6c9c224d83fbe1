//! The proxy through which GStreamer makes the HTTP connections of one camera. It listens on
//! loopback, and connects only to what the [`Guard`] allows: each request names its server, also
//! after a redirect.
//!
//! Plain HTTP is passed on request by request, with one connection each; TLS is tunnelled
//! (`CONNECT`), so that certificates are checked by GStreamer as they would be without a proxy.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::{Guard, NotConnected};

/// Largest head of a request or an answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long a client may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const BLOCK_BYTES: usize = 64 * 1024;

/// The open sockets, to end them when the proxy ends.
#[derive(Debug, Default)]
struct Sockets {
    closed: AtomicBool,
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, TcpStream>>,
}

/// A socket that is in the list as long as this lives.
struct Listed<'a> {
    sockets: &'a Sockets,
    number: u64,
}

impl Sockets {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a socket; `None` when the proxy has ended.
    fn add(&self, socket: &TcpStream) -> Option<Listed<'_>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open().insert(number, socket.try_clone().ok()?);
        let listed = Listed { sockets: self, number };
        // Looked at afterwards: what was listed too late for `close` is not used.
        (!self.closed.load(Ordering::SeqCst)).then_some(listed)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.sockets.open().remove(&self.number);
    }
}

/// A running proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    sockets: Arc<Sockets>,
}

impl Proxy {
    /// Starts a proxy for `guard`.
    ///
    /// # Errors
    /// When there is no port or no thread.
    pub fn start(guard: Weak<Guard>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, sockets) = (listener.local_addr()?, Arc::<Sockets>::default());
        let shared = Arc::clone(&sockets);
        std::thread::Builder::new().name("camera-proxy".into()).spawn(move || {
            for client in listener.incoming() {
                let (true, Some(guard)) = (!shared.closed.load(Ordering::SeqCst), guard.upgrade()) else { return };
                let Ok(client) = client else { continue };
                let sockets = Arc::clone(&shared);
                let serve = move || {
                    // A connection that breaks is an error of whoever reads it.
                    let _ = serve(&client, &guard, &sockets);
                    let _ = client.shutdown(Shutdown::Both);
                };
                if let Err(error) = std::thread::Builder::new().name("camera-proxy".into()).spawn(serve) {
                    tracing::warn!(%error, "no thread for a connection of a camera");
                }
            }
        })?;
        Ok(Self { address, sockets })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and takes no more.
    pub fn close(&self) {
        if !self.sockets.closed.swap(true, Ordering::SeqCst) {
            for socket in self.sockets.open().values() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            // Wakes the thread that accepts.
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) scheme: &'static str,
    pub(super) host: String,
    pub(super) port: u16,
    /// The head to send to the server; `None` for a tunnel.
    pub(super) head: Option<String>,
}

impl Request {
    /// Reads the head of a request; `None` when it is none that a proxy answers.
    pub(super) fn parse(head: &str) -> Option<Self> {
        let (line, fields) = head.split_once("\r\n")?;
        let mut parts = line.split(' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !version.starts_with("HTTP/1.") {
            return None;
        }
        if method == "CONNECT" {
            let (host, port) = host_and_port(target, 443)?;
            return Some(Self { scheme: "https", host, port, head: None });
        }
        if !matches!(method, "GET" | "HEAD") {
            return None;
        }
        let rest = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &target[7..])?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority, 80)?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        let own = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !name.is_empty() && name != "connection" && name != "keep-alive" && !name.starts_with("proxy-")
        };
        let fields: String = fields.split("\r\n").filter(own).map(|line| format!("{line}\r\n")).collect();
        let head = format!("{method} {slash}{path} {version}\r\n{fields}Connection: close\r\n\r\n");
        Some(Self { scheme: "http", host, port, head: Some(head) })
    }

    /// Leaves out what the camera's own server alone may know.
    fn without_credentials(&mut self) {
        if let Some(head) = &mut self.head {
            let secret = |line: &&str| !line.get(..14).is_some_and(|name| name.eq_ignore_ascii_case("authorization:"));
            *head = head.split_inclusive("\r\n").filter(secret).collect();
        }
    }
}

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let valid = !host.is_empty() && !host.contains(['@', '/', ' ']);
    let port = port.filter(|port| !port.is_empty()).map_or(Some(default), |port| port.parse().ok())?;
    valid.then(|| (host.to_owned(), port))
}

/// Reads up to the empty line; returns the head and what came behind it.
fn read_head(stream: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let (mut bytes, mut block) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut block)?;
        // The end may lie across two blocks.
        let from = bytes.len().saturating_sub(3);
        bytes.extend_from_slice(&block[..count]);
        if let Some(at) = bytes[from..].windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(from + at + 4);
            let head = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
            return Ok((head, rest));
        }
        if count == 0 || bytes.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn serve(mut client: &TcpStream, guard: &Guard, sockets: &Sockets) -> io::Result<()> {
    let Some(_listed) = sockets.add(client) else { return Ok(()) };
    client.set_read_timeout(Some(HEAD_TIMEOUT))?;
    let (head, early) = read_head(&mut client)?;
    client.set_read_timeout(None)?;
    let answer = |mut client: &TcpStream, status: &str| {
        client.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
    };
    let Some(mut request) = Request::parse(&head) else { return answer(client, "400 Bad Request") };
    let addresses = match guard.addresses(request.scheme, &request.host, request.port) {
        Ok(addresses) => addresses,
        Err(NotConnected::Refused) => return answer(client, "403 Forbidden"),
        Err(NotConnected::Unresolved) => return answer(client, "502 Bad Gateway"),
    };
    let connected = addresses.iter().find_map(|address| TcpStream::connect_timeout(address, guard.connect).ok());
    let Some(mut server) = connected else { return answer(client, "502 Bad Gateway") };
    let Some(_listed) = sockets.add(&server) else { return Ok(()) };
    if !guard.is_own_host(&request.host) {
        request.without_credentials();
    }
    let tunnel = request.head.is_none();
    match &request.head {
        Some(head) => server.write_all(head.as_bytes())?,
        None => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            server.write_all(&early)?;
        }
    }
    std::thread::scope(|scope| {
        // Towards the server goes nothing behind a plain request, but its end.
        let up = std::thread::Builder::new().name("camera-proxy".into()).spawn_scoped(scope, || {
            if tunnel {
                let _ = copy(client, &server);
            } else {
                let _ = Read::read(&mut { client }, &mut [0]);
            }
            let _ = server.shutdown(if tunnel { Shutdown::Write } else { Shutdown::Both });
        });
        let passed = up.and_then(|_| if tunnel { copy(&server, client) } else { pass_answer(&server, client) });
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
        passed
    })
}

/// Passes an answer on, and says that the connection ends with it.
fn pass_answer(mut server: &TcpStream, mut client: &TcpStream) -> io::Result<()> {
    let (head, body) = read_head(&mut server)?;
    let hop = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        name != "connection" && name != "keep-alive" && !name.starts_with("proxy-")
    };
    let head: Vec<&str> = head.trim_end_matches("\r\n").split("\r\n").filter(hop).collect();
    client.write_all(format!("{}\r\nConnection: close\r\n\r\n", head.join("\r\n")).as_bytes())?;
    client.write_all(&body)?;
    copy(server, client)
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match from.read(&mut block)? {
            0 => return Ok(()),
            count => to.write_all(&block[..count])?,
        }
    }
}
