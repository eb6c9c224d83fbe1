//! `sightline-index run`: start, work and graceful shutdown.
//!
//! Start: health first, then model id, vectors, gallery, coverage and topics; an unreachable part
//! is retried and reported by `/readyz`. Stop: no more records are read, those in flight are stored
//! and committed (within `bus.drain_seconds`); the rest is delivered again to the next owner of the
//! partition.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sightline_bus::{self as bus, Consumer, DeadLetters, Producer, TopicSpec};
use sightline_core::config::VectorPlace;
use sightline_core::queue::Queue;
use sightline_core::service::{self, NotReady, Service};
use sightline_core::shutdown::Shutdown;
use sightline_core::{Config, Delivery, IndexEvent, telemetry};
use sightline_embed::ModelFolder;
use sightline_search::reindex::open_embedded;
use sightline_search::{
    Coverage, Gallery, IndexerOptions, Journals, QdrantStore, ServerCoverage, ServerTombstones, Sink, StoreError,
    VectorStore, WatchedFolders, indexer, open_gallery, retention,
};

use crate::in_flight::InFlightRecords;

/// Consumer group of all index workers.
const GROUP: &str = "sightline-index";

/// Longest wait for a record before the shutdown flag is checked again.
const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// Interval between measurements of the free disk space.
const DISK_INTERVAL: Duration = Duration::from_secs(5);

/// Longest wait for the last dead letters at the stop.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Readiness that `/readyz` reports.
#[derive(Default)]
struct ReadinessState {
    /// Part that the start waits for.
    waiting: Option<NotReady>,
    /// The running parts, once the start has finished.
    parts: Option<(Coverage, Arc<Consumer>, Producer)>,
}

#[derive(Clone, Default)]
struct Status(Arc<Mutex<ReadinessState>>);

impl Status {
    fn set_waiting(&self, what: &str, why: impl ToString) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting = Some(NotReady::new(what, why.to_string()));
    }

    fn set_ready(&self, parts: Option<(Coverage, Arc<Consumer>, Producer)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ReadinessState { waiting: None, parts };
    }

    fn faults(&self) -> Vec<NotReady> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut faults: Vec<NotReady> = state.waiting.iter().cloned().collect();
        if let Some((coverage, consumer, producer)) = &state.parts {
            faults.extend(coverage.fault().map(|why| NotReady::new("storage", why)));
            faults.extend(consumer.fault().or_else(|| producer.fault()).map(|why| NotReady::new("bus", why)));
        }
        faults
    }
}

/// Runs until SIGINT or SIGTERM.
pub fn run(config: &Config) -> anyhow::Result<()> {
    telemetry::init(config.server.log_json, "info");
    let (status, shutdown) = (Status::default(), Shutdown::new());
    status.set_waiting("start", "opening");
    let readiness = status.clone();
    let service = Service::start(config.monitor.listen, "index", Arc::new(move || readiness.faults()))?;
    println!("sightline-index {}: http://{}/readyz", node_name(config), service.address());
    signals(&shutdown)?;
    let outcome = work(config, &status, &shutdown);
    // The consumer is dropped with its last owner here.
    status.set_ready(None);
    outcome
}

/// Triggers `shutdown` at the first signal.
fn signals(shutdown: &Shutdown) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot wait for signals")?;
    let shutdown = shutdown.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(service::stop_signal());
        shutdown.trigger();
    })?;
    Ok(())
}

/// Node name: `monitor.node`, or role and host.
fn node_name(config: &Config) -> String {
    if !config.monitor.node.is_empty() {
        return config.monitor.node.clone();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("index@{}", if host.is_empty() { "unknown" } else { host })
}

/// The open index.
struct Parts {
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    coverage: Coverage,
    journals: Journals,
}

/// Opens the stores for the configured model; `None` when the shutdown came first.
fn open(config: &Config, status: &Status, shutdown: &Shutdown) -> anyhow::Result<Option<Parts>> {
    let model = ModelFolder::open(&config.model.folder)?;
    let width = model.config.architecture.embed_dim;
    tracing::info!(model = model.id, width, folder = %model.path.display(), "the model whose sightings are stored");
    let gallery = open_gallery(config, &model.id)?;
    if config.vectors.store == VectorPlace::Embedded {
        let data = &config.data.folder;
        let store = open_embedded(data, &model.id, width)?;
        let journals = Journals::open(data)?;
        journals.recover(data, &*store, &*gallery)?;
        let coverage = Coverage::from_store(store.cameras()?);
        return Ok(Some(Parts { store, gallery, coverage, journals }));
    }
    let away = |error: &StoreError| {
        tracing::warn!(%error, "waiting for the vector store");
        status.set_waiting("vectors", error);
    };
    let opened = QdrantStore::open_with_retry(&config.vectors, &model.id, width, shutdown, away)?;
    let Some(store) = opened else { return Ok(None) };
    let Some(ledger) = ServerCoverage::open_with_retry(&config.vectors, shutdown, away)? else { return Ok(None) };
    let erased = ServerTombstones::open_with_retry(&config.vectors, shutdown, away)?;
    let Some(erased) = erased else { return Ok(None) };
    let coverage = Coverage::with_ledger(Arc::new(ledger));
    let journals = Journals::shared(Arc::new(erased))?;
    Ok(Some(Parts { store: Arc::new(store), gallery, coverage, journals }))
}

fn work(config: &Config, status: &Status, shutdown: &Shutdown) -> anyhow::Result<()> {
    let Some(parts) = open(config, status, shutdown)? else { return Ok(()) };
    let bus = &config.bus;
    let dead_topic = format!("{}{}", bus.sightings_topic, bus.dead_letter_suffix);
    status.set_waiting("bus", format!("waiting for the topics at {}", bus.brokers));
    let topics = [TopicSpec::aging(&bus.sightings_topic), TopicSpec::aging(dead_topic)];
    bus::await_topics(bus, &topics, shutdown)?;
    if shutdown.is_triggered() {
        return Ok(());
    }
    let node = node_name(config);
    let producer = Producer::start(bus, &node)?;
    let in_flight = InFlightRecords::new(DeadLetters::new(producer.clone(), bus, "index"), &bus.sightings_topic);
    let consumer = Arc::new(Consumer::start(bus, GROUP, &[&bus.sightings_topic], &node)?);
    status.set_ready(Some((parts.coverage.clone(), Arc::clone(&consumer), producer.clone())));

    let queue: Queue<Delivery<IndexEvent>> = Queue::new(2 * config.index.batch.max(1));
    let options = IndexerOptions { batch: config.index.batch, ..IndexerOptions::default() };
    let give_up = Shutdown::new();
    std::thread::scope(|scope| {
        let (store, gallery) = (&*parts.store, &*parts.gallery);
        let sink = Sink { store, gallery, coverage: &parts.coverage, journals: &parts.journals };
        let (line, refused, options, give_up) = (queue.clone(), &in_flight, &options, &give_up);
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let indexing =
            named("indexer").spawn_scoped(scope, move || indexer::run(&line, sink, refused, options, give_up))?;
        let days = Some(config.index.retention_days).filter(|days| *days > 0.0);
        let keep = days.map(|days| Duration::from_secs_f64(days * 86_400.0));
        named("retention").spawn_scoped(scope, move || retention::run(store, gallery, keep, shutdown))?;
        let folders = WatchedFolders::of(config);
        named("disk").spawn_scoped(scope, move || watch(&folders, shutdown))?;
        feed(&consumer, &in_flight, &queue, shutdown, || indexing.is_finished());
        // The end of the feed also ends the retention.
        shutdown.trigger();
        status.set_ready(None);
        close(consumer);
        queue.close();
        // From here on a failing store is not retried: whatever is not stored is delivered again.
        give_up.trigger();
        match indexing.join() {
            Ok(Ok(())) => tracing::info!("everything that was taken is stored"),
            Ok(Err(error)) => tracing::warn!(%error, "not everything that was taken is stored; it will come again"),
            Err(_) => bail!("the indexer broke down"),
        }
        if !producer.flush(DEAD_LETTER_TIMEOUT) {
            tracing::warn!("not all dead letters have been taken by the broker; their records will come again");
        }
        parts.store.flush()?;
        Ok(())
    })
}

/// Measures the free disk space until the shutdown.
fn watch(folders: &WatchedFolders, shutdown: &Shutdown) {
    let mut measured: Option<Instant> = None;
    while !shutdown.is_triggered() {
        if measured.is_none_or(|at| at.elapsed() >= DISK_INTERVAL) {
            folders.record();
            measured = Some(Instant::now());
        }
        std::thread::sleep(POLL_TIMEOUT);
    }
}

/// Leaves the group after the records in flight are stored, so that the next owner starts where
/// this one ends.
fn close(consumer: Arc<Consumer>) {
    match Arc::try_unwrap(consumer) {
        Ok(consumer) => consumer.close(),
        // A readiness check holds the consumer at this moment; dropping it there leaves the group,
        // too.
        Err(shared) => {
            std::thread::sleep(POLL_TIMEOUT);
            if let Some(consumer) = Arc::into_inner(shared) {
                consumer.close();
            }
        }
    }
}

/// Reads records into the queue until the shutdown, or until the queue's reader has ended.
fn feed(
    consumer: &Consumer,
    in_flight: &InFlightRecords,
    queue: &Queue<Delivery<IndexEvent>>,
    shutdown: &Shutdown,
    broken: impl Fn() -> bool,
) {
    while !shutdown.is_triggered() && !broken() {
        let Some(record) = consumer.next(POLL_TIMEOUT) else { continue };
        let Some(mut delivery) = in_flight.open(record) else { continue };
        while let Err(back) = queue.push_timeout(delivery, POLL_TIMEOUT) {
            if queue.is_closed() || broken() {
                return;
            }
            // While the store is unreachable the queue stays full. A shutdown drops this record: it
            // is delivered again.
            if shutdown.is_triggered() {
                return;
            }
            delivery = back;
        }
    }
}
