//! The share of the cameras that one node runs: those of the partitions that the consumer group
//! assigns to it.
//!
//! An assigned partition is read from its beginning. The node gets its cameras only when the end is
//! reached, so that it does not start what was removed long ago. When a partition is revoked, its
//! cameras stop first: the partition is released once the node has taken the last
//! [`CameraChange::Stop`] and has called [`CameraShare::next`] again. Two nodes therefore run a
//! camera at the same time for no longer than that takes, except after a node was declared dead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::super::BusError;
use super::super::client::{self, Health, lock};
use super::super::consumer::{HEARTBEAT_MS, SESSION_MS};
use super::CameraChange;
use sightline_core::Backoff;
use sightline_core::CameraId;
use sightline_core::config::{BusConfig, CameraConfig};

const POLL: Duration = Duration::from_millis(100);

/// The cameras of one partition.
#[derive(Debug, Default)]
struct PartitionCameras {
    cameras: BTreeMap<CameraId, CameraConfig>,
    /// Its end was reached once, so `cameras` run.
    loaded: bool,
}

/// The known cameras, and the changes that the node has not taken yet.
#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<i32, PartitionCameras>,
    queue: VecDeque<CameraChange>,
    /// Number of calls of `next`, and the number of the call that took the last change.
    calls: u64,
    last_change_call: u64,
    closed: bool,
}

impl State {
    fn assign(&mut self, partition: i32) {
        self.partitions.insert(partition, PartitionCameras::default());
    }

    fn record(&mut self, partition: i32, id: CameraId, value: Option<CameraConfig>) {
        let Some(part) = self.partitions.get_mut(&partition) else { return };
        let before = match &value {
            Some(config) => part.cameras.insert(id.clone(), config.clone()),
            None => part.cameras.remove(&id),
        };
        if part.loaded && before != value {
            self.queue.push_back(value.map_or(CameraChange::Stop(id), CameraChange::Run));
        }
    }

    fn end(&mut self, partition: i32) {
        let Some(part) = self.partitions.get_mut(&partition).filter(|p| !p.loaded) else { return };
        part.loaded = true;
        self.queue.extend(part.cameras.values().cloned().map(CameraChange::Run));
    }

    fn revoke(&mut self, partition: i32) {
        let Some(part) = self.partitions.remove(&partition).filter(|p| p.loaded) else { return };
        self.queue.extend(part.cameras.into_keys().map(CameraChange::Stop));
    }

    fn running(&self) -> usize {
        self.partitions.values().filter(|p| p.loaded).map(|p| p.cameras.len()).sum()
    }

    /// Whether the node has made all changes: it has taken the last one, and has called `next`
    /// since.
    fn idle(&self) -> bool {
        self.queue.is_empty() && self.calls > self.last_change_call
    }
}

struct Shared {
    state: Mutex<State>,
    /// Notified when a change has come, or at the end.
    arrived: Condvar,
    /// Notified when the node calls `next`.
    polled: Condvar,
    health: Health,
    stop: AtomicBool,
    drain: Duration,
    topic: String,
}

/// This node's share of the cameras.
pub struct CameraShare {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl CameraShare {
    /// Joins the consumer group `group`; the broker need not be reachable yet.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn start(config: &BusConfig, group: &str, client_id: &str) -> Result<Self, BusError> {
        let mut settings = client::settings(config, client_id);
        for (key, value) in [("session.timeout.ms", SESSION_MS), ("heartbeat.interval.ms", HEARTBEAT_MS)] {
            if settings.get(key).is_none() {
                settings.set(key, value);
            }
        }
        settings
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("partition.assignment.strategy", "cooperative-sticky");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            polled: Condvar::new(),
            health: Health::new(true),
            stop: AtomicBool::new(false),
            drain: Duration::from_secs_f64(config.drain_seconds),
            topic: config.cameras_topic.clone(),
        });
        let first = shared.join(&settings)?;
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bus-share".into())
            .spawn(move || own.run(&settings, first))
            .map_err(|e| BusError::Settings(format!("no thread for the cameras: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The next change, or `None` after `timeout`. To be called by one thread only: calling again
    /// means that the previous change has been made.
    pub fn next(&self, timeout: Duration) -> Option<CameraChange> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        state.calls += 1;
        self.shared.polled.notify_all();
        loop {
            if let Some(change) = state.queue.pop_front() {
                state.last_change_call = state.calls;
                return Some(change);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return None;
            }
            state = self.shared.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why no changes come; `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        self.shared.health.fault()
    }
}

impl Drop for CameraShare {
    /// Leaves the group at once, so that other nodes take over.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.polled.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn join(self: &Arc<Self>, settings: &ClientConfig) -> Result<BaseConsumer<Context>, BusError> {
        let context = Context { shared: Arc::clone(self) };
        let consumer: BaseConsumer<Context> =
            settings.create_with_context(context).map_err(BusError::kafka("joining the camera nodes"))?;
        consumer.subscribe(&[&self.topic]).map_err(BusError::kafka("subscribing"))?;
        Ok(consumer)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn run(self: Arc<Self>, settings: &ClientConfig, first: BaseConsumer<Context>) {
        let mut consumer = Some(first);
        let mut backoff = Backoff::server();
        while !self.stopped() {
            match consumer.take().map_or_else(|| self.join(settings), Ok) {
                Ok(consumer) => {
                    self.serve(&consumer, &mut backoff);
                    client::close_client(move || drop(consumer));
                }
                Err(error) => tracing::error!(%error, "cannot join the camera nodes"),
            }
            // The client is gone, and its partitions with it.
            let held: Vec<i32> = lock(&self.state).partitions.keys().copied().collect();
            self.give_up(&held, true);
            let until = Instant::now() + backoff.pause();
            while !self.stopped() && Instant::now() < until {
                std::thread::sleep(POLL);
            }
        }
        lock(&self.state).closed = true;
        self.arrived.notify_all();
    }

    fn serve(&self, consumer: &BaseConsumer<Context>, backoff: &mut Backoff) {
        while !self.stopped() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    if let Some((id, value)) = super::read(&message) {
                        self.change(|state| state.record(message.partition(), id, value));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    backoff.reset();
                    self.change(|state| state.end(partition));
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    tracing::error!(%code, "joining the camera nodes anew");
                    self.health.set(Some(format!("joining the camera nodes anew: {code}")));
                    return;
                }
                _ => {}
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        metrics::gauge!("sightline_bus_shared_cameras").set(state.running() as f64);
        drop(state);
        self.arrived.notify_all();
    }

    /// Stops the cameras of these partitions, and waits until the node has done so, unless the
    /// partitions are lost and other nodes run the cameras already.
    fn give_up(&self, partitions: &[i32], lost: bool) {
        self.change(|state| partitions.iter().for_each(|p| state.revoke(*p)));
        let deadline = Instant::now() + self.drain;
        let mut state = lock(&self.state);
        while !lost && !self.stopped() && !state.idle() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(?partitions, "cameras are slow to stop; another node starts them now");
                return;
            }
            state = self.polled.wait_timeout(state, left.min(POLL)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct Context {
    shared: Arc<Shared>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.shared.health.error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.shared.health.statistics(json);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
        let done = if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            tracing::info!(?partitions, "cameras of these partitions are given to this node");
            let mut state = lock(&self.shared.state);
            partitions.iter().for_each(|p| state.assign(*p));
            drop(state);
            self.shared.health.joined();
            list.set_all_offsets(Offset::Beginning).and_then(|()| consumer.incremental_assign(list))
        } else {
            tracing::info!(?partitions, "cameras of these partitions are given up");
            self.shared.give_up(&partitions, consumer.assignment_lost());
            consumer.incremental_unassign(list)
        };
        if let Err(error) = done {
            tracing::error!(%error, "rebalance of the cameras");
        }
    }

    fn main_queue_min_poll_interval(&self) -> rdkafka::util::Timeout {
        rdkafka::util::Timeout::After(POLL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camera(id: &str, fps: f64) -> CameraConfig {
        serde_json::from_value(serde_json::json!({"id": id, "url": "videotestsrc://", "fps": fps})).expect("a camera")
    }

    fn id(id: &str) -> CameraId {
        id.parse().expect("an id")
    }

    #[test]
    fn a_partitions_cameras_start_when_its_end_is_reached() {
        let mut state = State::default();
        state.record(0, id("early"), Some(camera("early", 1.0)));
        state.assign(0);
        state.record(0, id("a"), Some(camera("a", 1.0)));
        state.record(0, id("gone"), Some(camera("gone", 1.0)));
        state.record(0, id("gone"), None);
        state.record(0, id("a"), Some(camera("a", 2.0)));
        assert!(state.queue.is_empty());
        state.end(0);
        state.end(0);
        assert_eq!(state.queue.make_contiguous(), [CameraChange::Run(camera("a", 2.0))]);
        state.queue.clear();
        state.record(0, id("a"), Some(camera("a", 2.0)));
        state.record(0, id("never"), None);
        assert!(state.queue.is_empty(), "nothing is other than before");
        state.record(0, id("a"), Some(camera("a", 3.0)));
        state.record(0, id("b"), Some(camera("b", 1.0)));
        state.record(0, id("b"), None);
        state.revoke(0);
        let wanted = [
            CameraChange::Run(camera("a", 3.0)),
            CameraChange::Run(camera("b", 1.0)),
            CameraChange::Stop(id("b")),
            CameraChange::Stop(id("a")),
        ];
        assert_eq!(state.queue.make_contiguous(), wanted);
    }

    #[test]
    fn a_change_counts_as_made_at_the_next_call() {
        let mut state = State { calls: 1, last_change_call: 1, ..State::default() };
        assert!(!state.idle(), "it has taken the last change and works on it");
        state.calls = 2;
        assert!(state.idle());
        state.queue.push_back(CameraChange::Stop(id("a")));
        assert!(!state.idle());
    }
}
