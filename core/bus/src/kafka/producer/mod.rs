//! Sends records reliably: idempotent, acknowledged by all in-sync replicas, retried without end,
//! with a bound on the bytes in flight.
//!
//! Every record is kept until the broker has acknowledged it. librdkafka retries by itself. Where
//! it gives up nevertheless (after errors that break its sequence numbers), a new client is made
//! and every pending record is sent again in order. This may send a record twice: readers tolerate
//! that, because ids are deterministic.

mod native;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};

use super::client::{self, Health, lock};
use super::{BusError, MAX_DEAD_BYTES, MAX_RECORD_BYTES, Outgoing};
use native::{Context, hand_over, permanent};
use sightline_core::Backoff;
use sightline_core::config::BusConfig;

/// How long a record waits for others to fill a batch, in milliseconds.
const LINGER_MS: &str = "5";

/// Without an acknowledgement for this long while records are pending, the producer reports a
/// fault.
const ACK_TIMEOUT: Duration = Duration::from_secs(15);

type DeliveryCallback = Box<dyn FnOnce(Result<(), BusError>) + Send>;

/// Why [`Producer::try_send`] did not accept a record.
#[derive(Debug)]
pub enum TrySendError<F> {
    /// There is no room at the moment; contains the record and its `done`.
    Full(Outgoing, F),
    /// The record can never be sent.
    Failed(BusError),
}

/// A record that the broker has not acknowledged.
struct PendingRecord {
    record: Outgoing,
    done: DeliveryCallback,
    cost: usize,
    since: Instant,
}

/// A scheduled resend: nothing new is given to librdkafka until every pending record was sent
/// again.
struct Recovery {
    rebuild: bool,
    at: Instant,
}

struct State {
    native: Option<Arc<BaseProducer<Context>>>,
    pending: BTreeMap<usize, PendingRecord>,
    next: usize,
    bytes: usize,
    recovery: Option<Recovery>,
    backoff: Backoff,
    /// Time of the last acknowledgement, or of the first record after the producer was idle.
    last_ack_at: Instant,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when there may be room, or when nothing is pending any more.
    changed: Condvar,
    limit: usize,
    dead_suffix: String,
    settings: ClientConfig,
    health: Arc<Health>,
}

/// Closes the producer when the last clone is gone.
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Sends records. Clones share it; when the last clone is dropped, pending records fail with
/// [`BusError::Closed`] (see [`Producer::flush`]).
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({} bytes in flight)", self.in_flight_bytes())
    }
}

impl Producer {
    /// Starts a producer; the broker need not be reachable yet.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn start(config: &BusConfig, client_id: &str) -> Result<Self, BusError> {
        let mut settings = client::settings(config, client_id);
        settings
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("compression.codec", config.compression.as_str())
            .set("message.max.bytes", MAX_DEAD_BYTES.to_string())
            // Batches stay within the limit of an ordinary topic.
            .set("batch.size", "1000000")
            .set("linger.ms", LINGER_MS)
            // The default partitioner of Kafka's own clients, so that programs in other languages
            // put a camera into the same partition.
            .set("partitioner", "murmur2_random")
            // This module bounds the queue itself, by bytes.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", "2097151");
        let state = State {
            native: None,
            pending: BTreeMap::new(),
            next: 1,
            bytes: 0,
            recovery: None,
            backoff: Backoff::server(),
            last_ack_at: Instant::now(),
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            limit: config.in_flight_bytes,
            dead_suffix: config.dead_letter_suffix.clone(),
            settings,
            health: Arc::new(Health::new(false)),
        });
        let native = shared.build()?;
        lock(&shared.state).native = Some(Arc::new(native));
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bus-producer".into())
            .spawn(move || own.run())
            .map_err(|e| BusError::Settings(format!("no thread for the producer: {e}")))?;
        Ok(Self { handle: Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) }) })
    }

    /// Sends a record; blocks while `bus.in_flight_bytes` are in flight. `done` is called with `Ok`
    /// once all in-sync replicas have the record, and with an error only when it can never be sent
    /// or the producer is closed. It runs on the producer's thread and must not block there. When
    /// this function returns an error, `done` is not called.
    ///
    /// # Errors
    /// A record that can never be sent, or a closed producer.
    pub fn send(
        &self,
        record: Outgoing,
        done: impl FnOnce(Result<(), BusError>) + Send + 'static,
    ) -> Result<(), BusError> {
        let shared = &self.handle.shared;
        shared.check(&record)?;
        let cost = cost(&record);
        let mut state = lock(&shared.state);
        while !state.closed && !shared.has_room(&state, cost) {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        shared.enqueue(state, record, Box::new(done), cost)
    }

    /// As [`Producer::send`], but without waiting.
    ///
    /// # Errors
    /// [`TrySendError::Full`] returns the record when there is no room at the moment.
    pub fn try_send<F>(&self, record: Outgoing, done: F) -> Result<(), TrySendError<F>>
    where
        F: FnOnce(Result<(), BusError>) + Send + 'static,
    {
        let shared = &self.handle.shared;
        shared.check(&record).map_err(TrySendError::Failed)?;
        let cost = cost(&record);
        let state = lock(&shared.state);
        if !state.closed && !shared.has_room(&state, cost) {
            return Err(TrySendError::Full(record, done));
        }
        shared.enqueue(state, record, Box::new(done), cost).map_err(TrySendError::Failed)
    }

    /// Sends a record and waits until the broker has acknowledged it.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`BusError::Late`] after `timeout`, though the record may still
    /// arrive.
    pub fn send_and_wait(&self, record: Outgoing, timeout: Duration) -> Result<(), BusError> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.send(record, move |result| {
            let _ = tx.send(result);
        })?;
        rx.recv_timeout(timeout).unwrap_or(Err(BusError::Late("sending")))
    }

    /// Memory of the records in flight, in bytes.
    pub fn in_flight_bytes(&self) -> usize {
        lock(&self.handle.shared.state).bytes
    }

    /// Why the broker does not answer or acknowledge; `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        let shared = &self.handle.shared;
        let state = lock(&shared.state);
        let waiting = state.last_ack_at.elapsed();
        if !state.pending.is_empty() && waiting > ACK_TIMEOUT {
            let reason = shared.health.fault().unwrap_or_else(|| "it does not say why".into());
            let records = state.pending.len();
            return Some(format!(
                "{records} records wait, none was acknowledged for {} s: {reason}",
                waiting.as_secs()
            ));
        }
        drop(state);
        shared.health.fault()
    }

    /// Waits until nothing is in flight; returns whether that happened within `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let shared = &self.handle.shared;
        let deadline = Instant::now() + timeout;
        let mut state = lock(&shared.state);
        while !state.pending.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Memory of a record in flight: here, and copied in librdkafka.
fn cost(record: &Outgoing) -> usize {
    2 * (record.bytes() + record.topic.len()) + 256
}

impl Shared {
    fn build(self: &Arc<Self>) -> Result<BaseProducer<Context>, BusError> {
        let context = Context { shared: Arc::clone(self), health: Arc::clone(&self.health) };
        self.settings.create_with_context(context).map_err(BusError::kafka("starting the producer"))
    }

    fn check(&self, record: &Outgoing) -> Result<(), BusError> {
        let limit = if record.topic.ends_with(&self.dead_suffix) { MAX_DEAD_BYTES } else { MAX_RECORD_BYTES };
        let bytes = record.bytes();
        if bytes > limit {
            return Err(BusError::TooLarge { topic: record.topic.clone(), bytes, limit });
        }
        Ok(())
    }

    /// Whether there is room; a single record always has room, however large.
    fn has_room(&self, state: &State, cost: usize) -> bool {
        state.pending.is_empty() || state.bytes + cost <= self.limit
    }

    fn enqueue(
        &self,
        mut state: MutexGuard<'_, State>,
        record: Outgoing,
        done: DeliveryCallback,
        cost: usize,
    ) -> Result<(), BusError> {
        if state.closed {
            return Err(BusError::Closed);
        }
        let number = state.next;
        if let (None, Some(native)) = (&state.recovery, &state.native)
            && let Err(error) = hand_over(native, number, &record)
        {
            if let Some(error) = permanent(&error, &record.topic) {
                return Err(error);
            }
            self.schedule_resend(&mut state, &error);
        }
        if state.pending.is_empty() {
            state.last_ack_at = Instant::now();
        }
        state.next += 1;
        state.bytes += cost;
        state.pending.insert(number, PendingRecord { record, done, cost, since: Instant::now() });
        self.gauge(&state);
        Ok(())
    }

    fn gauge(&self, state: &State) {
        metrics::gauge!("sightline_bus_in_flight_bytes").set(state.bytes as f64);
        metrics::gauge!("sightline_bus_in_flight_records").set(state.pending.len() as f64);
    }

    /// Schedules a resend of every pending record after a retryable error.
    fn schedule_resend(&self, state: &mut State, error: &KafkaError) {
        let rebuild = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
        );
        if let Some(recovery) = &mut state.recovery {
            recovery.rebuild |= rebuild;
            return;
        }
        let pause = state.backoff.pause();
        tracing::warn!(%error, rebuild, pause_ms = pause.as_millis() as u64, "records will be sent again");
        metrics::counter!("sightline_bus_resends_total").increment(1);
        state.recovery = Some(Recovery { rebuild, at: Instant::now() + pause });
    }

    /// Finishes a record, delivered or refused, and calls its `done`.
    fn finish(&self, number: usize, result: Result<(), BusError>) {
        let mut state = lock(&self.state);
        let Some(entry) = state.pending.remove(&number) else { return };
        state.bytes -= entry.cost;
        state.last_ack_at = Instant::now();
        if result.is_ok() {
            state.backoff.reset();
        }
        self.gauge(&state);
        self.changed.notify_all();
        drop(state);
        let topic = entry.record.topic.clone();
        match &result {
            Ok(()) => {
                self.health.answered();
                let bytes = entry.record.bytes() as u64;
                metrics::counter!("sightline_bus_produced_records_total", "topic" => topic.clone()).increment(1);
                metrics::counter!("sightline_bus_produced_bytes_total", "topic" => topic.clone()).increment(bytes);
                metrics::histogram!("sightline_bus_produce_seconds", "topic" => topic)
                    .record(entry.since.elapsed().as_secs_f64());
            }
            Err(error) => {
                tracing::error!(topic, key = entry.record.key, %error, "a record cannot be sent");
                metrics::counter!("sightline_bus_refused_records_total", "topic" => topic).increment(1);
            }
        }
        (entry.done)(result);
    }

    /// The producer's thread: polls librdkafka, whose events call `done`.
    fn run(self: Arc<Self>) {
        loop {
            let (native, due) = {
                let state = lock(&self.state);
                if state.closed {
                    break;
                }
                let due = state.recovery.as_ref().is_some_and(|r| Instant::now() >= r.at);
                (state.native.clone(), due)
            };
            match &native {
                Some(native) => native.poll(Duration::from_millis(50)),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
            if due {
                self.resend_all(native);
            }
        }
        // Fail the records that are still pending: nobody will send them.
        let (native, pending) = {
            let mut state = lock(&self.state);
            state.bytes = 0;
            (state.native.take(), std::mem::take(&mut state.pending))
        };
        drop(native);
        for entry in pending.into_values() {
            (entry.done)(Err(BusError::Closed));
        }
        self.changed.notify_all();
    }

    /// Gives every pending record to librdkafka again, once librdkafka holds none of them any more.
    fn resend_all(self: &Arc<Self>, native: Option<Arc<BaseProducer<Context>>>) {
        let rebuild = lock(&self.state).recovery.as_ref().is_some_and(|r| r.rebuild);
        let native = match native {
            Some(native) if !rebuild && native.client().fatal_error().is_none() => {
                if native.in_flight_count() > 0 {
                    return;
                }
                native
            }
            old => {
                lock(&self.state).native = None;
                // Dropping the client reports its pending records as failed, which takes the lock.
                drop(old);
                match self.build() {
                    Ok(native) => Arc::new(native),
                    Err(error) => {
                        tracing::error!(%error, "no new producer");
                        let mut state = lock(&self.state);
                        let at = Instant::now() + state.backoff.pause();
                        state.recovery = Some(Recovery { rebuild: true, at });
                        return;
                    }
                }
            }
        };
        let mut refused = Vec::new();
        let mut state = lock(&self.state);
        state.native = Some(Arc::clone(&native));
        state.recovery = None;
        let mut failed = None;
        for (number, entry) in &state.pending {
            if let Err(error) = hand_over(&native, *number, &entry.record) {
                match permanent(&error, &entry.record.topic) {
                    Some(error) => refused.push((*number, error)),
                    None => {
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
        if let Some(error) = failed {
            self.schedule_resend(&mut state, &error);
        }
        tracing::info!(records = state.pending.len(), "sent again");
        drop(state);
        for (number, error) in refused {
            self.finish(number, Err(error));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // The last clone may be dropped in a `done`, on this thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
