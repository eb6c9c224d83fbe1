//! Creates missing topics, and checks that existing ones are configured as Sightline needs.
//!
//! A topic of pictures that is compacted would lose all but the newest picture of a camera; a topic
//! of cameras that is not compacted would forget old cameras. Both are errors that name what to
//! change. A number of partitions or a retention that differs from the configuration is the
//! operator's choice, and only logged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

use super::{BusError, MAX_DEAD_BYTES, MAX_RECORD_BYTES, client, wait};
use sightline_core::Backoff;
use sightline_core::config::BusConfig;
use sightline_core::shutdown::Shutdown;

/// Timeout of one request to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// How long it may take until every broker knows a new topic.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Dead letters are kept this many times longer than other records, so that somebody finds the time
/// to look at them.
const DEAD_LETTER_RETENTION_FACTOR: u64 = 10;

/// A topic that Sightline needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How its records are kept.
    pub kind: TopicKind,
}

/// How a topic keeps its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// Records expire with age.
    Aging,
    /// It keeps the newest record of every key, for ever.
    Compacted,
    /// As `Compacted`, with one partition and stamped by the broker's clock, so that all readers
    /// read the same records in the same order with the same times.
    Ordered,
}

impl TopicSpec {
    /// A topic whose records expire with age.
    pub fn aging(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: TopicKind::Aging }
    }

    /// A topic that keeps the newest record of every key.
    pub fn compacted(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: TopicKind::Compacted }
    }

    /// A compacted topic whose records all readers see in one order.
    pub fn ordered(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: TopicKind::Ordered }
    }

    fn partitions(&self, config: &BusConfig) -> i32 {
        if self.kind == TopicKind::Ordered { 1 } else { config.partitions }
    }
}

/// An admin client, which can create and describe topics.
pub(super) fn admin(config: &BusConfig) -> Result<AdminClient<DefaultClientContext>, BusError> {
    let mut settings: ClientConfig = client::settings(config, "sightline-admin");
    settings.remove("statistics.interval.ms");
    settings.create().map_err(BusError::kafka("starting the administration client"))
}

pub(super) fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

/// Creates missing topics and checks the others. Blocks; makes one attempt.
///
/// # Errors
/// A broker that cannot be reached or refuses, or a topic with an unusable configuration.
pub fn ensure_topics(config: &BusConfig, topics: &[TopicSpec]) -> Result<(), BusError> {
    let admin = admin(config)?;
    let metadata = admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(BusError::kafka("asking for topics"))?;
    let there: BTreeMap<&str, usize> =
        metadata.topics().iter().filter(|t| t.error().is_none()).map(|t| (t.name(), t.partitions().len())).collect();
    let (old, missing): (Vec<_>, Vec<_>) = topics.iter().partition(|t| there.contains_key(t.name.as_str()));
    create(config, &admin, &missing)?;
    for topic in &old {
        let partitions = there.get(topic.name.as_str()).copied().unwrap_or_default();
        let wanted = topic.partitions(config);
        if partitions != wanted.unsigned_abs() as usize {
            if topic.kind == TopicKind::Ordered {
                let why = format!("has {partitions} partitions; it has to have one");
                return Err(BusError::Topic { topic: topic.name.clone(), why });
            }
            let topic = &topic.name;
            tracing::info!(topic, partitions, wanted, "another number of partitions than configured; it stays");
        }
    }
    check(config, &admin, topics)
}

fn create(
    config: &BusConfig,
    admin: &AdminClient<DefaultClientContext>,
    missing: &[&TopicSpec],
) -> Result<(), BusError> {
    if missing.is_empty() {
        return Ok(());
    }
    // A record is acknowledged when all in-sync replicas have it: with three replicas, require at
    // least two in sync.
    let in_sync = if config.replication >= 3 { "2" } else { "1" };
    let age = |dead: bool| {
        (config.retention_hours * if dead { DEAD_LETTER_RETENTION_FACTOR } else { 1 } * 3_600_000).to_string()
    };
    let (retention, dead_retention) = (age(false), age(true));
    let (size, dead_size) = (MAX_RECORD_BYTES.to_string(), MAX_DEAD_BYTES.to_string());
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|topic| {
            let dead = topic.name.ends_with(&config.dead_letter_suffix);
            let new = NewTopic::new(&topic.name, topic.partitions(config), TopicReplication::Fixed(config.replication))
                .set("max.message.bytes", if dead { &dead_size } else { &size })
                .set("min.insync.replicas", in_sync);
            if topic.kind != TopicKind::Aging {
                let new = if topic.kind == TopicKind::Ordered {
                    // A reader that lags by minutes still sees every record.
                    new.set("message.timestamp.type", "LogAppendTime").set("min.compaction.lag.ms", "600000")
                } else {
                    new
                };
                // Old values are removed within a minute or so; tombstones stay for a day, so
                // readers may lag by a day.
                new.set("cleanup.policy", "compact")
                    .set("segment.ms", "600000")
                    .set("min.cleanable.dirty.ratio", "0.1")
                    .set("delete.retention.ms", "86400000")
            } else {
                new.set("cleanup.policy", "delete").set("retention.ms", if dead { &dead_retention } else { &retention })
            }
        })
        .collect();
    let results = wait(admin.create_topics(&new, &options())).map_err(BusError::kafka("creating topics"))?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!(topic, "topic created"),
            // Another process has created it meanwhile.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(BusError::Topic { topic, why: format!("cannot be created: {code}") }),
        }
    }
    Ok(())
}

fn check(config: &BusConfig, admin: &AdminClient<DefaultClientContext>, topics: &[TopicSpec]) -> Result<(), BusError> {
    let specifiers: Vec<_> = topics.iter().map(|t| ResourceSpecifier::Topic(&t.name)).collect();
    let until = Instant::now() + PROPAGATION_TIMEOUT;
    let described = loop {
        let described =
            wait(admin.describe_configs(&specifiers, &options())).map_err(BusError::kafka("describing topics"))?;
        // For a moment a new topic is unknown to the broker, or described without settings.
        let young = |described: &ConfigResourceResult| match described {
            Ok(described) => described.get("cleanup.policy").is_none(),
            Err(code) => *code == RDKafkaErrorCode::UnknownTopicOrPartition,
        };
        if !described.iter().any(young) || Instant::now() >= until {
            break described;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    for (topic, described) in topics.iter().zip(described) {
        let bad = |why: String| BusError::Topic { topic: topic.name.clone(), why };
        let described = described.map_err(|code| bad(format!("cannot be described: {code}")))?;
        let value = |key: &str| described.get(key).and_then(|e| e.value.clone()).unwrap_or_default();
        let policy = value("cleanup.policy");
        let compacted = policy.split(',').any(|p| p.trim() == "compact");
        let wants_compaction = topic.kind != TopicKind::Aging;
        if compacted != wants_compaction {
            let wanted = if wants_compaction { "compact" } else { "delete" };
            return Err(bad(format!("has cleanup.policy={policy}; it has to be {wanted}")));
        }
        let stamp = value("message.timestamp.type");
        if topic.kind == TopicKind::Ordered && stamp != "LogAppendTime" {
            return Err(bad(format!("has message.timestamp.type={stamp}; it has to be LogAppendTime")));
        }
        let dead = topic.name.ends_with(&config.dead_letter_suffix);
        let wanted = if dead { MAX_DEAD_BYTES } else { MAX_RECORD_BYTES };
        let size = value("max.message.bytes");
        if size.parse::<usize>().is_ok_and(|s| s < wanted) {
            return Err(bad(format!("has max.message.bytes={size}; it has to be {wanted} or more")));
        }
        let age = value("retention.ms");
        let configured = config.retention_hours * 3_600_000;
        if !compacted && !dead && age.parse::<u64>().is_ok_and(|a| a < configured) {
            tracing::warn!(
                topic = topic.name,
                age_ms = age,
                configured_ms = configured,
                "records go earlier than configured"
            );
        }
    }
    Ok(())
}

/// As [`ensure_topics`], retried with back-off until it works; logs each failure.
///
/// # Errors
/// Settings that librdkafka does not take, or [`BusError::Closed`] when `shutdown` comes first.
pub fn await_topics(config: &BusConfig, topics: &[TopicSpec], shutdown: &Shutdown) -> Result<(), BusError> {
    let mut backoff = Backoff::server();
    loop {
        if shutdown.is_triggered() {
            return Err(BusError::Closed);
        }
        match ensure_topics(config, topics) {
            Ok(()) => return Ok(()),
            Err(error @ BusError::Settings(_)) => return Err(error),
            Err(error) => {
                let pause = backoff.pause();
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "the topics are not there yet");
                let until = Instant::now() + pause;
                while Instant::now() < until && !shutdown.is_triggered() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}
