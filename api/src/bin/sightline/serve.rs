//! `sightline serve`: every role in one process.
//!
//! ```text
//! cameras -> Queue<CameraEvent>(8) -> embed stage -> Queue<IndexEvent>(64) -> indexer -> store + gallery -> coverage
//!                                     Embedder <---- searcher <---- REST API
//! ```
//!
//! The socket is bound first, so that `/healthz` answers and `/readyz` reports the phase of the
//! start; a later failure ends the process with one line. The stop goes from front to back:
//! cameras, embed stage, indexer; each is drained before the next is stopped.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use sightline_api::app::{App, Setup};
use sightline_api::erasure::{self, Copies, admit_from};
use sightline_api::startup::{self, Sharing};
use sightline_api::state::{self, State};
use sightline_api::tls::Tls;
use sightline_api::{gauges, monitor, server, upkeep};
use sightline_core::config::CameraConfig;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraEvent, Config, Delivery, Discard, IndexEvent, Timestamp, telemetry};
use sightline_detect::{Detector, NanoDet};
use sightline_embed::stage;
use sightline_ingest::{CameraNode, NodeConfig};
use sightline_search::{Index, IndexerOptions, Sink, VectorStore, WatchedFolders, indexer, retention};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::node::{LocalNode, PRODUCER};

/// Queue capacity: crops of all cameras that wait for the embedder.
const CROP_QUEUE: usize = 8;
/// Queue capacity: sightings and progress that wait for the indexer.
const INDEX_QUEUE: usize = 64;
/// Time limit of the whole stop; supervisors usually kill a process after ten seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Runs the server until SIGINT or SIGTERM.
pub fn run(config: Option<&Path>) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    telemetry::init(config.server.log_json, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let outcome = runtime.block_on(serve(config));
    // A thread that hangs in a camera or in the model must not delay the exit.
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let folder = config.data.folder.clone();
    let _lock = startup::data_folder(&folder)?;
    let state = State::open(&folder)?;
    state.merge_config_cameras(&config.cameras)?;
    let metrics = startup::metrics()?;
    let tls = Tls::of(&config.server)?.is_some();
    let probed = match config.server.metrics_listen.as_str() {
        "" => None,
        text => Some(
            startup::listen("server.metrics_listen", text.parse::<SocketAddr>().context("server.metrics_listen")?)
                .await?,
        ),
    };
    let listener = startup::listen("server.listen", config.server.listen).await?;
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
    let writing = tokio::spawn(upkeep::run(state.clone(), config.audit.clone(), shutdown.clone()));
    let mut serving = tokio::spawn(server::serve(listener, app.clone(), shutdown.clone()));
    if let Some(probed) = probed {
        tokio::spawn(monitor::serve(probed, app.clone(), shutdown.clone()));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut pipeline = tokio::select! {
        pipeline = Pipeline::start(&config, &app, &state, &shutdown) => pipeline?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let _client_file = startup::ClientFileGuard::write(&folder, startup::base_address(address, tls), token.clone())?;
    println!("{}", startup::ready_line(address, tls, &token));
    let failure = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ended = &mut serving => Some(anyhow!("the server stopped: {ended:?}")),
        ended = &mut pipeline.embedding => Some(anyhow!("the embed stage stopped: {}", ended_with(ended))),
        ended = &mut pipeline.indexing => Some(anyhow!("the indexer stopped: {}", ended_with(ended))),
    };
    tracing::info!("stopping");
    shutdown.trigger();
    if tokio::time::timeout(STOP_TIMEOUT, pipeline.stop()).await.is_err() {
        tracing::warn!("not everything was stored in time; it is analysed again at the next start");
    }
    if !serving.is_finished() && tokio::time::timeout(Duration::from_secs(1), serving).await.is_err() {
        tracing::warn!("the server did not stop in time");
    }
    if tokio::time::timeout(Duration::from_secs(1), writing).await.is_err() {
        tracing::warn!("the newest audit records may be lost");
    }
    failure.map_or(Ok(()), Err)
}

type Ended = Result<Result<(), String>, tokio::task::JoinError>;

fn ended_with(ended: Ended) -> String {
    match ended {
        Ok(Ok(())) => "without a reason".into(),
        Ok(Err(e)) => e,
        Err(e) => e.to_string(),
    }
}

/// All stages from the cameras to the index.
struct Pipeline {
    node: Arc<CameraNode>,
    crops: Queue<CameraEvent>,
    sightings: Queue<Delivery<IndexEvent>>,
    embedding: JoinHandle<Result<(), String>>,
    indexing: JoinHandle<Result<(), String>>,
    store: Arc<dyn VectorStore>,
    give_up: Shutdown,
}

impl Pipeline {
    async fn start(config: &Config, app: &App, state: &State, shutdown: &Shutdown) -> anyhow::Result<Self> {
        app.set_phase("loading the model");
        let embedder = startup::model(config).await?;
        let model = startup::model_view(&embedder);
        app.set_phase("loading the detector");
        // ByteTrack's second stage needs detections that are too weak to be shown or to start a
        // track.
        let (detect, weakest) = (config.detect.clone(), config.track.low);
        let detector =
            blocking(move || Ok(NanoDet::load(&detect.weights, &detect)?.with_score_threshold(weakest))).await?;

        app.set_phase("opening the index");
        let index = startup::index(config, app, &embedder, Sharing::Own).await?.index;
        let (store, gallery) = (Arc::clone(index.store()), Arc::clone(index.gallery()));

        app.set_phase("starting the cameras");
        let (crops, sightings) = (Queue::new(CROP_QUEUE), Queue::new(INDEX_QUEUE));
        let give_up = Shutdown::new();
        let embedding = {
            let (input, output, embed) = (crops.clone(), sightings.clone(), config.embed.clone());
            // The embed stage ends when its queue is closed and empty; it must not end before the
            // cameras.
            let never = Shutdown::new();
            tokio::task::spawn_blocking(move || {
                stage::run(&input, &embedder, &output, &Discard, &embed, &never).map_err(|e| e.to_string())
            })
        };
        let indexing = {
            let (input, store, gallery) = (sightings.clone(), Arc::clone(&store), Arc::clone(&gallery));
            let (coverage, journals, give_up) =
                (index.coverage().clone(), Arc::clone(index.journals()), give_up.clone());
            let options = IndexerOptions { batch: config.index.batch, ..IndexerOptions::default() };
            tokio::task::spawn_blocking(move || {
                let (store, gallery) = (&*store, &*gallery);
                let sink = Sink { store, gallery, coverage: &coverage, journals: &journals };
                indexer::run(&input, sink, &Discard, &options, &give_up).map_err(|e| e.to_string())
            })
        };
        let days = Some(config.index.retention_days).filter(|days| *days > 0.0);
        let keep = days.map(|days| Duration::from_secs_f64(days * 86_400.0));
        let (sightings_of, pictures_of, stop) = (Arc::clone(&store), Arc::clone(&gallery), shutdown.clone());
        tokio::task::spawn_blocking(move || retention::run(&*sightings_of, &*pictures_of, keep, &stop));
        let node_config = NodeConfig::new(config, PRODUCER);
        let (out, stop) = (crops.clone(), shutdown.clone());
        let make = move || Box::new(detector.clone()) as Box<dyn Detector>;
        let node = Arc::new(blocking(move || Ok(CameraNode::start(node_config, make, out, stop)?)).await?);
        let control = Arc::new(LocalNode::new(Arc::clone(&node), config.ingest.sources.clone()));
        // A camera of the configuration that was removed comes back, once its people are erased.
        let removed = state.pending_erasures()?;
        let known = state.cameras()?.into_iter().filter(|r| !r.archived).map(|r| r.spec);
        let (waiting, ready): (Vec<_>, Vec<_>) = known.partition(|camera| removed.contains(&camera.id));
        start_cameras(&control, &index, ready).await?;
        tokio::spawn(Arc::clone(&control).retry_refused(shutdown.clone()));
        app.set_cameras(control.clone());
        app.set_index(index.clone(), model)?;
        tokio::spawn(erasure::run(app.clone(), Copies::default(), shutdown.clone()));
        tokio::spawn(start_when_erased(state.clone(), control, index, waiting, shutdown.clone()));
        tokio::spawn(gauges::run(app.clone(), WatchedFolders::of(config), shutdown.clone()));
        Ok(Self { node, crops, sightings, embedding, indexing, store, give_up })
    }

    /// Stops the cameras, lets the published events reach the index, and flushes the index to the
    /// disk.
    async fn stop(self) {
        let Self { node, crops, sightings, embedding, indexing, store, give_up } = self;
        let failed = |stage, e: String| tracing::warn!(stage, error = %e, "not stopped cleanly");
        if let Err(e) = tokio::task::spawn_blocking(move || node.stop()).await {
            failed("cameras", e.to_string());
        }
        crops.close();
        // A stage that ended before the stop has been reported already, and its handle must not be
        // awaited again.
        if !embedding.is_finished() {
            match embedding.await {
                Ok(Ok(())) => {}
                other => failed("embed", ended_with(other)),
            }
        }
        sightings.close();
        // From here on a failing store is not retried.
        give_up.trigger();
        if !indexing.is_finished() {
            match indexing.await {
                Ok(Ok(())) => {}
                other => failed("index", ended_with(other)),
            }
        }
        match tokio::task::spawn_blocking(move || store.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => failed("store", e.to_string()),
            Err(e) => failed("store", e.to_string()),
        }
    }
}

/// Starts cameras of the database; what was erased of them stays erased.
async fn start_cameras(control: &Arc<LocalNode>, index: &Index, cameras: Vec<CameraConfig>) -> anyhow::Result<()> {
    for camera in &cameras {
        index.admit(camera.id.clone(), admit_from(camera, Timestamp::now())).await?;
    }
    let control = Arc::clone(control);
    blocking(move || {
        cameras.into_iter().for_each(|camera| control.start(camera));
        Ok(())
    })
    .await
}

/// Starts each of these cameras when its erasure is done.
async fn start_when_erased(
    state: State,
    control: Arc<LocalNode>,
    index: Index,
    mut waiting: Vec<CameraConfig>,
    shutdown: Shutdown,
) {
    while !waiting.is_empty() && !shutdown.is_triggered() {
        let pending = state.run(|s| s.pending_erasures()).await;
        let ready = |camera: &CameraConfig| pending.as_ref().is_ok_and(|pending| !pending.contains(&camera.id));
        let (erased, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(ready);
        if let Err(error) = start_cameras(&control, &index, erased.clone()).await {
            tracing::warn!(%error, "cameras whose people were erased cannot start; trying again");
            waiting = [rest, erased].concat();
        } else {
            waiting = rest;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = shutdown.triggered() => return,
        }
    }
}

/// Runs blocking work on a thread of the blocking pool.
async fn blocking<T, F>(work: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> anyhow::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.context("a start-up task ended early")?
}
