//! Apache Kafka as the bus between processes, with at-least-once delivery: every record sent
//! arrives, and every record received stays open until it is stored.
//!
//! ```text
//! Producer: send -> (blocks above bus.in_flight_bytes)
//!           -> librdkafka: idempotent, acks=all, retries without end -> done(Ok)
//! Consumer: poll thread -> open deliveries (pauses above bus.in_flight_bytes) -> next()
//!           -> receipt -> commit up to the first open record
//! ```
//!
//! Nothing here gives up: while a broker is absent, retries back off with jitter and `fault()` says
//! so. Only records for which no retry can help, such as one that is too large, fail with an error.
//! All code that talks to Kafka is in this module; the rest of Sightline uses [`Outgoing`],
//! [`Incoming`] and receipts.

pub mod cameras;
mod client;
mod compacted;
mod consumer;
pub mod dead;
mod producer;
mod topics;

use bytes::Bytes;
use rdkafka::error::KafkaError;

pub use cameras::{CameraDirectory, CameraPlacement, CameraPublisher, request_drain};
pub use consumer::Consumer;
pub use dead::{DeadLetter, DeadLetters};
pub use producer::{Producer, TrySendError};
pub use topics::{TopicKind, TopicSpec, await_topics, ensure_topics};

/// Largest record of an ordinary topic in bytes, key and headers included: Kafka's default limit
/// (`message.max.bytes`), set explicitly on the topics that Sightline creates.
/// [`crate::wire::MAX_BYTES`] is smaller.
pub const MAX_RECORD_BYTES: usize = 1_048_588;

/// The same for dead-letter topics, so that the largest record fits together with the headers that
/// a dead letter adds.
pub const MAX_DEAD_BYTES: usize = 2 * MAX_RECORD_BYTES;

/// Bytes that Kafka itself adds to a record (lengths, offsets, checksums of its batch), rounded up.
const FRAMING_BYTES: usize = 128;

/// Errors of the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// librdkafka does not accept a setting.
    #[error("bus settings: {0}")]
    Settings(String),
    /// librdkafka or the broker reports an error; a retry may help.
    #[error("{what}: {source}")]
    Kafka {
        /// What was attempted.
        what: String,
        /// The library's error.
        source: KafkaError,
    },
    /// A topic is missing or configured in a way that Sightline cannot use.
    #[error("topic {topic:?} {why}")]
    Topic {
        /// Its name.
        topic: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The record is larger than the topic accepts.
    #[error("a record of {bytes} bytes for topic {topic:?}, which takes {limit}")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Size of the record with key and headers.
        bytes: usize,
        /// Largest record that the topic accepts.
        limit: usize,
    },
    /// The broker refuses the record; no retry will help.
    #[error("the broker refuses a record for topic {topic:?}: {why}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker says.
        why: String,
    },
    /// The operation timed out.
    #[error("{0} was not done in time")]
    Late(&'static str),
    /// The producer was closed before the record was acknowledged.
    #[error("the producer is closed")]
    Closed,
}

impl BusError {
    /// Whether a retry with the same record would fail again.
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

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic to send it to.
    pub topic: String,
    /// Records of one key stay in order. Empty: no key, any partition.
    pub key: String,
    /// The value. Empty: no value, a tombstone, which removes the key from a compacted topic.
    pub payload: Bytes,
    /// Headers.
    pub headers: Vec<(String, Bytes)>,
}

impl Outgoing {
    /// Approximate size on the broker, in bytes.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len() + 10).sum();
        self.key.len() + self.payload.len() + headers + FRAMING_BYTES
    }
}

/// A record that was received, with its place in the topic.
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

    /// Approximate size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len() + 64).sum();
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len) + self.topic.len() + headers + FRAMING_BYTES
    }

    /// A header's value as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// The dead-letter topic of `topic`.
pub fn dead_letter_topic(config: &sightline_core::config::BusConfig, topic: &str) -> String {
    format!("{topic}{}", config.dead_letter_suffix)
}

/// Blocks this thread on a future: librdkafka's admin client completes futures from a thread of its
/// own, without a runtime.
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
