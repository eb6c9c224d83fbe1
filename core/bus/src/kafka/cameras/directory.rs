//! The directory of all cameras, kept up to date: for the API, which lists and checks them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::super::BusError;
use super::super::client::{self, Health, lock};
use sightline_core::Backoff;
use sightline_core::CameraId;
use sightline_core::config::{BusConfig, CameraConfig};

const POLL: Duration = Duration::from_millis(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    cameras: BTreeMap<CameraId, CameraConfig>,
    /// Number of changes; 1 when the topic was read to its end for the first time.
    version: u64,
    loaded: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    health: Arc<Health>,
    stop: AtomicBool,
    topic: String,
}

/// The content of the topic of cameras, read without joining a consumer group.
pub struct CameraDirectory {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl CameraDirectory {
    /// Starts to read; the broker need not be reachable yet.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn start(config: &BusConfig, client_id: &str) -> Result<Self, BusError> {
        let mut settings = client::settings(config, client_id);
        // Nothing is committed and nobody joins a group: librdkafka only requires a name.
        settings.set("group.id", client_id).set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            health: Arc::new(Health::new(false)),
            stop: AtomicBool::new(false),
            topic: config.cameras_topic.clone(),
        });
        let first = shared.connect(&settings)?;
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bus-cameras".into())
            .spawn(move || own.run(&settings, first))
            .map_err(|e| BusError::Settings(format!("no thread for the cameras: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// All cameras read so far; see [`CameraDirectory::loaded`].
    pub fn all(&self) -> BTreeMap<CameraId, CameraConfig> {
        lock(&self.shared.state).cameras.clone()
    }

    /// Waits until the topic was read once from beginning to end; returns whether that happened
    /// within `timeout`.
    pub fn loaded(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.loaded)
    }

    /// Waits at most `timeout` until the version differs from `seen` (0: before anything was read).
    /// Returns the present version.
    pub fn changes(&self, seen: u64, timeout: Duration) -> u64 {
        self.wait(timeout, |state| state.version != seen);
        lock(&self.shared.state).version
    }

    /// Why the cameras are unknown or out of date; `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        let unread = || (!lock(&self.shared.state).loaded).then(|| "the cameras are not read yet".to_owned());
        self.shared.health.fault().or_else(unread)
    }

    fn wait(&self, timeout: Duration, until: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        while !until(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for CameraDirectory {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn connect(&self, settings: &ClientConfig) -> Result<BaseConsumer<Context>, BusError> {
        let context = Context { health: Arc::clone(&self.health) };
        settings.create_with_context(context).map_err(BusError::kafka("reading cameras"))
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn run(&self, settings: &ClientConfig, first: BaseConsumer<Context>) {
        let mut consumer = Some(first);
        let mut backoff = Backoff::server();
        while !self.stopped() {
            let served = match consumer.take().map_or_else(|| self.connect(settings), Ok) {
                Ok(consumer) => {
                    let served = self.serve(&consumer, &mut backoff);
                    client::close_client(move || drop(consumer));
                    served
                }
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::warn!(%error, "cameras cannot be read");
            }
            let until = Instant::now() + backoff.pause();
            while !self.stopped() && Instant::now() < until {
                std::thread::sleep(POLL);
            }
        }
    }

    fn serve(&self, consumer: &BaseConsumer<Context>, backoff: &mut Backoff) -> Result<(), BusError> {
        let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT).map_err(BusError::kafka("asking for topics"))?;
        let found = metadata.topics().iter().find(|t| t.name() == self.topic && !t.partitions().is_empty());
        let missing = || BusError::Topic { topic: self.topic.clone(), why: "is not there".into() };
        let mut unread = BTreeSet::new();
        let mut list = TopicPartitionList::new();
        for partition in found.ok_or_else(missing)?.partitions() {
            unread.insert(partition.id());
            list.add_partition_offset(&self.topic, partition.id(), Offset::Beginning)
                .map_err(BusError::kafka("reading cameras"))?;
        }
        consumer.assign(&list).map_err(BusError::kafka("reading cameras"))?;
        let mut cameras = BTreeMap::new();
        while !self.stopped() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let Some((id, value)) = super::read(&message) else { continue };
                    if unread.is_empty() {
                        self.change(|all| put(all, id, value));
                    } else {
                        put(&mut cameras, id, value);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if unread.remove(&partition) && unread.is_empty() => {
                    backoff.reset();
                    self.change(|all| *all = std::mem::take(&mut cameras));
                }
                Some(Err(source @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(BusError::Kafka { what: "reading cameras".into(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<CameraId, CameraConfig>)) {
        let mut state = lock(&self.state);
        change(&mut state.cameras);
        state.version += 1;
        state.loaded = true;
        self.changed.notify_all();
    }
}

fn put(all: &mut BTreeMap<CameraId, CameraConfig>, id: CameraId, value: Option<CameraConfig>) {
    match value {
        Some(config) => all.insert(id, config),
        None => all.remove(&id),
    };
}

struct Context {
    health: Arc<Health>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.health.statistics(json);
    }
}

impl ConsumerContext for Context {}
