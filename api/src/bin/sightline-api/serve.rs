//! `sightline-api` from start to stop.
//!
//! ```text
//! REST API --> Embedder (text, example pictures, decoder) --> Qdrant server (vectors, coverage) and shared gallery
//!          --> topic `cameras` (feature kafka)
//! ```
//!
//! The socket is bound first, so that `/healthz` answers and `/readyz` reports the phase of the
//! start. An unusable model ends the process with one line. An unreachable Qdrant server is
//! retried, at the start and later.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use sightline_api::app::{App, Setup};
use sightline_api::erasure::{self, Copies};
use sightline_api::remote::{CameraTopic, RemoteNodes};
use sightline_api::startup::{self, OpenIndex, Sharing};
use sightline_api::state::{self, State};
use sightline_api::tls::Tls;
use sightline_api::{gauges, upkeep};
use sightline_api::{monitor, server};
use sightline_core::shutdown::Shutdown;
use sightline_core::{Config, telemetry};
use sightline_search::{RemoteCoverage, WatchedFolders};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the server until SIGINT or SIGTERM.
pub fn run(config: Option<&Path>) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    telemetry::init(config.server.log_json, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let outcome = runtime.block_on(serve(config));
    // A thread that hangs in a server call or in the model must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let folder = config.data.folder.clone();
    let _lock = startup::data_folder(&folder)?;
    let state = State::open(&folder)?;
    let metrics = startup::metrics()?;
    let tls = Tls::of(&config.server)?.is_some();
    let listener = startup::listen("server.listen", config.server.listen).await?;
    let watched = startup::listen("monitor.listen", config.monitor.listen).await?;
    let address = listener.local_addr().context("the socket has no address")?;
    let token = state::new_secret()?;
    let app = App::new(Setup {
        server: config.server.clone(),
        search: config.search.clone(),
        state: state.clone(),
        start_token: Some(token.clone()),
        metrics: Some(metrics),
    });
    let shutdown = Shutdown::new();
    let writing = tokio::spawn(upkeep::run(state, config.audit.clone(), shutdown.clone()));
    let mut serving = tokio::spawn(server::serve(listener, app.clone(), shutdown.clone()));
    let mut monitoring = tokio::spawn(monitor::serve(watched, app.clone(), shutdown.clone()));
    let _client_file = startup::ClientFileGuard::write(&folder, startup::base_address(address, tls), token.clone())?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let _follower = tokio::select! {
        ready = connect(&config, &app, &shutdown) => ready?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    println!("{}", startup::ready_line(address, tls, &token));
    let failure = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ended = &mut serving => Some(anyhow!("the server stopped: {ended:?}")),
        ended = &mut monitoring => Some(anyhow!("the monitor stopped: {ended:?}")),
    };
    tracing::info!("stopping");
    shutdown.trigger();
    // The server ends by itself: requests in flight get four seconds.
    if !serving.is_finished() && tokio::time::timeout(Duration::from_secs(5), serving).await.is_err() {
        tracing::warn!("the server did not stop in time");
    }
    if tokio::time::timeout(Duration::from_secs(1), writing).await.is_err() {
        tracing::warn!("the newest audit records may be lost");
    }
    failure.map_or(Ok(()), Err)
}

/// Connects model, index and cameras in this order, because each needs the one before. Returns the
/// task that keeps the coverage up to date.
async fn connect(config: &Config, app: &App, shutdown: &Shutdown) -> anyhow::Result<Option<RemoteCoverage>> {
    app.set_phase("loading the model");
    let embedder = startup::model(config).await?;
    app.set_phase("opening the index");
    let OpenIndex { index, follower } = startup::index(config, app, &embedder, Sharing::Shared).await?;
    let nodes = RemoteNodes::new(index.coverage().clone(), topic(config, shutdown)?);
    let nodes = Arc::new(nodes.checked_by(config.ingest.clone()));
    tokio::spawn(Arc::clone(&nodes).follow(shutdown.clone()));
    app.set_cameras(nodes);
    app.set_index(index, startup::model_view(&embedder))?;
    let on_the_bus = Duration::from_secs(config.bus.retention_hours.saturating_mul(3600));
    tokio::spawn(gauges::run(app.clone(), WatchedFolders::of(config), shutdown.clone()));
    tokio::spawn(erasure::run(app.clone(), Copies { topics: Some(on_the_bus) }, shutdown.clone()));
    Ok(follower)
}

#[cfg(feature = "kafka")]
fn topic(config: &Config, shutdown: &Shutdown) -> anyhow::Result<Option<Arc<dyn CameraTopic>>> {
    let name = if config.monitor.node.is_empty() { "sightline-api" } else { &config.monitor.node };
    Ok(Some(Arc::new(sightline_api::remote::KafkaCameras::start(&config.bus, name, shutdown)?)))
}

#[cfg(not(feature = "kafka"))]
fn topic(_: &Config, _: &Shutdown) -> anyhow::Result<Option<Arc<dyn CameraTopic>>> {
    Ok(None)
}
