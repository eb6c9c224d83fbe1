//! Sends records so that they arrive: idempotent, acknowledged by all replicas in sync, tried for ever, bounded by bytes.
//!
//! Every record is kept until the broker has it. librdkafka retries by itself; where it gives up all the same (it does
//! after errors that break its sequence of numbers), a new client is made and everything that is kept is sent again, in
//! its order. Such a restart may send a record twice: readers bear that, because ids are deterministic.

mod native;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};

use super::client::{self, Health, lock};
use super::{Backoff, BusError, MAX_DEAD_BYTES, MAX_RECORD_BYTES, Outgoing};
use crate::config::BusConfig;
use native::{Context, hand_over, permanent};

/// Records wait at most so long for company in a batch, in milliseconds.
const LINGER_MS: &str = "5";

/// Nothing was acknowledged for so long although something waits: the broker is at fault.
const SLOW: Duration = Duration::from_secs(15);

type Done = Box<dyn FnOnce(Result<(), BusError>) + Send>;

/// A record that was not taken.
#[derive(Debug)]
pub enum Unsent<F> {
    /// No room at the moment; here it is back, with its `done`.
    Full(Outgoing, F),
    /// It can never be sent.
    Failed(BusError),
}

/// A record on its way.
struct Entry {
    record: Outgoing,
    done: Done,
    cost: usize,
    since: Instant,
}

/// Something went wrong: nothing new is given to librdkafka before all that is kept was sent again.
struct Recovery {
    rebuild: bool,
    at: Instant,
}

struct State {
    native: Option<Arc<BaseProducer<Context>>>,
    pending: BTreeMap<usize, Entry>,
    next: usize,
    bytes: usize,
    recovery: Option<Recovery>,
    backoff: Backoff,
    /// When something was acknowledged, or when the first record came after a pause.
    alive: Instant,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Room has come, or nothing is on its way any more.
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

/// Sends records. Cloning shares it; when the last clone is dropped, what is still on its way comes back as
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
    /// Starts a producer; the broker need not be there yet.
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
            // Batches stay within what an ordinary topic takes.
            .set("batch.size", "1000000")
            .set("linger.ms", LINGER_MS)
            // As Kafka's own clients do it, so that programs in other languages put a camera into the same partition.
            .set("partitioner", "murmur2_random")
            // The bound is kept here, by bytes.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", "2097151");
        let state = State {
            native: None,
            pending: BTreeMap::new(),
            next: 1,
            bytes: 0,
            recovery: None,
            backoff: Backoff::server(),
            alive: Instant::now(),
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

    /// Sends a record; waits while `bus.in_flight_bytes` are on their way. `done` gets `Ok` once all replicas in sync have
    /// it, and an error only for what can never be sent or when the producer is closed. It is called from the producer's
    /// thread and must not block there. When this function fails, `done` is not called.
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
    /// [`Unsent::Full`] gives the record back when there is no room at the moment.
    pub fn try_send<F>(&self, record: Outgoing, done: F) -> Result<(), Unsent<F>>
    where
        F: FnOnce(Result<(), BusError>) + Send + 'static,
    {
        let shared = &self.handle.shared;
        shared.check(&record).map_err(Unsent::Failed)?;
        let cost = cost(&record);
        let state = lock(&shared.state);
        if !state.closed && !shared.has_room(&state, cost) {
            return Err(Unsent::Full(record, done));
        }
        shared.enqueue(state, record, Box::new(done), cost).map_err(Unsent::Failed)
    }

    /// Sends a record and waits until the broker has it.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`BusError::Late`] after `timeout`, though it may still arrive later.
    pub fn send_and_wait(&self, record: Outgoing, timeout: Duration) -> Result<(), BusError> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.send(record, move |result| {
            let _ = tx.send(result);
        })?;
        rx.recv_timeout(timeout).unwrap_or(Err(BusError::Late("sending")))
    }

    /// Bytes that records on their way take in memory.
    pub fn in_flight_bytes(&self) -> usize {
        lock(&self.handle.shared.state).bytes
    }

    /// Whether the broker has answered lately: `None` when all is well, else why not.
    pub fn fault(&self) -> Option<String> {
        let shared = &self.handle.shared;
        let state = lock(&shared.state);
        let waiting = state.alive.elapsed();
        if !state.pending.is_empty() && waiting > SLOW {
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

    /// Waits until nothing is on its way; whether that came within `timeout`.
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

/// Memory of a record on its way: here and, copied, in librdkafka.
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

    /// One record always has room, however large.
    fn has_room(&self, state: &State, cost: usize) -> bool {
        state.pending.is_empty() || state.bytes + cost <= self.limit
    }

    fn enqueue(
        &self,
        mut state: MutexGuard<'_, State>,
        record: Outgoing,
        done: Done,
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
            self.recover(&mut state, &error);
        }
        if state.pending.is_empty() {
            state.alive = Instant::now();
        }
        state.next += 1;
        state.bytes += cost;
        state.pending.insert(number, Entry { record, done, cost, since: Instant::now() });
        self.gauge(&state);
        Ok(())
    }

    fn gauge(&self, state: &State) {
        metrics::gauge!("sightline_bus_in_flight_bytes").set(state.bytes as f64);
        metrics::gauge!("sightline_bus_in_flight_records").set(state.pending.len() as f64);
    }

    /// Something failed that is worth another attempt.
    fn recover(&self, state: &mut State, error: &KafkaError) {
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

    /// The record is over, one way or the other.
    fn settle(&self, number: usize, result: Result<(), BusError>) {
        let mut state = lock(&self.state);
        let Some(entry) = state.pending.remove(&number) else { return };
        state.bytes -= entry.cost;
        state.alive = Instant::now();
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

    /// The producer's thread: serves librdkafka's events, which call `done`.
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
                self.send_again(native);
            }
        }
        // Whoever still waits learns that nobody will send it.
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

    /// Gives everything that is kept to librdkafka again, once it holds nothing of it any more.
    fn send_again(self: &Arc<Self>, native: Option<Arc<BaseProducer<Context>>>) {
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
                // Reports what it had; that takes the lock.
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
            self.recover(&mut state, &error);
        }
        tracing::info!(records = state.pending.len(), "sent again");
        drop(state);
        for (number, error) in refused {
            self.settle(number, Err(error));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // The last clone may go in a `done`, on the thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
