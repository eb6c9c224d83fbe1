//! Apache Kafka between processes: what is sent arrives, what is received stays open until it is stored.
//!
//! ```text
//! Producer: send -> (bus.in_flight_bytes, waits) -> librdkafka, idempotent, acks=all, tries for ever -> done(Ok)
//! Consumer: poll thread -> open deliveries (bus.in_flight_bytes, pauses) -> next() -> receipt -> commit up to the first open one
//! ```
//!
//! Nothing here gives up: an absent broker is waited for with growing, jittered pauses, and `fault()` says so meanwhile.
//! The only records that come back with an error are those that no waiting helps, such as one that is too large.
//! Everything that talks to Kafka is in this module; the rest of Sightline sees [`Outgoing`], [`Incoming`] and receipts.

mod backoff;
pub mod cameras;
mod client;
mod consumer;
pub mod dead;
mod producer;
mod topics;
pub mod tracker;

use bytes::Bytes;
use rdkafka::error::KafkaError;

pub use backoff::Backoff;
pub use cameras::{CameraChange, CameraDirectory, CameraPublisher, CameraShare};
pub use consumer::Consumer;
pub use dead::{DeadLetter, DeadLetters};
pub use producer::{Producer, Unsent};
pub use topics::{TopicSpec, await_topics, ensure_topics};

/// Largest record of an ordinary topic in bytes, key and headers included: the limit of a broker as it comes
/// (`message.max.bytes`), set explicitly on the topics that Sightline creates. [`crate::wire::MAX_BYTES`] lies below it.
pub const MAX_RECORD_BYTES: usize = 1_048_588;

/// The same for dead-letter topics, so that the largest record fits with the headers that say what is wrong with it.
pub const MAX_DEAD_BYTES: usize = 2 * MAX_RECORD_BYTES;

/// What Kafka itself adds to a record (lengths, offsets, checksums of its batch), in bytes, rounded up.
const FRAMING: usize = 128;

/// What is wrong on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A setting that librdkafka does not take.
    #[error("bus settings: {0}")]
    Settings(String),
    /// librdkafka or the broker says no; a later attempt may help.
    #[error("{what}: {source}")]
    Kafka {
        /// What was attempted.
        what: String,
        /// What the library says.
        source: KafkaError,
    },
    /// A topic that is not as Sightline needs it.
    #[error("topic {topic:?} {why}")]
    Topic {
        /// Its name.
        topic: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Larger than the topic takes.
    #[error("a record of {bytes} bytes for topic {topic:?}, which takes {limit}")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Size of the record with key and headers.
        bytes: usize,
        /// What the topic takes.
        limit: usize,
    },
    /// The broker will never take this record.
    #[error("the broker refuses a record for topic {topic:?}: {why}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker says.
        why: String,
    },
    /// Nothing came of it in time.
    #[error("{0} was not done in time")]
    Late(&'static str),
    /// The producer was closed before the record arrived.
    #[error("the producer is closed")]
    Closed,
}

impl BusError {
    /// Whether the same record would fail again, however often it is sent.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Refused { .. } | Self::Settings(_))
    }

    fn kafka(what: impl Into<String>) -> impl FnOnce(KafkaError) -> Self {
        let what = what.into();
        move |source| match source {
            KafkaError::ClientConfig(_, why, key, value) => Self::Settings(format!("{key} = {value:?}: {why}")),
            source => Self::Kafka { what, source },
        }
    }
}

/// A record to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub topic: String,
    /// Records of one key stay in order. Empty: no key, any partition.
    pub key: String,
    /// The value. Empty: none at all, which a compacted topic takes as the key's removal.
    pub payload: Bytes,
    /// Headers.
    pub headers: Vec<(String, Bytes)>,
}

impl Outgoing {
    /// Size on the broker, about.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len() + 10).sum();
        self.key.len() + self.payload.len() + headers + FRAMING
    }
}

/// A record with where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; empty for a tombstone.
    pub payload: Bytes,
    /// Its headers.
    pub headers: Vec<(String, Bytes)>,
}

impl Incoming {
    fn of(message: &rdkafka::message::BorrowedMessage<'_>) -> Self {
        use rdkafka::message::{Headers, Message};
        let header = |h: rdkafka::message::Header<'_, &[u8]>| {
            (h.key.to_owned(), h.value.map(Bytes::copy_from_slice).unwrap_or_default())
        };
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(Bytes::copy_from_slice),
            payload: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
            headers: message.headers().map(|all| all.iter().map(header).collect()).unwrap_or_default(),
        }
    }

    /// Bytes that it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len() + 64).sum();
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len) + self.topic.len() + headers + FRAMING
    }

    /// A header's value as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// The dead-letter topic of `topic`.
pub fn dead_letter_topic(config: &crate::config::BusConfig, topic: &str) -> String {
    format!("{topic}{}", config.dead_letter_suffix)
}

/// Waits for a future on this thread: librdkafka's administration answers from a thread of its own, with no runtime.
fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
