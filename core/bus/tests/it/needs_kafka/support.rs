//! Support for the tests of the bus: a configuration for the available broker with topics of one
//! test alone, and ways to wait.

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sightline_bus::{Consumer, Incoming, Outgoing, Producer, TopicSpec, ensure_topics};
use sightline_core::config::{BusConfig, Config};
use sightline_core::{Delivery, Receipt};

/// Longest wait for anything on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// Configuration for the available broker, with topics that no other test has.
pub fn config() -> BusConfig {
    let brokers = std::env::var("KAFKA_BROKERS").unwrap_or_else(|_| {
        panic!(
            "this test needs Apache Kafka: KAFKA_BROKERS is not set. `make test-servers` starts one and runs the tests; \
             `docker/kafka/kafka.sh start DIR` starts one and prints its address"
        )
    });
    on(&brokers)
}

/// As [`config`], for another broker.
pub fn on(brokers: &str) -> BusConfig {
    // SIGHTLINE_LOG=info shows what the bus does.
    sightline_core::telemetry::init(false, "off");
    let test = uuid::Uuid::new_v4().simple().to_string();
    BusConfig {
        brokers: brokers.to_owned(),
        crops_topic: format!("crops-{test}"),
        sightings_topic: format!("sightings-{test}"),
        cameras_topic: format!("cameras-{test}"),
        nodes_topic: format!("nodes-{test}"),
        partitions: 4,
        ..Config::layered(None, []).unwrap().bus
    }
}

/// Creates the topic `crops` of this configuration.
pub fn topic(config: &BusConfig) -> String {
    ensure_topics(config, &[TopicSpec::aging(&config.crops_topic)]).unwrap();
    config.crops_topic.clone()
}

pub fn record(topic: &str, key: &str, payload: impl Into<Bytes>) -> Outgoing {
    Outgoing { topic: topic.into(), key: key.into(), payload: payload.into(), headers: Vec::new() }
}

/// Sends texts and waits until the broker has acknowledged all of them.
pub fn send_all(producer: &Producer, topic: &str, records: impl IntoIterator<Item = (String, String)>) {
    for (key, text) in records {
        producer.send(record(topic, &key, text), |result| result.unwrap()).unwrap();
    }
    assert!(producer.flush(LONG), "{:?}", producer.fault());
}

pub fn text(record: &Incoming) -> String {
    String::from_utf8(record.payload.to_vec()).unwrap()
}

/// The next `count` records.
pub fn take(consumer: &Consumer, count: usize) -> Vec<(Incoming, Receipt)> {
    let deadline = Instant::now() + LONG;
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came; {:?}", all.len(), consumer.fault());
        if let Some(Delivery { event, receipt }) = consumer.next(Duration::from_millis(200)) {
            all.push((event, receipt));
        }
    }
    all
}

/// Asserts that nothing comes within some seconds, though the consumer has its partitions.
pub fn nothing_comes(consumer: &Consumer) {
    until("the consumer has partitions", || !consumer.partitions().is_empty());
    if let Some(delivery) = consumer.next(Duration::from_secs(2)) {
        panic!("{:?} came again", text(&delivery.event));
    }
}

pub fn until(what: &str, done: impl FnMut() -> bool) {
    sightline_testing::until(LONG, what, done);
}

/// A broker for one test alone, which may be stopped and killed.
pub struct Broker {
    folder: tempfile::TempDir,
    pub address: String,
}

impl Broker {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = Self { folder, address: String::new() };
        broker.address = broker.script("start");
        broker
    }

    /// `start`, `stop` or `kill`.
    pub fn script(&self, what: &str) -> String {
        let mut command = Command::new(sightline_testing::repository("docker/kafka/kafka.sh"));
        let done = command.arg(what).arg(self.folder.path()).env("SIGHTLINE_KAFKA_HEAP", "256m").output().unwrap();
        assert!(done.status.success(), "kafka.sh {what}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.script("kill");
    }
}
