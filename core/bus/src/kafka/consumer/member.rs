//! The polling thread of a consumer, and the state it shares with the handle: which records are
//! open, which partitions are paused, which offsets are committed.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::context::Context;
use crate::kafka::client::{self, Health, lock};
use crate::kafka::{BusError, Incoming};
use crate::tracker::{OffsetTracker, Partition, Ticket};
use sightline_core::Backoff;

/// Interval between commits of offsets.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Longest poll; a call of `close` waits at most this long for it.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// How long to retry the last commit while a rebalance makes the group refuse it.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Modes of the thread: run, drain and leave, leave at once.
pub(super) const RUN: u8 = 0;
pub(super) const DRAIN: u8 = 1;
pub(super) const STOP: u8 = 2;

/// Timeout of a seek, which is local to the client.
const SEEK_TIMEOUT: Duration = Duration::from_secs(1);

/// Without a dropped receipt for so long, the pauses before reading again are short again.
const REREAD_CALM: Duration = Duration::from_secs(60);

/// When abandoned records are read again.
struct Rereads {
    backoff: Backoff,
    at: Option<Instant>,
    /// The last time.
    since: Option<Instant>,
}

impl Default for Rereads {
    fn default() -> Self {
        Self { backoff: Backoff::server(), at: None, since: None }
    }
}

pub(super) struct QueuedRecord {
    pub incoming: Incoming,
    pub partition: Partition,
    pub ticket: Ticket,
    pub bytes: usize,
}

pub(super) struct State {
    pub tracker: OffsetTracker,
    pub queue: VecDeque<QueuedRecord>,
    /// Bytes of all open records, queued or handed out.
    pub open_bytes: usize,
    /// Partitions that librdkafka was told to pause. librdkafka keeps them paused when a partition
    /// is revoked and assigned again.
    pub paused: BTreeSet<Partition>,
    pub closed: bool,
}

pub(super) struct Shared {
    pub state: Mutex<State>,
    /// Notified when a record has come, or at the end.
    pub arrived: Condvar,
    /// Notified when a receipt was completed or dropped.
    pub settled: Condvar,
    pub health: Health,
    pub mode: AtomicU8,
    pub drain: Duration,
    /// Topic names, shared by all their records.
    pub topics: Vec<Arc<str>>,
}

impl Shared {
    pub(super) fn join(self: &Arc<Self>, settings: &ClientConfig) -> Result<BaseConsumer<Context>, BusError> {
        let context = Context { shared: Arc::clone(self) };
        let consumer: BaseConsumer<Context> =
            settings.create_with_context(context).map_err(BusError::kafka("starting the consumer"))?;
        let topics: Vec<&str> = self.topics.iter().map(|t| &**t).collect();
        consumer.subscribe(&topics).map_err(BusError::kafka("subscribing"))?;
        Ok(consumer)
    }

    fn mode(&self) -> u8 {
        self.mode.load(Ordering::SeqCst)
    }

    pub(super) fn partition(&self, topic: &str, number: i32) -> Partition {
        let known = self.topics.iter().find(|t| &***t == topic);
        (known.map_or_else(|| Arc::from(topic), Arc::clone), number)
    }

    pub(super) fn run(self: Arc<Self>, settings: &ClientConfig, first: BaseConsumer<Context>, limit: usize) {
        let mut consumer = Some(first);
        let mut backoff = Backoff::server();
        while self.mode() == RUN {
            if let Some(consumer) = consumer.take() {
                self.serve(&consumer, limit, &mut backoff);
                if self.mode() != RUN {
                    self.leave(consumer);
                    break;
                }
                // librdkafka cannot continue with this client.
                client::close_client(move || drop(consumer));
                self.revoke_all();
            }
            self.sleep(backoff.pause());
            match self.join(settings) {
                Ok(new) => consumer = Some(new),
                Err(error) => tracing::error!(%error, "no new consumer"),
            }
        }
        let mut state = lock(&self.state);
        state.closed = true;
        drop(state);
        self.arrived.notify_all();
    }

    /// Sleeps between attempts, but not once the consumer is closing.
    fn sleep(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        while self.mode() == RUN && Instant::now() < deadline {
            std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Polls until the consumer is closed, or until librdkafka reports that this client is
    /// unusable.
    fn serve(&self, consumer: &BaseConsumer<Context>, limit: usize, backoff: &mut Backoff) {
        let (mut committed, mut rereads) = (Instant::now(), Rereads::default());
        while self.mode() == RUN {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    backoff.reset();
                    self.health.answered();
                    self.accept(Incoming::of(&message));
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    tracing::error!(%code, "the consumer has to begin anew");
                    self.health.set(Some(format!("the consumer begins anew: {code}")));
                    return;
                }
                Some(Err(error)) => {
                    metrics::counter!("sightline_bus_consume_errors_total").increment(1);
                    tracing::debug!(%error, "consuming");
                }
                None => {}
            }
            self.pause(consumer, limit);
            self.read_abandoned_again(consumer, &mut rereads);
            if committed.elapsed() >= COMMIT_EVERY {
                committed = Instant::now();
                self.commit(consumer, CommitMode::Async, |_| true);
            }
        }
    }

    fn accept(&self, incoming: Incoming) {
        let partition = self.partition(&incoming.topic, incoming.partition);
        let bytes = incoming.bytes();
        let mut state = lock(&self.state);
        let done = state.tracker.is_done(&partition, incoming.offset);
        let Some(ticket) = (!done).then(|| state.tracker.begin(&partition, incoming.offset)).flatten() else {
            drop(state);
            tracing::debug!(
                topic = incoming.topic,
                partition = incoming.partition,
                offset = incoming.offset,
                "passed over"
            );
            return;
        };
        let topic = incoming.topic.clone();
        state.open_bytes += bytes;
        state.queue.push_back(QueuedRecord { incoming, partition, ticket, bytes });
        metrics::gauge!("sightline_bus_open_bytes").set(state.open_bytes as f64);
        drop(state);
        self.arrived.notify_one();
        metrics::counter!("sightline_bus_consumed_records_total", "topic" => topic.clone()).increment(1);
        metrics::counter!("sightline_bus_consumed_bytes_total", "topic" => topic).increment(bytes as u64);
    }

    /// Reads partitions again whose records were handed out and given up: somebody has dropped the
    /// receipt. What is done, queued or in work comes again, too, and is passed over. Waits longer from
    /// time to time, because the receipt may be dropped again at once.
    fn read_abandoned_again(&self, consumer: &BaseConsumer<Context>, rereads: &mut Rereads) {
        let abandoned = lock(&self.state).tracker.abandoned();
        if abandoned.is_empty() {
            if rereads.since.is_some_and(|since| since.elapsed() > REREAD_CALM) {
                *rereads = Rereads::default();
            }
            return;
        }
        let now = Instant::now();
        let at = *rereads.at.get_or_insert_with(|| now + rereads.backoff.pause());
        if now < at {
            return;
        }
        (rereads.at, rereads.since) = (None, Some(now));
        for (partition, offset) in abandoned {
            let (topic, number) = &partition;
            match consumer.seek(topic, *number, Offset::Offset(offset), SEEK_TIMEOUT) {
                Ok(()) => {
                    tracing::warn!(
                        topic = &**topic,
                        partition = number,
                        offset,
                        "a receipt was dropped: reading again"
                    );
                    metrics::counter!("sightline_bus_rereads_total", "topic" => topic.to_string()).increment(1);
                }
                // Just now the partition is being taken away or assigned; the next attempt comes.
                Err(error) => tracing::debug!(%error, "cannot read again yet"),
            }
        }
    }

    /// Pauses fetching when too many bytes are open, and resumes when half of them are done: a
    /// pause discards what was fetched ahead, so it should not come with every record.
    fn pause(&self, consumer: &BaseConsumer<Context>, limit: usize) {
        let (wanted, which) = {
            let state = lock(&self.state);
            metrics::gauge!("sightline_bus_open_bytes").set(state.open_bytes as f64);
            let wanted = state.open_bytes >= if state.paused.is_empty() { limit } else { limit / 2 };
            let running = || state.tracker.held().filter(|p| !state.paused.contains(p)).cloned().collect();
            (wanted, if wanted { running() } else { state.paused.iter().cloned().collect::<Vec<_>>() })
        };
        if !which.is_empty() {
            self.set_paused(consumer, &which, wanted);
        }
    }

    fn set_paused(&self, consumer: &BaseConsumer<Context>, which: &[Partition], paused: bool) {
        let mut list = TopicPartitionList::with_capacity(which.len());
        for (topic, number) in which {
            list.add_partition(topic, *number);
        }
        let done = if paused { consumer.pause(&list) } else { consumer.resume(&list) };
        if let Err(error) = done {
            tracing::warn!(%error, paused, "cannot pause or go on");
        }
        let mut state = lock(&self.state);
        if paused {
            state.paused.extend(which.iter().cloned());
            metrics::counter!("sightline_bus_pauses_total").increment(1);
        } else {
            state.paused.retain(|p| !which.contains(p));
        }
    }

    /// Commits the positions of the partitions that `which` selects. Returns whether the broker has
    /// them (or, with an asynchronous commit, whether the request was sent).
    fn commit(&self, consumer: &BaseConsumer<Context>, mode: CommitMode, which: impl Fn(&Partition) -> bool) -> bool {
        let positions: Vec<_> =
            lock(&self.state).tracker.to_commit().into_iter().filter(|(partition, _)| which(partition)).collect();
        if positions.is_empty() {
            return true;
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for ((topic, number), position) in &positions {
            if let Err(error) = list.add_partition_offset(topic, *number, Offset::Offset(*position)) {
                tracing::error!(%error, "commit");
            }
        }
        match consumer.commit(&list, mode) {
            Ok(()) => {
                if let CommitMode::Sync = mode {
                    self.committed(&positions);
                }
                true
            }
            Err(error) => {
                metrics::counter!("sightline_bus_commit_errors_total").increment(1);
                tracing::debug!(%error, "commit; the next one comes in a second");
                false
            }
        }
    }

    pub(super) fn committed(&self, positions: &[(Partition, i64)]) {
        let mut state = lock(&self.state);
        for (partition, position) in positions {
            state.tracker.committed(partition, *position);
        }
        drop(state);
        metrics::counter!("sightline_bus_commits_total").increment(1);
    }

    /// Drops the queued records of these partitions that nobody works on; the next owner of the
    /// partition gets them.
    fn drop_queued(&self, state: &mut State, which: impl Fn(&Partition) -> bool) {
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.queue).into_iter().partition(|q| which(&q.partition));
        state.queue = kept;
        for queued in gone {
            state.open_bytes -= queued.bytes;
            state.tracker.abandon(&queued.ticket);
        }
    }

    /// Waits at most until `deadline` for the records in flight of these partitions. Returns
    /// whether all were settled.
    fn wait_until_drained(&self, which: &[Partition], deadline: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            let in_flight: usize = which.iter().map(|p| state.tracker.in_flight(p)).sum();
            let left = deadline.saturating_duration_since(Instant::now());
            if in_flight == 0 {
                return true;
            }
            if left.is_zero() || self.mode() == STOP {
                tracing::warn!(records = in_flight, "still in work when their partition goes: they will be done again");
                metrics::counter!("sightline_bus_undrained_records_total").increment(in_flight as u64);
                return false;
            }
            state = self.settled.wait_timeout(state, left.min(POLL)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Releases revoked partitions: drains, commits, then forgets them.
    pub(super) fn give_up(&self, consumer: &BaseConsumer<Context>, partitions: &[Partition]) {
        let lost = consumer.assignment_lost();
        let ours = |p: &Partition| partitions.contains(p);
        self.drop_queued(&mut lock(&self.state), ours);
        if lost {
            tracing::warn!(?partitions, "lost: the group has given these partitions to others");
            metrics::counter!("sightline_bus_lost_partitions_total").increment(partitions.len() as u64);
        } else {
            let deadline = Instant::now() + self.drain;
            self.wait_until_drained(partitions, deadline);
            self.commit_now(consumer, ours, deadline);
        }
        let paused: Vec<Partition> = {
            let mut state = lock(&self.state);
            for partition in partitions {
                state.tracker.revoke(partition);
                gauge_lag(partition, 0);
            }
            partitions.iter().filter(|p| state.paused.contains(p)).cloned().collect()
        };
        if !paused.is_empty() {
            self.set_paused(consumer, &paused, false);
        }
    }

    /// Commits and waits for the broker's answer, unless the broker is away. Retries, because a
    /// group refuses commits for a moment during a rebalance.
    fn commit_now(&self, consumer: &BaseConsumer<Context>, which: impl Fn(&Partition) -> bool, deadline: Instant) {
        while self.health.broker_fault().is_none() {
            if self.commit(consumer, CommitMode::Sync, &which) || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Leaves the group: takes no new records, keeps polling while it waits for the records in
    /// flight, commits, and closes the client.
    fn leave(self: &Arc<Self>, consumer: BaseConsumer<Context>) {
        let held: Vec<Partition> = {
            let mut state = lock(&self.state);
            self.drop_queued(&mut state, |_| true);
            state.tracker.held().cloned().collect()
        };
        let deadline = Instant::now() + self.drain;
        let unassigned = consumer.assignment().and_then(|all| consumer.pause(&all));
        if let Err(error) = unassigned {
            tracing::debug!(%error, "pausing at the end");
        }
        while self.mode() == DRAIN && Instant::now() < deadline {
            let in_flight: usize = {
                let state = lock(&self.state);
                held.iter().map(|p| state.tracker.in_flight(p)).sum()
            };
            if in_flight == 0 {
                break;
            }
            // Polling serves rebalances; a record that still comes is dropped.
            if let Some(Ok(message)) = consumer.poll(POLL) {
                tracing::debug!(offset = rdkafka::Message::offset(&message), "came after the end");
            }
        }
        // Closing revokes all partitions, which drains (with nothing left to wait for), commits and
        // forgets them.
        self.mode.store(STOP, Ordering::SeqCst);
        let own = Arc::clone(self);
        client::close_client(move || {
            own.commit_now(&consumer, |_| true, Instant::now() + LAST_COMMIT_TIMEOUT);
            drop(consumer);
        });
        self.revoke_all();
    }

    /// Forgets all partitions: the client is gone.
    fn revoke_all(&self) {
        let mut state = lock(&self.state);
        self.drop_queued(&mut state, |_| true);
        let held: Vec<Partition> = state.tracker.held().cloned().collect();
        for partition in held {
            state.tracker.revoke(&partition);
        }
        state.paused.clear();
    }
}

pub(super) fn gauge_lag((topic, number): &Partition, lag: i64) {
    let labels = [("topic", topic.to_string()), ("partition", number.to_string())];
    metrics::gauge!("sightline_bus_lag_records", &labels).set(lag as f64);
}
