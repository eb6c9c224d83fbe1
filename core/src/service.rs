//! The service endpoint of the separate roles: health, readiness and metrics over HTTP, and the
//! signals that stop a process.
//!
//! ```text
//! GET /healthz   200 while the process lives
//! GET /readyz    200 {"ready": true, ...}, or 503 with what is not ready and why
//! GET /metrics   Prometheus text: the whole of `metrics` of this process
//! ```
//!
//! It runs on a thread of its own: a role whose threads are all busy still answers, and one that
//! hangs is detected.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::http::{self, Limits, Plain};
use crate::shutdown::Shutdown;
use crate::telemetry::resident_bytes;

/// Buckets of the duration histograms, in seconds: from one insert to a drained rebalance.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// Timeout of a readiness check; a check that takes longer means that something hangs.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which the recorder drains its histograms, which bounds their memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A component that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotReady {
    /// The component, for example `bus`.
    pub what: String,
    /// The reason, for people to read.
    pub why: String,
}

impl NotReady {
    /// `what` is not ready, because of `why`.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// The readiness check: returns what is not ready, nothing when all is well. It may take locks, but
/// must not wait for servers.
pub type Readiness = Arc<dyn Fn() -> Vec<NotReady> + Send + Sync>;

/// Facts about the running role, for people and dashboards: name and value, for example `device`
/// and `cuda:0`.
pub type Facts = Box<dyn Fn() -> Vec<(&'static str, String)> + Send + Sync>;

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} (monitor.listen): {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The metrics recorder cannot be installed.
    #[error("metrics: {0}")]
    Metrics(String),
    /// The thread or the runtime cannot be started.
    #[error("the service's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Body of `/readyz`.
#[derive(Debug, Serialize)]
struct ReadyzBody {
    ready: bool,
    role: String,
    version: &'static str,
    not_ready: Vec<NotReady>,
    #[serde(flatten)]
    facts: BTreeMap<&'static str, String>,
}

#[derive(Clone)]
struct AppState {
    role: Arc<str>,
    readiness: Readiness,
    metrics: PrometheusHandle,
    facts: Arc<Mutex<Option<Facts>>>,
}

/// The running service; stops when dropped.
pub struct Service {
    address: SocketAddr,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
    facts: Arc<Mutex<Option<Facts>>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({})", self.address)
    }
}

impl Service {
    /// Installs the metrics recorder (once per process) and listens.
    ///
    /// # Errors
    /// An address that is in use, or another recorder that is already installed.
    pub fn start(listen: SocketAddr, role: &str, readiness: Readiness) -> Result<Self, ServiceError> {
        let facts: Arc<Mutex<Option<Facts>>> = Arc::default();
        let metrics = recorder(&DURATION_BUCKETS)?;
        let app = AppState { role: role.into(), readiness, metrics, facts: Arc::clone(&facts) };
        let socket = TcpListener::bind(listen).map_err(|source| ServiceError::Listen { address: listen, source })?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let shutdown = Shutdown::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = shutdown.clone();
        let thread = std::thread::Builder::new().name("service".into()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(socket)?;
                tokio::select! {
                    () = http::serve(listener, router(app), Limits::default(), Plain, stop.clone()) => {}
                    // Probes in flight are not waited for.
                    () = stop.triggered() => {}
                }
                std::io::Result::Ok(())
            });
            if let Err(error) = served {
                tracing::error!(%error, "health and metrics are no longer served");
            }
            // A readiness check that hangs must not keep the process from ending.
            runtime.shutdown_background();
        })?;
        tracing::info!(%address, role, "health and metrics");
        Ok(Self { address, shutdown, thread: Some(thread), facts })
    }

    /// Sets the facts that `/readyz` shows besides readiness.
    pub fn set_facts(&self, facts: impl Fn() -> Vec<(&'static str, String)> + Send + Sync + 'static) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(facts));
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn router(app: AppState) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(app)
}

async fn readyz(State(app): State<AppState>) -> Response {
    let readiness = Arc::clone(&app.readiness);
    let checked = tokio::time::timeout(CHECK_TIMEOUT, tokio::task::spawn_blocking(move || readiness())).await;
    let not_ready = match checked {
        Ok(Ok(not_ready)) => not_ready,
        Ok(Err(_)) => vec![NotReady::new("readiness", "the check has failed; see the log")],
        Err(_) => {
            vec![NotReady::new("readiness", format!("the check takes longer than {} s", CHECK_TIMEOUT.as_secs()))]
        }
    };
    let ready = not_ready.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let facts = app.facts.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|f| f()).unwrap_or_default();
    let (role, version) = (app.role.to_string(), env!("CARGO_PKG_VERSION"));
    let answer = ReadyzBody { ready, role, version, not_ready, facts: facts.into_iter().collect() };
    (status, Json(answer)).into_response()
}

async fn metrics_text(State(app): State<AppState>) -> Response {
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("process_resident_memory_bytes").set(bytes);
    }
    let text = app.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The metrics recorder of this process, installed by the first call with these bucket bounds of
/// its duration histograms, in seconds. A thread drains the histograms for as long as the process
/// lives, whether anybody reads the metrics or not.
///
/// # Errors
/// Another recorder is already installed.
pub fn recorder(buckets: &[f64]) -> Result<PrometheusHandle, ServiceError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let recorder = build_recorder(buckets, UPKEEP_INTERVAL)?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|e| ServiceError::Metrics(e.to_string()))?;
    Ok(installed.insert(handle).clone())
}

fn build_recorder(buckets: &[f64], upkeep: Duration) -> Result<PrometheusRecorder, ServiceError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), buckets)
        .map_err(|e| ServiceError::Metrics(e.to_string()))?
        .build_recorder();
    let handle = recorder.handle();
    std::thread::Builder::new().name("metrics".into()).spawn(move || {
        loop {
            std::thread::sleep(upkeep);
            handle.run_upkeep();
        }
    })?;
    Ok(recorder)
}

/// Resolves at the first SIGINT or SIGTERM. Where signals cannot be received it never resolves, and
/// logs an error.
pub async fn stop_signal() {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            tracing::info!(signal = name, "stopping");
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "no signals: this process can only be killed");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }

    #[test]
    fn histograms_are_drained_though_nobody_reads_them() {
        let recorder = build_recorder(&DURATION_BUCKETS, Duration::from_millis(10)).expect("built");
        let before = resident_bytes().expect("/proc");
        metrics::with_local_recorder(&recorder, || {
            let histogram = metrics::histogram!("sightline_test_upkeep_seconds");
            // Not drained, these 8 million samples take more than 128 MB.
            for _ in 0..80 {
                (0..100_000).for_each(|_| histogram.record(0.5));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let grown = resident_bytes().expect("/proc") - before;
        assert!(grown < 64e6, "{grown}");
    }

    #[test]
    fn health_readiness_and_metrics() {
        let faults = Arc::new(Mutex::new(vec![NotReady::new("bus", "no answer")]));
        let own = Arc::clone(&faults);
        let readiness: Readiness = Arc::new(move || own.lock().expect("sound").clone());
        let service = Service::start("127.0.0.1:0".parse().expect("an address"), "embed", readiness).expect("starts");
        let at = service.address();
        assert!(ask(at, "/healthz").starts_with("HTTP/1.1 200"));
        let answer = ask(at, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(r#""ready":false,"role":"embed""#), "{answer}");
        assert!(answer.contains(r#"{"what":"bus","why":"no answer"}"#), "{answer}");
        service.set_facts(|| vec![("device", "cpu".into())]);
        assert!(ask(at, "/readyz").contains(r#""device":"cpu"}"#));
        faults.lock().expect("sound").clear();
        assert!(ask(at, "/readyz").starts_with("HTTP/1.1 200"));
        metrics::counter!("sightline_test_service_total", "camera" => "gate").increment(3);
        let text = ask(at, "/metrics");
        assert!(text.contains("sightline_test_service_total{camera=\"gate\"} 3"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
        let second = Service::start("127.0.0.1:0".parse().expect("an address"), "index", Arc::new(Vec::new));
        assert!(ask(second.expect("a recorder serves two").address(), "/readyz").contains("index"));
        drop(service);
        assert!(TcpStream::connect(at).is_err(), "stopped");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = taken.local_addr().expect("its address");
        let error = Service::start(address, "x", Arc::new(Vec::new)).expect_err("in use").to_string();
        assert!(error.contains("monitor.listen"), "{error}");
    }
}
