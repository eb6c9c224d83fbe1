//! Receives records so that none is lost: what was handed out stays open until its receipt is completed, and the group's
//! offsets follow the first open one.
//!
//! A thread polls librdkafka and puts records into a queue that [`Consumer::next`] empties. Records are *open* from then
//! on; when `bus.in_flight_bytes` are, the partitions are paused, and polling goes on, so that the group does not take this
//! process for dead. When a partition is taken away, its records that nobody has begun are dropped (its next owner gets
//! them), those in work are waited for (`bus.drain_seconds`), and the position is committed before the partition goes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{self, Health, lock};
use super::tracker::{Partition, Ticket, Tracker};
use super::{Backoff, BusError, Incoming};
use crate::config::BusConfig;
use crate::{Delivery, Receipt};

/// Offsets are committed so often.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// A member that is silent for so long is dead, and its partitions go to others, in milliseconds. The broker's lower bound
/// is 6 s.
pub(super) const SESSION_MS: &str = "10000";

/// A member says so often that it lives, in milliseconds.
pub(super) const HEARTBEAT_MS: &str = "2000";

/// How long a poll may take: no more than a call of `close` should wait for.
const POLL: Duration = Duration::from_millis(100);

/// How long a group in motion may refuse the last commit.
const LAST_COMMIT: Duration = Duration::from_secs(3);

/// What the thread is to do.
const RUN: u8 = 0;
const DRAIN: u8 = 1;
const STOP: u8 = 2;

struct Queued {
    incoming: Incoming,
    partition: Partition,
    ticket: Ticket,
    bytes: usize,
}

struct State {
    tracker: Tracker,
    queue: VecDeque<Queued>,
    /// Bytes of all open records, queued or handed out.
    open_bytes: usize,
    /// Partitions that librdkafka was told to pause. It does not forget that when a partition goes and comes back.
    paused: BTreeSet<Partition>,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// A record has come, or the end.
    arrived: Condvar,
    /// A receipt came back.
    settled: Condvar,
    health: Health,
    mode: AtomicU8,
    drain: Duration,
    /// One topic name in memory for all its records.
    topics: Vec<Arc<str>>,
}

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

impl Shared {
    fn join(self: &Arc<Self>, settings: &ClientConfig) -> Result<BaseConsumer<Context>, BusError> {
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

    fn partition(&self, topic: &str, number: i32) -> Partition {
        let known = self.topics.iter().find(|t| &***t == topic);
        (known.map_or_else(|| Arc::from(topic), Arc::clone), number)
    }

    fn run(self: Arc<Self>, settings: &ClientConfig, first: BaseConsumer<Context>, limit: usize) {
        let mut consumer = Some(first);
        let mut backoff = Backoff::server();
        while self.mode() == RUN {
            if let Some(consumer) = consumer.take() {
                self.serve(&consumer, limit, &mut backoff);
                if self.mode() != RUN {
                    self.leave(consumer);
                    break;
                }
                // librdkafka cannot go on with this client.
                client::end(move || drop(consumer));
                self.forget_all();
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

    /// Pauses between attempts, but not when the end has come.
    fn sleep(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        while self.mode() == RUN && Instant::now() < deadline {
            std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Polls until the end, or until librdkafka says that this client is of no more use.
    fn serve(&self, consumer: &BaseConsumer<Context>, limit: usize, backoff: &mut Backoff) {
        let mut committed = Instant::now();
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
        let Some(ticket) = state.tracker.begin(&partition, incoming.offset) else {
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
        state.queue.push_back(Queued { incoming, partition, ticket, bytes });
        metrics::gauge!("sightline_bus_open_bytes").set(state.open_bytes as f64);
        drop(state);
        self.arrived.notify_one();
        metrics::counter!("sightline_bus_consumed_records_total", "topic" => topic.clone()).increment(1);
        metrics::counter!("sightline_bus_consumed_bytes_total", "topic" => topic).increment(bytes as u64);
    }

    /// Fetching stops when too much is open, and goes on when half of it is done: a pause throws away what was fetched
    /// ahead, so it should not come with every record.
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

    /// Commits the positions of those partitions that `which` names. Whether the broker has them (or will be told).
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

    fn committed(&self, positions: &[(Partition, i64)]) {
        let mut state = lock(&self.state);
        for (partition, position) in positions {
            state.tracker.committed(partition, *position);
        }
        drop(state);
        metrics::counter!("sightline_bus_commits_total").increment(1);
    }

    /// Drops what nobody has begun of these partitions: whoever has them next gets it.
    fn unfeed(&self, state: &mut State, which: impl Fn(&Partition) -> bool) {
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.queue).into_iter().partition(|q| which(&q.partition));
        state.queue = kept;
        for queued in gone {
            state.open_bytes -= queued.bytes;
            state.tracker.abandon(&queued.ticket);
        }
    }

    /// Waits until nothing of these partitions is in work any more, at most until `deadline`. Whether it came so.
    fn drained(&self, which: &[Partition], deadline: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            let live: usize = which.iter().map(|p| state.tracker.live(p)).sum();
            let left = deadline.saturating_duration_since(Instant::now());
            if live == 0 {
                return true;
            }
            if left.is_zero() || self.mode() == STOP {
                tracing::warn!(records = live, "still in work when their partition goes: they will be done again");
                metrics::counter!("sightline_bus_undrained_records_total").increment(live as u64);
                return false;
            }
            state = self.settled.wait_timeout(state, left.min(POLL)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Partitions are taken away: finish, commit, forget.
    fn give_up(&self, consumer: &BaseConsumer<Context>, partitions: &[Partition]) {
        let lost = consumer.assignment_lost();
        let ours = |p: &Partition| partitions.contains(p);
        self.unfeed(&mut lock(&self.state), ours);
        if lost {
            tracing::warn!(?partitions, "lost: the group has given these partitions to others");
            metrics::counter!("sightline_bus_lost_partitions_total").increment(partitions.len() as u64);
        } else {
            let deadline = Instant::now() + self.drain;
            self.drained(partitions, deadline);
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

    /// Commits and waits for the broker's answer, unless the broker is away. A group in motion refuses commits for a moment.
    fn commit_now(&self, consumer: &BaseConsumer<Context>, which: impl Fn(&Partition) -> bool, deadline: Instant) {
        while self.health.broker_fault().is_none() {
            if self.commit(consumer, CommitMode::Sync, &which) || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    /// The end: no new records, those in work are waited for while polling goes on, and the group is told.
    fn leave(self: &Arc<Self>, consumer: BaseConsumer<Context>) {
        let held: Vec<Partition> = {
            let mut state = lock(&self.state);
            self.unfeed(&mut state, |_| true);
            state.tracker.held().cloned().collect()
        };
        let deadline = Instant::now() + self.drain;
        let unassigned = consumer.assignment().and_then(|all| consumer.pause(&all));
        if let Err(error) = unassigned {
            tracing::debug!(%error, "pausing at the end");
        }
        while self.mode() == DRAIN && Instant::now() < deadline {
            let live: usize = {
                let state = lock(&self.state);
                held.iter().map(|p| state.tracker.live(p)).sum()
            };
            if live == 0 {
                break;
            }
            // Rebalances go on; a record that still comes is dropped.
            if let Some(Ok(message)) = consumer.poll(POLL) {
                tracing::debug!(offset = rdkafka::Message::offset(&message), "came after the end");
            }
        }
        // Closing revokes all partitions, which drains (by now in vain), commits and forgets them.
        self.mode.store(STOP, Ordering::SeqCst);
        let own = Arc::clone(self);
        client::end(move || {
            own.commit_now(&consumer, |_| true, Instant::now() + LAST_COMMIT);
            drop(consumer);
        });
        self.forget_all();
    }

    /// The client is gone, and with it every partition.
    fn forget_all(&self) {
        let mut state = lock(&self.state);
        self.unfeed(&mut state, |_| true);
        let held: Vec<Partition> = state.tracker.held().cloned().collect();
        for partition in held {
            state.tracker.revoke(&partition);
        }
        state.paused.clear();
    }
}

fn gauge_lag((topic, number): &Partition, lag: i64) {
    let labels = [("topic", topic.to_string()), ("partition", number.to_string())];
    metrics::gauge!("sightline_bus_lag_records", &labels).set(lag as f64);
}

struct Context {
    shared: Arc<Shared>,
}

impl Context {
    fn partitions(&self, list: &TopicPartitionList) -> Vec<Partition> {
        list.elements().iter().map(|e| self.shared.partition(e.topic(), e.partition())).collect()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
            tracing::warn!(reason, "a topic is not there");
        }
        self.shared.health.error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        let Some(statistics) = self.shared.health.statistics(json) else { return };
        let state = lock(&self.shared.state);
        for (topic, all) in &statistics.topics {
            for p in all.partitions.values() {
                let partition = self.shared.partition(topic, p.partition);
                if let (Some(position), true) = (state.tracker.position(&partition), p.hi_offset >= 0) {
                    gauge_lag(&partition, (p.hi_offset - position).max(0));
                }
            }
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        metrics::counter!("sightline_bus_rebalances_total").increment(1);
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = self.partitions(list);
                tracing::info!(?partitions, "partitions given to this process");
                let mut state = lock(&self.shared.state);
                for partition in partitions {
                    state.tracker.assign(partition);
                }
                drop(state);
                self.shared.health.joined();
            }
            Rebalance::Revoke(list) => {
                let partitions = self.partitions(list);
                let began = Instant::now();
                self.shared.give_up(consumer, &partitions);
                metrics::histogram!("sightline_bus_drain_seconds").record(began.elapsed().as_secs_f64());
                tracing::info!(?partitions, seconds = began.elapsed().as_secs_f64(), "partitions given up");
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let good = |e: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match (e.error(), e.offset()) {
            (Ok(()), Offset::Offset(position)) => Some((self.shared.partition(e.topic(), e.partition()), position)),
            _ => None,
        };
        match result {
            Ok(()) => self.shared.committed(&offsets.elements().iter().filter_map(good).collect::<Vec<_>>()),
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset) => {}
            Err(error) => {
                metrics::counter!("sightline_bus_commit_errors_total").increment(1);
                tracing::debug!(%error, "commit; the next one comes in a second");
            }
        }
    }

    fn main_queue_min_poll_interval(&self) -> rdkafka::util::Timeout {
        rdkafka::util::Timeout::After(POLL)
    }
}
