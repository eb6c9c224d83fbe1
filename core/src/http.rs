//! Accepting HTTP connections so that no client can hold them for ever: `axum::serve` sets neither
//! a timer nor a limit, and a client that sends half a header keeps its connection until the
//! process ends.
//!
//! - A connection must complete a request header within [`Limits::header`]. The time runs while the
//!   connection is idle too, so it is also the idle time-out.
//! - A connection whose peer takes no bytes of an answer for [`Limits::write`] is closed.
//! - Connections beyond [`Limits::connections`], or beyond [`Limits::per_address`] from one
//!   address, are refused at once with 503.
//!
//! The time-out of a request's body belongs to the router, which can answer it (408).
//!
//! HTTP/1.1 only: the detection of HTTP/2 reads its preface without any time-out, and no client of
//! ours gains from it.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;

use crate::shutdown::Shutdown;

/// Pause after a failed accept. It fails when the process has no file descriptor left, and at once
/// again without a pause.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Time that requests in flight get to finish when the server stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(4);

/// Largest request header in bytes. Ours are below 1 KiB; proxies add cookies of other services.
const HEADER_BYTES: usize = 32 * 1024;

/// Answer to a connection beyond the limits.
const REFUSED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Whether an address may hold any share of the connections: a reverse proxy, for example.
pub type Exempt = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Limits of a listener.
#[derive(Clone)]
pub struct Limits {
    /// Largest number of open connections.
    pub connections: usize,
    /// Largest number of open connections from one address that is not exempt.
    pub per_address: usize,
    /// Addresses that [`Limits::per_address`] does not apply to.
    pub exempt: Exempt,
    /// Longest time until the header of the (next) request is complete; also that of a TLS
    /// handshake.
    pub header: Duration,
    /// Longest time without the peer taking a byte of an answer.
    pub write: Duration,
}

impl Default for Limits {
    /// The limits of a listener for probes and Prometheus.
    fn default() -> Self {
        Self {
            connections: 64,
            per_address: 64,
            exempt: Arc::new(|_| false),
            header: Duration::from_secs(20),
            write: Duration::from_secs(20),
        }
    }
}

/// Address of the peer of a connection, an extension of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// What turns an accepted socket into the stream that HTTP is spoken over: nothing, or TLS.
pub trait Handshake: Clone + Send + Sync + 'static {
    /// The stream.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// Whether a refused peer understands an answer without a handshake.
    const PLAIN: bool;

    /// Makes the stream.
    fn shake(&self, tcp: TcpStream) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

/// HTTP without TLS.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Handshake for Plain {
    type Stream = TcpStream;
    const PLAIN: bool = true;

    async fn shake(&self, tcp: TcpStream) -> std::io::Result<TcpStream> {
        Ok(tcp)
    }
}

/// Serves `router` until `shutdown`, then gives the requests in flight [`SHUTDOWN_GRACE`].
pub async fn serve<H: Handshake>(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    handshake: H,
    shutdown: Shutdown,
) {
    let graceful = GracefulShutdown::new();
    let open = Arc::new(OpenConnections::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.triggered() => break,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = open.take(peer.ip().to_canonical(), &limits) else {
            metrics::counter!("sightline_http_connections_refused_total").increment(1);
            if H::PLAIN {
                refuse(tcp);
            }
            continue;
        };
        let (router, limits, handshake) = (router.clone(), limits.clone(), handshake.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            if let Err(error) = connection(tcp, peer, router, &limits, &handshake, watcher).await {
                tracing::debug!(%peer, error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = SHUTDOWN_GRACE.as_secs(), "requests in flight were cut off");
    }
}

async fn connection<H: Handshake>(
    tcp: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: &Limits,
    handshake: &H,
    watcher: Watcher,
) -> Result<(), String> {
    // Answers are written whole; waiting for more to send would only delay them.
    let _ = tcp.set_nodelay(true);
    let stream = tokio::time::timeout(limits.header, handshake.shake(tcp)).await.map_err(|e| e.to_string())?;
    let mut stream = TimeoutStream::new(stream.map_err(|e| e.to_string())?);
    // No time-out for reading: hyper reads while a handler works, to learn that the peer has gone.
    stream.set_write_timeout(Some(limits.write));
    let service = router.map_request(move |mut request: axum::http::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        request.map(Body::new)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(service));
    watcher.watch(serving).await.map_err(|e| e.to_string())
}

/// Answers that there is no room, without waiting for the peer.
fn refuse(tcp: TcpStream) {
    if let Ok(mut socket) = tcp.into_std() {
        // The socket does not block, and its buffer is empty.
        let _ = socket.write(REFUSED);
    }
}

#[derive(Default)]
struct OpenConnections {
    by_address: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// An open connection; it is counted until this is dropped.
struct Place {
    open: Arc<OpenConnections>,
    address: IpAddr,
}

impl OpenConnections {
    fn take(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Place> {
        let mut open = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *open;
        let here = by_address.get(&address).copied().unwrap_or_default();
        if *all >= limits.connections || (here >= limits.per_address && !(limits.exempt)(address)) {
            return None;
        }
        *all += 1;
        by_address.insert(address, here + 1);
        Some(Place { open: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *open;
        *all -= 1;
        if let Some(here) = by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Serves on a free port; returns the address and the signal that stops it.
    async fn serving(router: Router, limits: Limits) -> (SocketAddr, Shutdown) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("its address");
        let shutdown = Shutdown::new();
        tokio::spawn(serve(listener, router, limits, Plain, shutdown.clone()));
        (address, shutdown)
    }

    fn short() -> Limits {
        Limits { header: Duration::from_millis(200), write: Duration::from_millis(200), ..Limits::default() }
    }

    async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        let reading = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut all));
        // A reset ends the connection as well as an end of file.
        let _ = reading.await.expect("the server closes the connection");
        all
    }

    #[tokio::test]
    async fn silent_half_and_idle_connections_are_closed() {
        let (address, _stop) = serving(Router::new().route("/", get(|| async { "here" })), short()).await;
        for sent in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            let mut stream = TcpStream::connect(address).await.expect("accepted");
            stream.write_all(sent.as_bytes()).await.expect("sent");
            assert!(!read_all(&mut stream).await.starts_with(b"HTTP/1.1 200"), "{sent:?}");
        }
        let mut stream = TcpStream::connect(address).await.expect("accepted");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "answered, and closed once it was idle");
    }

    #[tokio::test]
    async fn who_takes_no_answer_is_cut_off() {
        // More than both sockets' buffers hold.
        let big = Router::new().route("/", get(|| async { vec![0u8; 64 << 20] }));
        let (address, _stop) = serving(big, short()).await;
        let mut stream = TcpStream::connect(address).await.expect("accepted");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(read_all(&mut stream).await.len() < 64 << 20);
    }

    #[tokio::test]
    async fn what_runs_gets_its_answer_at_the_stop() {
        let slow = get(|| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            "done"
        });
        let (address, stop) = serving(Router::new().route("/", slow), Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.expect("accepted");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.trigger();
        assert!(read_all(&mut stream).await.ends_with(b"done"));
        assert!(TcpStream::connect(address).await.is_err(), "nobody else is accepted");
    }

    #[test]
    fn places_are_counted_by_address() {
        let [a, b, proxy]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|a| a.parse().expect("an address"));
        let limits = Limits {
            connections: 4,
            per_address: 2,
            exempt: Arc::new(move |address| address == proxy),
            ..Limits::default()
        };
        let open = Arc::new(OpenConnections::default());
        let held: Vec<Place> = [a, a, b].iter().filter_map(|&x| open.take(x, &limits)).collect();
        assert_eq!(held.len(), 3);
        assert!(open.take(a, &limits).is_none(), "one address does not hold everything");
        let last = open.take(b, &limits).expect("the fourth");
        assert!(open.take(proxy, &limits).is_none(), "all places are taken");
        drop(held);
        let proxied: Vec<Place> = (0..3).filter_map(|_| open.take(proxy, &limits)).collect();
        assert_eq!(proxied.len(), 3, "a proxy may hold more than its share");
        drop((last, proxied));
        assert_eq!(*open.by_address.lock().expect("sound"), (0, HashMap::new()));
    }
}
