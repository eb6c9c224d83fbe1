//! What all Kafka clients have in common: settings, log, and whether the broker answers.
//!
//! `SIGHTLINE_KAFKA_<KEY>` in the environment sets librdkafka's `<key>` (lower case, `_` for `.`):
//! encryption, passwords, and whatever else a site needs to reach its brokers. Settings that this
//! module's guarantees depend on cannot be set this way.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;

use sightline_core::config::BusConfig;

/// Prefix of the environment variables that hold librdkafka settings.
const PREFIX: &str = "SIGHTLINE_KAFKA_";

/// Interval of librdkafka's statistics in milliseconds: how late `fault()` may be.
const STATISTICS_MS: &str = "1000";

/// Settings that the environment cannot change.
const RESERVED_SETTINGS: [&str; 11] = [
    "bootstrap.servers",
    "client.id",
    "group.id",
    "acks",
    "request.required.acks",
    "enable.idempotence",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "message.timeout.ms",
    "delivery.timeout.ms",
];

/// Locks a mutex even if poisoned: a panic while holding one of this module's locks leaves nothing
/// half-changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long closing a client may take. librdkafka notifies the group's coordinator, and waits long
/// when there is none.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

/// Runs `close`, which drops a client, on a thread of its own and waits for it at most
/// [`CLOSE_TIMEOUT`]: an absent broker must not keep the process from ending.
pub(super) fn close_client(close: impl FnOnce() + Send + 'static) {
    let (tx, rx) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("bus-end".into()).spawn(move || {
        close();
        let _ = tx.send(());
    });
    match thread {
        Ok(_) if rx.recv_timeout(CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) => {
            tracing::warn!("the broker does not answer; the group learns of this process's end by its silence");
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "no thread to end a client"),
    }
}

/// Settings of a client called `client_id`.
pub(super) fn settings(config: &BusConfig, client_id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", client_id)
        .set("statistics.interval.ms", STATISTICS_MS)
        .set("socket.keepalive.enable", "true")
        // Request timeout in milliseconds.
        .set("socket.timeout.ms", "20000")
        // New topics and partitions are noticed within this time, in milliseconds.
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "5000")
        // Brokers close idle connections; that is not worth a log line.
        .set("log.connection.close", "false");
    client.set_log_level(RDKafkaLogLevel::Notice);
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    for (key, value) in from_environment(std::env::vars_os().filter_map(text)) {
        client.set(key, value);
    }
    client
}

fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        let key = key.to_ascii_lowercase().replace('_', ".");
        if RESERVED_SETTINGS.contains(&key.as_str()) {
            tracing::warn!(variable = name, "not taken: what this would set is Sightline's to decide");
        } else {
            all.push((key, value));
        }
    }
    all
}

/// The health of a client: whether the broker answers, according to librdkafka.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<HealthState>,
}

#[derive(Debug)]
struct HealthState {
    /// Why the broker does not answer.
    broker: Option<String>,
    /// Why this process is not a member of the group yet.
    group: Option<String>,
}

impl Health {
    pub(super) fn new(grouped: bool) -> Self {
        let group = grouped.then(|| "not yet a member of the consumer group".to_owned());
        Self { state: Mutex::new(HealthState { broker: Some("no answer from the broker yet".into()), group }) }
    }

    pub(super) fn fault(&self) -> Option<String> {
        let state = lock(&self.state);
        state.broker.clone().or_else(|| state.group.clone())
    }

    pub(super) fn broker_fault(&self) -> Option<String> {
        lock(&self.state).broker.clone()
    }

    /// Sets or clears the fault of the broker, and logs a change.
    pub(super) fn set(&self, fault: Option<String>) {
        let mut state = lock(&self.state);
        match (&state.broker, &fault) {
            (None, Some(reason)) => tracing::warn!(reason, "the bus is disturbed"),
            (Some(_), None) => tracing::info!("the bus answers"),
            _ => {}
        }
        state.broker = fault;
    }

    /// Clears the fault: the broker has delivered or acknowledged a record.
    pub(super) fn answered(&self) {
        if self.broker_fault().is_some() {
            self.set(None);
        }
    }

    pub(super) fn joined(&self) {
        lock(&self.state).group = None;
    }

    /// Handles an error that librdkafka reports about the client as a whole.
    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => self.set(Some(format!("no broker can be reached: {reason}"))),
            Some(
                Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL | Code::TopicAuthorizationFailed,
            ) => {
                self.set(Some(format!("the broker refuses this process: {reason}")));
            }
            _ => tracing::debug!(%error, reason, "bus"),
        }
    }

    /// Handles librdkafka's regular statistics, and returns them parsed.
    pub(super) fn statistics(&self, json: &[u8]) -> Option<Statistics> {
        let statistics: Statistics = serde_json::from_slice(json)
            .map_err(|error| tracing::debug!(%error, "librdkafka's statistics cannot be read"))
            .ok()?;
        if statistics.brokers.values().any(|b| b.state == "UP") {
            self.set(None);
        } else if self.broker_fault().is_none() {
            let brokers: Vec<_> = statistics.brokers.values().map(|b| format!("{} is {}", b.name, b.state)).collect();
            self.set(Some(format!("no broker is connected: {}", brokers.join(", "))));
        }
        if statistics.cgrp.as_ref().is_some_and(|group| group.join_state == "steady") {
            self.joined();
        }
        Some(statistics)
    }
}

/// The part of librdkafka's statistics that is used here.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, BrokerStatistics>,
    #[serde(default)]
    pub(super) topics: HashMap<String, TopicStatistics>,
    cgrp: Option<GroupStatistics>,
}

#[derive(Debug, Deserialize)]
struct BrokerStatistics {
    name: String,
    state: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct TopicStatistics {
    #[serde(default)]
    pub(super) partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PartitionStatistics {
    pub(super) partition: i32,
    /// The newest known offset plus one.
    pub(super) hi_offset: i64,
}

#[derive(Debug, Deserialize)]
struct GroupStatistics {
    join_state: String,
}

/// Writes librdkafka's log lines to `tracing`.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel as Level;
    match level {
        Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        Level::Notice | Level::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
        Level::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_sets_all_but_reserved_settings() {
        let variables = [
            ("SIGHTLINE_KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
            ("SIGHTLINE_KAFKA_SASL_PASSWORD", "Is_Kept"),
            ("SIGHTLINE_KAFKA_ACKS", "0"),
            ("SIGHTLINE__BUS__BROKERS", "x"),
        ];
        let set = from_environment(variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let wanted = [("security.protocol", "SASL_SSL"), ("sasl.password", "Is_Kept")];
        assert_eq!(set, wanted.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn health_follows_errors_and_statistics() {
        let health = Health::new(true);
        assert!(health.fault().is_some_and(|f| f.contains("no answer")));
        let up = br#"{"brokers": {"a": {"name": "a:1/0", "state": "UP", "nodeid": 0}}, "topics": {},
                     "cgrp": {"state": "up", "join_state": "wait-join"}}"#;
        assert!(health.statistics(up).is_some());
        assert!(health.fault().is_some_and(|f| f.contains("not yet a member")));
        health.joined();
        assert_eq!(health.fault(), None);
        health.error(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(health.fault().is_some_and(|f| f.contains("1/1 brokers")));
        assert!(health.statistics(up).is_some());
        assert_eq!(health.fault(), None);
        let down = br#"{"brokers": {"a": {"name": "a:1/0", "state": "DOWN"}}}"#;
        assert!(health.statistics(down).is_some());
        assert!(health.fault().is_some_and(|f| f.contains("a:1/0 is DOWN")));
    }
}
