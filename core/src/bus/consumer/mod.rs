//! Receives records so that none is lost: what was handed out stays open until its receipt is completed, and the group's
//! offsets follow the first open one.
//!
//! A thread polls librdkafka and puts records into a queue that [`Consumer::next`] empties. Records are *open* from then
//! on; when `bus.in_flight_bytes` are, the partitions are paused, and polling goes on, so that the group does not take this
//! process for dead. When a partition is taken away, its records that nobody has begun are dropped (its next owner gets
//! them), those in work are waited for (`bus.drain_seconds`), and the position is committed before the partition goes.

mod context;
mod member;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{self, Health, lock};
use super::tracker::{Ticket, Tracker};
use super::{BusError, Incoming};
use crate::config::BusConfig;
use crate::{Delivery, Receipt};
use member::{DRAIN, Queued, RUN, STOP, Shared, State};

/// A member that is silent for so long is dead, and its partitions go to others, in milliseconds. The broker's lower bound
/// is 6 s.
pub(super) const SESSION_MS: &str = "10000";

/// A member says so often that it lives, in milliseconds.
pub(super) const HEARTBEAT_MS: &str = "2000";

/// A member of a consumer group.
pub struct Consumer {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consumer({} bytes open)", self.open_bytes())
    }
}

impl Consumer {
    /// Joins `group` and reads `topics`; the broker need not be there yet. See [`super::await_topics`] for the topics.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn start(config: &BusConfig, group: &str, topics: &[&str], client_id: &str) -> Result<Self, BusError> {
        let mut settings = client::settings(config, client_id);
        // A part of the memory is for what librdkafka fetches ahead.
        let ahead = config.in_flight_bytes / 4;
        for (key, value) in [("session.timeout.ms", SESSION_MS), ("heartbeat.interval.ms", HEARTBEAT_MS)] {
            if settings.get(key).is_none() {
                settings.set(key, value);
            }
        }
        settings
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("queued.max.messages.kbytes", (ahead / 1024).max(1).to_string())
            .set("fetch.max.bytes", ahead.max(super::MAX_DEAD_BYTES).to_string())
            .set("fetch.wait.max.ms", "100");
        let state = State {
            tracker: Tracker::default(),
            queue: VecDeque::new(),
            open_bytes: 0,
            paused: BTreeSet::new(),
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            arrived: Condvar::new(),
            settled: Condvar::new(),
            health: Health::new(true),
            mode: AtomicU8::new(RUN),
            drain: Duration::from_secs_f64(config.drain_seconds),
            topics: topics.iter().map(|t| Arc::from(*t)).collect(),
        });
        let first = shared.join(&settings)?;
        let own = Arc::clone(&shared);
        let limit = config.in_flight_bytes - ahead;
        let thread = std::thread::Builder::new()
            .name("bus-consumer".into())
            .spawn(move || own.run(&settings, first, limit))
            .map_err(|e| BusError::Settings(format!("no thread for the consumer: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The next record; its receipt is to be completed when everything that follows from it is stored. `None`: nothing
    /// within `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<Delivery<Incoming>> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(queued) = state.queue.pop_front() {
                drop(state);
                let Queued { incoming, ticket, bytes, .. } = queued;
                let open = Open { shared: Arc::clone(&self.shared), ticket, bytes, completed: false };
                return Some(Delivery::new(incoming, Receipt::new(move || open.complete())));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return None;
            }
            state = self.shared.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why nothing comes: `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        self.shared.health.fault()
    }

    /// Bytes of records that are not completed.
    pub fn open_bytes(&self) -> usize {
        lock(&self.shared.state).open_bytes
    }

    /// Partitions that this process holds, as (topic, partition).
    pub fn partitions(&self) -> Vec<(String, i32)> {
        lock(&self.shared.state).tracker.held().map(|(topic, number)| (topic.to_string(), *number)).collect()
    }

    /// Stops feeding, waits for open receipts (at most `bus.drain_seconds`), commits, leaves the group. Whoever completes
    /// receipts must go on doing so meanwhile.
    pub fn close(mut self) {
        self.end(DRAIN);
    }

    fn end(&mut self, mode: u8) {
        self.shared.mode.store(mode, Ordering::SeqCst);
        self.shared.settled.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Consumer {
    /// Leaves at once: commits what is completed, waits for nothing.
    fn drop(&mut self) {
        self.end(STOP);
    }
}

/// A record that was handed out.
struct Open {
    shared: Arc<Shared>,
    ticket: Ticket,
    bytes: usize,
    completed: bool,
}

impl Open {
    fn complete(mut self) {
        self.completed = true;
        lock(&self.shared.state).tracker.complete(&self.ticket);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.open_bytes -= self.bytes;
        if !self.completed && state.tracker.abandon(&self.ticket) {
            metrics::counter!("sightline_bus_abandoned_records_total").increment(1);
            tracing::debug!(ticket = ?self.ticket, "a receipt was dropped: the record comes again after a restart");
        }
        self.shared.settled.notify_all();
    }
}
