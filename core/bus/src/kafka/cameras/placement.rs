//! The placement on Kafka: an [`Agent`] that reads the topics `nodes` and `cameras`, and writes its
//! heartbeats and holds to `nodes`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::message::{BorrowedMessage, Message as _};
use sightline_core::config::BusConfig;
use sightline_core::{CameraId, Timestamp};

use super::super::client::lock;
use super::super::compacted::{CompactedReader, Follower};
use super::super::{BusError, Outgoing, Producer, TrySendError};
use super::CameraDirectory;
use crate::placement::{Agent, CameraChange, Record, Verdict};

struct State {
    agent: Agent,
    /// Records to write, in this order.
    unsent: VecDeque<Record>,
    /// The cameras of which frames arrive, and since when.
    covered: BTreeMap<CameraId, Timestamp>,
    /// Version of the directory that the agent knows.
    version: u64,
    /// The node has left: nothing is written any more.
    left: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when there may be changes for the node.
    changed: Condvar,
    directory: CameraDirectory,
    producer: Producer,
    topic: String,
}

/// This node's part in the placement of the cameras.
pub struct CameraPlacement {
    shared: Arc<Shared>,
    reader: CompactedReader,
}

impl CameraPlacement {
    /// Joins the placement as the node `node`, which can run `capacity` cameras of the topic. The
    /// topics must exist, but the broker need not be reachable.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn start(config: &BusConfig, producer: Producer, node: &str, capacity: u32) -> Result<Self, BusError> {
        let state = State {
            agent: Agent::new(node, capacity),
            unsent: VecDeque::new(),
            covered: BTreeMap::new(),
            version: 0,
            left: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            directory: CameraDirectory::start(config, node)?,
            producer,
            topic: config.nodes_topic.clone(),
        });
        let follower = Arc::clone(&shared) as Arc<dyn Follower>;
        let reader = CompactedReader::start(config, &config.nodes_topic, node, follower)?;
        Ok(Self { shared, reader })
    }

    /// The next changes, in this order; none after `timeout`. To be called by one thread only:
    /// calling again means that the previous changes have been made.
    pub fn next(&self, timeout: Duration) -> Vec<CameraChange> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            let changes = state.agent.take_changes();
            let left = deadline.saturating_duration_since(Instant::now());
            if !changes.is_empty() || left.is_zero() {
                return changes;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Notes of which cameras frames arrive, and since when. To be called every second or so.
    pub fn set_covered(&self, covered: BTreeMap<CameraId, Timestamp>) {
        lock(&self.shared.state).covered = covered;
    }

    /// Cameras that no node can run and that this node is to report, with the reason.
    pub fn unplaced(&self) -> BTreeMap<CameraId, String> {
        lock(&self.shared.state).agent.unplaced().clone()
    }

    /// The epoch in which this node took the camera; `None` when it never ran here.
    pub fn epoch(&self, camera: &CameraId) -> Option<i64> {
        lock(&self.shared.state).agent.epoch(camera)
    }

    /// Whether a record of the camera, written in `epoch` at the time `at`, may be sent.
    pub fn verdict(&self, camera: &CameraId, epoch: i64, at: Timestamp) -> Verdict {
        lock(&self.shared.state).agent.verdict(camera, epoch, at, Instant::now())
    }

    /// Lets the other nodes know that this one ends.
    pub fn drain(&self) {
        lock(&self.shared.state).agent.drain();
    }

    /// Lets go of all cameras, which must have stopped, and leaves. Returns whether the broker has
    /// taken that within `timeout`; otherwise the others learn it when the lease is over.
    pub fn leave(&self, timeout: Duration) -> bool {
        let mut state = lock(&self.shared.state);
        if state.left {
            return true;
        }
        state.left = true;
        let records = state.agent.leave(Instant::now(), Timestamp::now());
        state.unsent.extend(records);
        self.shared.send(&mut state);
        let all = state.unsent.is_empty();
        drop(state);
        self.shared.producer.flush(timeout) && all
    }

    /// Why this node takes no part in the placement; `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        let agent = || lock(&self.shared.state).agent.fault(Instant::now());
        self.reader.fault().or_else(|| self.shared.directory.fault()).or_else(agent)
    }
}

/// Asks the node `node` to give its cameras away (`true`), or to take cameras again. It stays so
/// over restarts of the node.
///
/// # Errors
/// A broker that does not take the request in time.
pub fn request_drain(config: &BusConfig, node: &str, drain: bool) -> Result<(), BusError> {
    let producer = Producer::start(config, "sightline-drain")?;
    producer.send_and_wait(outgoing(&config.nodes_topic, &Record::Drain(node.to_owned(), drain)), super::ACK_TIMEOUT)
}

fn outgoing(topic: &str, record: &Record) -> Outgoing {
    Outgoing { topic: topic.to_owned(), key: record.key(), payload: record.value().into(), headers: Vec::new() }
}

impl Shared {
    /// Gives the records to the producer, as far as it has room.
    fn send(&self, state: &mut State) {
        while let Some(record) = state.unsent.pop_front() {
            let done = |result: Result<(), BusError>| {
                if let Err(error) = result {
                    tracing::error!(%error, "a record of this node's placement was not written");
                }
            };
            match self.producer.try_send(outgoing(&self.topic, &record), done) {
                Ok(()) => {}
                Err(TrySendError::Full(..)) => return state.unsent.push_front(record),
                Err(TrySendError::Failed(error)) => done(Err(error)),
            }
        }
    }
}

impl Follower for Shared {
    fn restarted(&self) {
        lock(&self.state).agent.restart();
    }

    fn record(&self, message: &BorrowedMessage<'_>) {
        let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        match Record::parse(key, value) {
            Ok(record) => {
                // The broker stamps this topic's records when it takes them.
                let at = Timestamp::from_micros(message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000));
                lock(&self.state).agent.record(message.offset(), at, record, Instant::now());
            }
            Err(error) => {
                tracing::warn!(offset = message.offset(), %error, "not a record of the camera nodes");
                metrics::counter!("sightline_bus_bad_nodes_total").increment(1);
            }
        }
    }

    fn end_reached(&self) {
        lock(&self.state).agent.end_reached();
    }

    fn tick(&self) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if state.left {
            return;
        }
        let version = self.directory.changes(state.version, Duration::ZERO);
        if version != state.version {
            state.version = version;
            state.agent.set_cameras(self.directory.all());
        }
        let records = state.agent.step(Instant::now(), Timestamp::now(), &state.covered);
        state.unsent.extend(records);
        self.send(state);
        metrics::gauge!("sightline_bus_placed_cameras").set(state.agent.load() as f64);
        drop(guard);
        self.changed.notify_all();
    }
}
