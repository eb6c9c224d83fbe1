//! The topics have to be there, and to be what Sightline relies on: missing ones are created, the others are looked at.
//!
//! A topic of pictures that is compacted would lose all but the newest of a camera; a topic of cameras that is not would
//! forget cameras with age. Both are errors that name what to change. A number of partitions or an age limit that differs
//! from the configuration is the operator's choice, and only logged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

use super::{Backoff, BusError, MAX_DEAD_BYTES, MAX_RECORD_BYTES, client, wait};
use crate::config::BusConfig;
use crate::shutdown::Shutdown;

/// How long one request to the broker may take.
const REQUEST: Duration = Duration::from_secs(15);

/// How long it may take until a broker knows of a topic that was created.
const SPREAD: Duration = Duration::from_secs(10);

/// Dead letters are kept so many times longer than other records: somebody has to find the time to look at them.
const DEAD_AGE: u64 = 10;

/// A topic that has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Only the newest record of every key counts, and stays for ever.
    pub compacted: bool,
}

impl TopicSpec {
    /// A topic whose records age.
    pub fn aging(name: impl Into<String>) -> Self {
        Self { name: name.into(), compacted: false }
    }

    /// A topic that keeps the newest record of every key.
    pub fn compacted(name: impl Into<String>) -> Self {
        Self { name: name.into(), compacted: true }
    }
}

/// A client that may create and describe topics.
pub(super) fn admin(config: &BusConfig) -> Result<AdminClient<DefaultClientContext>, BusError> {
    let mut settings: ClientConfig = client::settings(config, "sightline-admin");
    settings.remove("statistics.interval.ms");
    settings.create().map_err(BusError::kafka("starting the administration client"))
}

pub(super) fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}

/// Creates what is missing and checks the rest; blocking; one attempt.
///
/// # Errors
/// A broker that cannot be reached or refuses, or a topic that is not as it has to be.
pub fn ensure_topics(config: &BusConfig, topics: &[TopicSpec]) -> Result<(), BusError> {
    let admin = admin(config)?;
    let metadata = admin.inner().fetch_metadata(None, REQUEST).map_err(BusError::kafka("asking for topics"))?;
    let there: BTreeMap<&str, usize> =
        metadata.topics().iter().filter(|t| t.error().is_none()).map(|t| (t.name(), t.partitions().len())).collect();
    let (old, missing): (Vec<_>, Vec<_>) = topics.iter().partition(|t| there.contains_key(t.name.as_str()));
    create(config, &admin, &missing)?;
    for topic in &old {
        let partitions = there.get(topic.name.as_str()).copied().unwrap_or_default();
        if partitions != config.partitions.unsigned_abs() as usize {
            let (topic, wanted) = (&topic.name, config.partitions);
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
    // All replicas in sync have a record when it is acknowledged: with three copies, that shall be two at least.
    let in_sync = if config.replication >= 3 { "2" } else { "1" };
    let age = |dead: bool| (config.retention_hours * if dead { DEAD_AGE } else { 1 } * 3_600_000).to_string();
    let (retention, dead_retention) = (age(false), age(true));
    let (size, dead_size) = (MAX_RECORD_BYTES.to_string(), MAX_DEAD_BYTES.to_string());
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|topic| {
            let dead = topic.name.ends_with(&config.dead_letter_suffix);
            let new = NewTopic::new(&topic.name, config.partitions, TopicReplication::Fixed(config.replication))
                .set("max.message.bytes", if dead { &dead_size } else { &size })
                .set("min.insync.replicas", in_sync);
            if topic.compacted {
                // Old values go within a minute or so; whoever reads the topic may lag by a day.
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
            Ok(topic) => tracing::info!(topic, partitions = config.partitions, "topic created"),
            // Another process was quicker.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(BusError::Topic { topic, why: format!("cannot be created: {code}") }),
        }
    }
    Ok(())
}

fn check(config: &BusConfig, admin: &AdminClient<DefaultClientContext>, topics: &[TopicSpec]) -> Result<(), BusError> {
    let specifiers: Vec<_> = topics.iter().map(|t| ResourceSpecifier::Topic(&t.name)).collect();
    let until = Instant::now() + SPREAD;
    let described = loop {
        let described =
            wait(admin.describe_configs(&specifiers, &options())).map_err(BusError::kafka("describing topics"))?;
        // A topic that was just created is unknown to the broker, or described as nothing, for a moment.
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
        if compacted != topic.compacted {
            let wanted = if topic.compacted { "compact" } else { "delete" };
            return Err(bad(format!("has cleanup.policy={policy}; it has to be {wanted}")));
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

/// The same, with growing pauses for ever until it works; logs what is wrong.
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
