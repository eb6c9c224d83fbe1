//! Reads a whole compacted topic and follows it, without a consumer group: all partitions from
//! their beginning, on a thread of its own. A client that fails is replaced by a new one, which
//! reads from the beginning again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use sightline_core::Backoff;
use sightline_core::config::BusConfig;

use super::BusError;
use super::client::{self, Health};

/// Longest poll, and interval of [`Follower::tick`].
const POLL: Duration = Duration::from_millis(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives what is read; called from the reader's thread.
pub(super) trait Follower: Send + Sync + 'static {
    /// Reading starts at the beginning of the topic, for the first time or again.
    fn restarted(&self);
    /// Reads a record.
    fn record(&self, message: &BorrowedMessage<'_>);
    /// The end of every partition was reached for the first time since the restart.
    fn end_reached(&self);
    /// Called some ten times a second while the topic is read.
    fn tick(&self) {}
}

/// The reading thread; it ends when this is dropped.
pub(super) struct CompactedReader {
    reader: Arc<Reader>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Reader {
    topic: String,
    settings: ClientConfig,
    follower: Arc<dyn Follower>,
    health: Arc<Health>,
    stop: AtomicBool,
}

impl CompactedReader {
    /// Starts to read `topic`; the broker need not be reachable yet.
    pub(super) fn start(
        config: &BusConfig,
        topic: &str,
        client_id: &str,
        follower: Arc<dyn Follower>,
    ) -> Result<Self, BusError> {
        let mut settings = client::settings(config, client_id);
        // Nothing is committed and nobody joins a group: librdkafka only requires a name.
        settings
            .set("group.id", client_id)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "100");
        let (health, stop) = (Arc::new(Health::new(false)), AtomicBool::new(false));
        let reader = Arc::new(Reader { topic: topic.to_owned(), settings, follower, health, stop });
        let first = reader.connect()?;
        let own = Arc::clone(&reader);
        let thread = std::thread::Builder::new()
            .name(format!("bus-{topic}"))
            .spawn(move || own.run(first))
            .map_err(|e| BusError::Settings(format!("no thread to read {topic:?}: {e}")))?;
        Ok(Self { reader, thread: Some(thread) })
    }

    /// Why nothing can be read; `None` when the broker answers.
    pub(super) fn fault(&self) -> Option<String> {
        self.reader.health.fault()
    }
}

impl Drop for CompactedReader {
    fn drop(&mut self) {
        self.reader.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // The thread has logged its own panic.
            let _ = thread.join();
        }
    }
}

impl Reader {
    fn connect(&self) -> Result<BaseConsumer<Context>, BusError> {
        let context = Context { health: Arc::clone(&self.health) };
        self.settings.create_with_context(context).map_err(BusError::kafka(format!("reading {:?}", self.topic)))
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn run(&self, first: BaseConsumer<Context>) {
        let mut consumer = Some(first);
        let mut backoff = Backoff::server();
        while !self.stopped() {
            let served = match consumer.take().map_or_else(|| self.connect(), Ok) {
                Ok(consumer) => {
                    let served = self.serve(&consumer, &mut backoff);
                    client::close_client(move || drop(consumer));
                    served
                }
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::warn!(%error, topic = self.topic, "cannot be read");
            }
            let until = Instant::now() + backoff.pause();
            while !self.stopped() && Instant::now() < until {
                std::thread::sleep(POLL);
            }
        }
    }

    fn serve(&self, consumer: &BaseConsumer<Context>, backoff: &mut Backoff) -> Result<(), BusError> {
        let what = || format!("reading {:?}", self.topic);
        let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT).map_err(BusError::kafka("asking for topics"))?;
        let found = metadata.topics().iter().find(|t| t.name() == self.topic && !t.partitions().is_empty());
        let missing = || BusError::Topic { topic: self.topic.clone(), why: "is not there".into() };
        let mut unread = BTreeSet::new();
        let mut list = TopicPartitionList::new();
        for partition in found.ok_or_else(missing)?.partitions() {
            unread.insert(partition.id());
            list.add_partition_offset(&self.topic, partition.id(), Offset::Beginning)
                .map_err(BusError::kafka(what()))?;
        }
        consumer.assign(&list).map_err(BusError::kafka(what()))?;
        self.follower.restarted();
        let mut ticked = Instant::now();
        while !self.stopped() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => self.follower.record(&message),
                Some(Err(KafkaError::PartitionEOF(partition))) if unread.remove(&partition) && unread.is_empty() => {
                    backoff.reset();
                    self.follower.end_reached();
                }
                Some(Err(source @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(BusError::Kafka { what: what(), source });
                }
                _ => {}
            }
            if ticked.elapsed() >= POLL {
                ticked = Instant::now();
                self.follower.tick();
            }
        }
        Ok(())
    }
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
