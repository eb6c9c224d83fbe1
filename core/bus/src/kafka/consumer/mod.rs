//! Receives records with at-least-once delivery: a record stays open until its receipt is
//! completed, and the group's offsets are committed only up to the first open record.
//!
//! A thread polls librdkafka and puts records into a queue that [`Consumer::next`] empties. From
//! then on a record is *open*. When `bus.in_flight_bytes` are open, the partitions are paused while
//! polling continues, so that the group does not declare this process dead. When a partition is
//! revoked, its queued records are dropped (the next owner gets them), records in flight are waited
//! for (`bus.drain_seconds`), and the position is committed before the partition is released.

mod context;
mod member;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{self, Health, lock};
use super::{BusError, Incoming};
use crate::tracker::{OffsetTracker, Ticket};
use member::{DRAIN, QueuedRecord, RUN, STOP, Shared, State};
use sightline_core::config::BusConfig;
use sightline_core::{Delivery, Receipt};

/// Session timeout in milliseconds: a member that is silent for so long counts as dead, and its
/// partitions go to others. The broker's lower bound is 6 s.
pub(super) const SESSION_MS: &str = "10000";

/// Interval of the heartbeat in milliseconds.
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
    /// Joins `group` and reads `topics`; the broker need not be reachable yet. See
    /// [`super::await_topics`] for the topics.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn start(config: &BusConfig, group: &str, topics: &[&str], client_id: &str) -> Result<Self, BusError> {
        let mut settings = client::settings(config, client_id);
        // This share of the memory is for what librdkafka fetches ahead.
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
            tracker: OffsetTracker::default(),
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

    /// The next record, or `None` after `timeout`. Complete its receipt once everything that
    /// follows from the record is stored.
    pub fn next(&self, timeout: Duration) -> Option<Delivery<Incoming>> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(queued) = state.queue.pop_front() {
                drop(state);
                let QueuedRecord { incoming, ticket, bytes, .. } = queued;
                let open = OpenRecord { shared: Arc::clone(&self.shared), ticket, bytes, completed: false };
                return Some(Delivery::new(incoming, Receipt::new(move || open.complete())));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return None;
            }
            state = self.shared.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why no records come; `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        self.shared.health.fault()
    }

    /// Bytes of all open records, queued or in flight.
    pub fn open_bytes(&self) -> usize {
        lock(&self.shared.state).open_bytes
    }

    /// Partitions assigned to this process, as (topic, partition).
    pub fn partitions(&self) -> Vec<(String, i32)> {
        lock(&self.shared.state).tracker.held().map(|(topic, number)| (topic.to_string(), *number)).collect()
    }

    /// Stops handing out records, waits for open receipts (at most `bus.drain_seconds`), commits
    /// and leaves the group. Receipts must still be completed meanwhile.
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
    /// Leaves the group at once: commits what is completed, and does not wait for receipts.
    fn drop(&mut self) {
        self.end(STOP);
    }
}

/// A record in flight; dropping it without completing it abandons the record, and its partition is
/// read again from there.
struct OpenRecord {
    shared: Arc<Shared>,
    ticket: Ticket,
    bytes: usize,
    completed: bool,
}

impl OpenRecord {
    fn complete(mut self) {
        self.completed = true;
        lock(&self.shared.state).tracker.complete(&self.ticket);
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.open_bytes -= self.bytes;
        if !self.completed && state.tracker.abandon(&self.ticket) {
            metrics::counter!("sightline_bus_abandoned_records_total").increment(1);
            tracing::debug!(ticket = ?self.ticket, "a receipt was dropped: the record comes again");
        }
        self.shared.settled.notify_all();
    }
}
