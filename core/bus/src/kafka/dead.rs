//! Dead letters: records that can never be processed, kept with the reason. Every stage writes
//! them; operators list and replay them.
//!
//! A dead letter is the original record, in `TOPIC + bus.dead_letter_suffix`, with headers for the
//! reason and the origin. Replaying sends it to its original topic again and removes it from the
//! dead letters; if it still cannot be processed, it comes back as a new dead letter.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{BusError, Incoming, MAX_DEAD_BYTES, Outgoing, Producer, client, dead_letter_topic, topics, wait};
use sightline_core::config::BusConfig;
use sightline_core::{Receipt, Timestamp};

/// Headers that a dead letter adds; the record's own other headers are kept.
const HEADERS: [&str; 6] = ["reason", "topic", "partition", "offset", "stage", "time"];

/// Header of a dead letter whose value was too large and was truncated; holds the original size.
const CUT_HEADER: &str = "cut";

/// Bytes reserved for the headers of a dead letter.
const HEADER_ROOM: usize = 64 * 1024;

/// Longest reason that is kept, in bytes; a longer one is truncated.
const MAX_REASON_BYTES: usize = 4096;

/// Timeout of a request to the broker, and of a wait for the next record.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends records that can never be processed to the dead-letter topic. Clones share the producer.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    producer: Producer,
    suffix: String,
    stage: String,
}

impl DeadLetters {
    /// Sends dead letters on behalf of `stage` (for example `embed`).
    pub fn new(producer: Producer, config: &BusConfig, stage: &str) -> Self {
        Self { producer, suffix: config.dead_letter_suffix.clone(), stage: stage.to_owned() }
    }

    /// Sends `record` to the dead letters of its topic, and completes the receipt once the broker
    /// has acknowledged it. Until then, or if that never happens, the record stays open.
    pub fn send(&self, record: Incoming, reason: &str, receipt: Receipt) {
        let Incoming { topic, partition, offset, key, payload, headers } = record;
        tracing::warn!(topic, partition, offset, stage = self.stage, reason, "dead letter");
        let labels = [("topic", topic.clone()), ("stage", self.stage.clone())];
        metrics::counter!("sightline_bus_dead_letters_total", &labels).increment(1);
        let mut kept: Vec<_> = headers.into_iter().filter(|(name, _)| !HEADERS.contains(&name.as_str())).collect();
        let mut payload = payload;
        let size: usize = kept.iter().map(|(k, v)| k.len() + v.len() + 10).sum();
        if payload.len() + size + HEADER_ROOM > MAX_DEAD_BYTES {
            // A foreign record that was compressed heavily: only the front of its value is kept.
            kept.clear();
            kept.push((CUT_HEADER.into(), payload.len().to_string().into()));
            payload = payload.slice(..payload.len().min(MAX_DEAD_BYTES / 2));
        }
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
        let values = [
            reason.to_owned(),
            topic.clone(),
            partition.to_string(),
            offset.to_string(),
            self.stage.clone(),
            Timestamp::now().to_string(),
        ];
        kept.extend(HEADERS.iter().zip(values).map(|(name, value)| ((*name).to_owned(), Bytes::from(value))));
        let key = key.map(|k| String::from_utf8_lossy(&k).into_owned()).unwrap_or_default();
        let out = Outgoing { topic: format!("{topic}{}", self.suffix), key, payload, headers: kept };
        let sent = self.producer.send(out, move |result| match result {
            Ok(()) => receipt.complete(),
            Err(error) => tracing::error!(%error, "a dead letter was not kept: its record stays open"),
        });
        if let Err(error) = sent {
            tracing::error!(%error, "a dead letter was not kept: its record stays open");
        }
    }
}

/// A record that could not be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Partition and offset among the dead letters.
    pub place: (i32, i64),
    /// The topic it came from.
    pub topic: String,
    /// Partition and offset in that topic.
    pub origin: (i32, i64),
    /// Why it could not be processed.
    pub reason: String,
    /// The stage that gave up on it.
    pub stage: String,
    /// When it became a dead letter, RFC 3339.
    pub time: String,
    /// Its key: the camera.
    pub key: String,
    /// Its value, or only the front of it, see `cut`.
    pub payload: Bytes,
    /// Only the front of the value was kept; such a letter cannot be replayed.
    pub cut: bool,
    /// Its original headers.
    pub headers: Vec<(String, Bytes)>,
}

impl From<Incoming> for DeadLetter {
    fn from(record: Incoming) -> Self {
        let text = |name: &str| record.header(name).unwrap_or_default().to_owned();
        let number = |name: &str| record.header(name).and_then(|v| v.parse().ok());
        Self {
            place: (record.partition, record.offset),
            topic: text("topic"),
            origin: (number("partition").unwrap_or(-1) as i32, number("offset").unwrap_or(-1)),
            reason: text("reason"),
            stage: text("stage"),
            time: text("time"),
            key: record.key.as_ref().map(|k| String::from_utf8_lossy(k).into_owned()).unwrap_or_default(),
            cut: record.header(CUT_HEADER).is_some(),
            headers: record
                .headers
                .iter()
                .filter(|(n, _)| !HEADERS.contains(&n.as_str()) && n != CUT_HEADER)
                .cloned()
                .collect(),
            payload: record.payload,
        }
    }
}

/// The newest `limit` dead letters of `topic` (the name without the suffix), oldest of them first.
///
/// # Errors
/// A broker that cannot be reached. A missing dead-letter topic counts as empty.
pub fn list(config: &BusConfig, topic: &str, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
    let mut all: BTreeMap<(String, i32, i64), DeadLetter> = BTreeMap::new();
    scan(config, &dead_letter_topic(config, topic), |record| {
        let letter = DeadLetter::from(record);
        all.insert((letter.time.clone(), letter.place.0, letter.place.1), letter);
        if all.len() > limit {
            all.pop_first();
        }
    })?;
    Ok(all.into_values().collect())
}

/// Sends the dead letters of `topic` that `which` selects to their original topic, and removes them
/// from the dead letters; the others stay (moved to the end of their partitions). Returns how many
/// were replayed.
///
/// After a failure in the middle, some records may be in both topics. Running it again is safe:
/// duplicates do no harm.
///
/// # Errors
/// A broker that cannot be reached, or that does not take the records within a minute.
pub fn replay(config: &BusConfig, topic: &str, which: impl Fn(&DeadLetter) -> bool) -> Result<usize, BusError> {
    let producer = Producer::start(config, "sightline-replay")?;
    let dead = dead_letter_topic(config, topic);
    let (tx, rx) = std::sync::mpsc::channel();
    let (mut sent, mut replayed, mut failed) = (0usize, 0usize, None);
    let ends = scan(config, &dead, |record| {
        let raw = record.clone();
        let letter = DeadLetter::from(record);
        let again = !letter.cut && !letter.topic.is_empty() && which(&letter);
        let out = if again {
            Outgoing { topic: letter.topic, key: letter.key, payload: letter.payload, headers: letter.headers }
        } else {
            Outgoing { topic: raw.topic, key: letter.key, payload: raw.payload, headers: raw.headers }
        };
        let tx = tx.clone();
        let result = producer.send(out, move |result| {
            let _ = tx.send(result);
        });
        match result {
            Ok(()) => sent += 1,
            Err(error) => failed = Some(error),
        }
        replayed += usize::from(again && failed.is_none());
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let deadline = Instant::now() + 4 * REQUEST_TIMEOUT;
    for _ in 0..sent {
        let left = deadline.saturating_duration_since(Instant::now());
        rx.recv_timeout(left).unwrap_or(Err(BusError::Late("replaying")))?;
    }
    if sent > 0 {
        // By now every record up to these offsets is stored elsewhere: replayed, or again at the
        // end of its partition.
        let admin = topics::admin(config)?;
        let mut list = TopicPartitionList::new();
        for (partition, end) in ends {
            list.add_partition_offset(&dead, partition, Offset::Offset(end)).map_err(BusError::kafka("replaying"))?;
        }
        let deleted =
            wait(admin.delete_records(&list, &topics::options())).map_err(BusError::kafka("deleting dead letters"))?;
        for element in deleted.elements() {
            element.error().map_err(BusError::kafka("deleting dead letters"))?;
        }
    }
    Ok(replayed)
}

/// Reads a topic from its beginning to its present end. Returns the end of every partition that has
/// records.
fn scan(config: &BusConfig, topic: &str, mut each: impl FnMut(Incoming)) -> Result<Vec<(i32, i64)>, BusError> {
    let mut settings = client::settings(config, "sightline-dead-letters");
    settings.remove("statistics.interval.ms");
    // Nothing is committed: librdkafka only requires a group name.
    settings
        .set("group.id", "sightline-dead-letters")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = settings.create().map_err(BusError::kafka("reading dead letters"))?;
    let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT).map_err(BusError::kafka("asking for topics"))?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(Vec::new()) };
    let (mut ends, mut left) = (Vec::new(), BTreeMap::new());
    let mut list = TopicPartitionList::new();
    for partition in found.partitions() {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition.id(), REQUEST_TIMEOUT)
            .map_err(BusError::kafka("asking for offsets"))?;
        if low < high {
            ends.push((partition.id(), high));
            left.insert(partition.id(), high);
            list.add_partition_offset(topic, partition.id(), Offset::Offset(low))
                .map_err(BusError::kafka("reading"))?;
        }
    }
    consumer.assign(&list).map_err(BusError::kafka("reading dead letters"))?;
    let mut deadline = Instant::now() + REQUEST_TIMEOUT;
    while !left.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let record = Incoming::of(&message);
                deadline = Instant::now() + REQUEST_TIMEOUT;
                let Some(end) = left.get(&record.partition).copied() else { continue };
                if record.offset + 1 >= end {
                    left.remove(&record.partition);
                }
                if record.offset < end {
                    each(record);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                return Err(BusError::Kafka { what: "reading dead letters".into(), source: error });
            }
            _ if Instant::now() > deadline => return Err(BusError::Late("reading dead letters")),
            _ => {}
        }
    }
    Ok(ends)
}
