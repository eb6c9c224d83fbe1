//! `sightline-index run`: from the start to the orderly stop.
//!
//! Start: health first, then model id, vectors, gallery, coverage, topics; whatever is away is waited for and told in
//! `/readyz`. Stop: no more records are taken, those under way are stored and committed (for `bus.drain_seconds` at most);
//! what is left comes again to whoever has the partition next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use sightline_core::bus::{self, Consumer, DeadLetters, Producer, TopicSpec};
use sightline_core::config::VectorPlace;
use sightline_core::queue::Queue;
use sightline_core::service::{self, NotReady, Service};
use sightline_core::shutdown::Shutdown;
use sightline_core::{Config, Delivery, IndexEvent, telemetry};
use sightline_embed::ModelFolder;
use sightline_search::{
    Coverage, EdgeOptions, EdgeStore, Gallery, IndexerOptions, QdrantStore, ServerCoverage, StoreError, VectorStore,
    indexer, open_gallery, resume_erasures, retention, sweep_orphans,
};

use crate::poison::Poison;

/// Consumer group of all index workers.
const GROUP: &str = "sightline-index";

/// How long the consumer is waited for before the stop is looked at.
const IDLE: Duration = Duration::from_millis(200);

/// How long the last dead letters are waited for at the stop.
const LAST: Duration = Duration::from_secs(5);

/// What `/readyz` says.
#[derive(Default)]
struct Condition {
    /// What the start is waiting for.
    waiting: Option<NotReady>,
    /// The parts once they work.
    parts: Option<(Coverage, Arc<Consumer>, Producer)>,
}

#[derive(Clone, Default)]
struct Status(Arc<Mutex<Condition>>);

impl Status {
    fn waits(&self, what: &str, why: impl ToString) {
        let mut condition = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        condition.waiting = Some(NotReady::new(what, why.to_string()));
    }

    fn works(&self, parts: Option<(Coverage, Arc<Consumer>, Producer)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Condition { waiting: None, parts };
    }

    fn faults(&self) -> Vec<NotReady> {
        let condition = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut faults: Vec<NotReady> = condition.waiting.iter().cloned().collect();
        if let Some((coverage, consumer, producer)) = &condition.parts {
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
    status.waits("start", "opening");
    let told = status.clone();
    let service = Service::start(config.monitor.listen, "index", Arc::new(move || told.faults()))?;
    println!("sightline-index {}: http://{}/readyz", node_name(config), service.address());
    signals(&shutdown)?;
    let outcome = work(config, &status, &shutdown);
    // Nothing refers to the consumer any more when its last owner is gone.
    status.works(None);
    outcome
}

/// Gives `shutdown` at the first signal.
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

/// `monitor.node`, or role and host.
fn node_name(config: &Config) -> String {
    if !config.monitor.node.is_empty() {
        return config.monitor.node.clone();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("index@{}", if host.is_empty() { "unknown" } else { host })
}

/// Where everything goes.
struct Sink {
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    coverage: Coverage,
}

/// Opens what the sightings of the configured model are stored in; `None` when the stop came first.
fn open(config: &Config, status: &Status, shutdown: &Shutdown) -> anyhow::Result<Option<Sink>> {
    let model = ModelFolder::open(&config.model.folder)?;
    let width = model.config.architecture.embed_dim;
    tracing::info!(model = model.id, width, folder = %model.path.display(), "the model whose sightings are stored");
    let gallery = open_gallery(config, &model.id)?;
    if config.vectors.store == VectorPlace::Embedded {
        let store = EdgeStore::open(&config.data.folder.join("vectors"), &model.id, width, &EdgeOptions::default())?;
        resume_erasures(&store, &*gallery, &config.data.folder.join("erasures"))?;
        // A folder that others share may hold pictures whose points are on their way.
        if config.gallery.url.is_empty() {
            sweep_orphans(&store, &*gallery)?;
        }
        let coverage = Coverage::from_store(store.cameras()?);
        return Ok(Some(Sink { store: Arc::new(store), gallery, coverage }));
    }
    let away = |error: &StoreError| {
        tracing::warn!(%error, "waiting for the vector store");
        status.waits("vectors", error);
    };
    let opened = QdrantStore::open_when_up(&config.vectors, &model.id, width, shutdown, away)?;
    let Some(store) = opened else { return Ok(None) };
    let Some(ledger) = ServerCoverage::open_when_up(&config.vectors, shutdown, away)? else { return Ok(None) };
    let coverage = Coverage::with_ledger(Arc::new(ledger));
    Ok(Some(Sink { store: Arc::new(store), gallery, coverage }))
}

fn work(config: &Config, status: &Status, shutdown: &Shutdown) -> anyhow::Result<()> {
    let Some(sink) = open(config, status, shutdown)? else { return Ok(()) };
    let bus = &config.bus;
    let dead_topic = format!("{}{}", bus.sightings_topic, bus.dead_letter_suffix);
    status.waits("bus", format!("waiting for the topics at {}", bus.brokers));
    let topics = [TopicSpec::aging(&bus.sightings_topic), TopicSpec::aging(dead_topic)];
    bus::await_topics(bus, &topics, shutdown)?;
    if shutdown.is_triggered() {
        return Ok(());
    }
    let node = node_name(config);
    let producer = Producer::start(bus, &node)?;
    let poison = Poison::new(DeadLetters::new(producer.clone(), bus, "index"), &bus.sightings_topic);
    let consumer = Arc::new(Consumer::start(bus, GROUP, &[&bus.sightings_topic], &node)?);
    status.works(Some((sink.coverage.clone(), Arc::clone(&consumer), producer.clone())));

    let queue: Queue<Delivery<IndexEvent>> = Queue::new(2 * config.index.batch.max(1));
    let options = IndexerOptions { batch: config.index.batch, ..IndexerOptions::default() };
    let give_up = Shutdown::new();
    std::thread::scope(|scope| {
        let (store, gallery, coverage) = (&*sink.store, &*sink.gallery, &sink.coverage);
        let (line, refused, options, give_up) = (queue.clone(), &poison, &options, &give_up);
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let indexing = named("indexer")
            .spawn_scoped(scope, move || indexer::run(&line, store, gallery, coverage, refused, options, give_up))?;
        if config.index.retention_days > 0.0 {
            let keep = Duration::from_secs_f64(config.index.retention_days * 86_400.0);
            named("retention").spawn_scoped(scope, move || retention::run(store, gallery, keep, shutdown))?;
        }
        feed(&consumer, &poison, &queue, shutdown, || indexing.is_finished());
        // Whatever ended the feeding ends the retention.
        shutdown.trigger();
        status.works(None);
        close(consumer);
        queue.close();
        // From here on a store that keeps failing is not waited for: what is not stored comes again.
        give_up.trigger();
        match indexing.join() {
            Ok(Ok(())) => tracing::info!("everything that was taken is stored"),
            Ok(Err(error)) => tracing::warn!(%error, "not everything that was taken is stored; it will come again"),
            Err(_) => bail!("the indexer broke down"),
        }
        if !producer.flush(LAST) {
            tracing::warn!("not all dead letters have been taken by the broker; their records will come again");
        }
        sink.store.flush()?;
        Ok(())
    })
}

/// Leaves the group after what is under way is stored, so that the next owner begins where this one ends.
fn close(consumer: Arc<Consumer>) {
    match Arc::try_unwrap(consumer) {
        Ok(consumer) => consumer.close(),
        // A readiness check is looking at it at this very moment; dropping it there leaves the group, too.
        Err(shared) => {
            std::thread::sleep(IDLE);
            if let Some(consumer) = Arc::into_inner(shared) {
                consumer.close();
            }
        }
    }
}

/// Hands records on until the stop, or until nobody takes them any more.
fn feed(
    consumer: &Consumer,
    poison: &Poison,
    queue: &Queue<Delivery<IndexEvent>>,
    shutdown: &Shutdown,
    broken: impl Fn() -> bool,
) {
    while !shutdown.is_triggered() && !broken() {
        let Some(record) = consumer.next(IDLE) else { continue };
        let Some(mut delivery) = poison.open(record) else { continue };
        while let Err(back) = queue.push_timeout(delivery, IDLE) {
            if queue.is_closed() || broken() {
                return;
            }
            // While the store is away the queue stays full. A stop lets go of this one: it comes again.
            if shutdown.is_triggered() {
                return;
            }
            delivery = back;
        }
    }
}
