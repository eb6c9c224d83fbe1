//! The worker's pipeline: topic `crops` -> embed stage -> topic `sightings`.
//!
//! ```text
//! Consumer (bus.in_flight_bytes open) -> feed -> Queue -> embed stage -> Queue -> send -> Producer -> receipt -> commit
//! ```
//!
//! A record is acknowledged when the broker has its sighting or dead letter. If a worker is killed
//! before, another worker gets the record again; its second sighting has the same id and overwrites
//! the first.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow};
use sightline_bus::wire::{self, Coding};
use sightline_bus::{self as bus, BusError, Consumer, DeadLetters, Outgoing, Producer, TopicSpec};
use sightline_core::config::PatchCoding;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraEvent, Config, Delivery, IndexEvent, Receipt, Timestamp};
use sightline_embed::{Embedder, stage};
use uuid::Uuid;

use crate::ledger::Ledger;
use crate::status::{Running, Status};

/// Consumer group of all workers.
const GROUP: &str = "sightline-embed";
/// Timeout of a wait for the next record, so that a shutdown is noticed.
const POLL: Duration = Duration::from_millis(200);
/// Capacity of the queue of sightings before the producer, which has a queue of its own.
const OUTPUT_CAPACITY: usize = 64;
/// Timeout for the last records to reach the broker at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// A sighting that could not be sent: trace, reason, receipt.
type Unsendable = (Uuid, String, Receipt);

/// Works until `shutdown`, then finishes the in-flight records.
///
/// # Errors
/// A model or device that does not work, settings that are wrong, or an inference thread that has
/// died.
pub fn run(config: &Config, node: &str, status: &Status, shutdown: &Shutdown) -> anyhow::Result<()> {
    status.set_phase("loading the model");
    let embedder = Embedder::start(&config.model.folder, &config.embed)?;
    status.set_phase("waiting for the broker's topics");
    let bus = &config.bus;
    let dead_topic = bus::dead_letter_topic(bus, &bus.crops_topic);
    let topics = [&bus.crops_topic, &bus.sightings_topic, &dead_topic].map(TopicSpec::aging);
    if let Err(error) = bus::await_topics(bus, &topics, shutdown) {
        return if shutdown.is_triggered() { Ok(()) } else { Err(error.into()) };
    }
    let producer = Producer::start(bus, node)?;
    let ledger = Ledger::new(DeadLetters::new(producer.clone(), bus, "embed"), &bus.crops_topic);
    let consumer = Arc::new(Consumer::start(bus, GROUP, &[&bus.crops_topic], node)?);
    let running =
        Running { consumer: Arc::downgrade(&consumer), producer: producer.clone(), embedder: embedder.clone() };
    status.set_running(running);

    let input: Queue<Delivery<CameraEvent>> = Queue::new((2 * config.embed.batch).max(16));
    let output: Queue<Delivery<IndexEvent>> = Queue::new(OUTPUT_CAPACITY);
    let outcome = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(&output, &producer, &ledger, config));
        let embedding = scope.spawn(|| {
            // The stage ends when its queue is closed, after all in-flight records.
            let never = Shutdown::new();
            let ended = stage::run(&input, &embedder, &output, &*ledger, &config.embed, &never);
            input.close();
            ended
        });
        feed(&consumer, &ledger, &input, shutdown);
        // A stage that has died completes no record, so there is nothing to wait for.
        if !input.is_closed() {
            status.set_phase("finishing what was begun");
            close(consumer);
        }
        input.close();
        let embedded = embedding.join().map_err(|_| anyhow!("the embed stage panicked"))?;
        output.close();
        sending.join().map_err(|_| anyhow!("the sending thread panicked"))?;
        embedded.context("embedding")
    });
    if !producer.flush(FLUSH_TIMEOUT) {
        tracing::warn!("the broker has not taken everything; it comes again at the next start");
    }
    outcome
}

/// Moves records from the broker to the stage until `shutdown` or until the stage has ended.
fn feed(consumer: &Consumer, ledger: &Arc<Ledger>, input: &Queue<Delivery<CameraEvent>>, shutdown: &Shutdown) {
    while !shutdown.is_triggered() && !input.is_closed() {
        let Some(delivery) = consumer.next(POLL) else { continue };
        metrics::gauge!("sightline_embed_queue_events").set(input.len() as f64);
        if let Some(event) = ledger.decode(delivery)
            && input.push_wait(event).is_err()
        {
            return;
        }
    }
}

/// Closes the consumer after the in-flight records. A status request may hold it for a moment,
/// hence the loop.
fn close(consumer: Arc<Consumer>) {
    let mut shared = consumer;
    loop {
        match Arc::try_unwrap(shared) {
            Ok(consumer) => return consumer.close(),
            Err(still) => shared = still,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends sightings from the stage to the broker until the queue is closed and empty.
fn send(output: &Queue<Delivery<IndexEvent>>, producer: &Producer, ledger: &Ledger, config: &Config) {
    let coding = match config.bus.patches {
        PatchCoding::F16 => Coding::F16,
        PatchCoding::Int8 => Coding::Int8,
    };
    let (unsendable, returned) = mpsc::channel::<Unsendable>();
    while !(output.is_closed() && output.is_empty()) {
        if let Some(delivery) = output.pop(POLL) {
            send_one(delivery, coding, producer, ledger, &config.bus.sightings_topic, &unsendable);
        }
        // The producer's thread must not wait, so what it returns is set aside here.
        for (trace, reason, receipt) in returned.try_iter() {
            ledger.set_aside(trace, &reason, receipt);
        }
    }
}

fn send_one(
    delivery: Delivery<IndexEvent>,
    coding: Coding,
    producer: &Producer,
    ledger: &Ledger,
    topic: &str,
    unsendable: &mpsc::Sender<Unsendable>,
) {
    let Delivery { event, receipt } = delivery;
    let (camera, trace) = (event.camera().clone(), trace(&event));
    let payload = match wire::encode_index_event(&event, coding) {
        Ok(payload) => payload,
        Err(error) => return ledger.set_aside(trace, &error.to_string(), receipt),
    };
    if let IndexEvent::Progress(progress) = &event {
        let lag = Timestamp::now().seconds_since(progress.analysed_through);
        metrics::gauge!("sightline_embed_lag_seconds", "camera" => camera.to_string()).set(lag);
    }
    drop(event);
    let record = Outgoing { topic: topic.to_owned(), key: camera.to_string(), payload, headers: Vec::new() };
    let unsendable = unsendable.clone();
    let sent = producer.send(record, move |outcome| match outcome {
        Ok(()) => {
            metrics::counter!("sightline_embed_published_records_total", "camera" => camera.to_string()).increment(1);
            receipt.complete();
        }
        Err(error) => return_unsendable(&error, trace, receipt, &unsendable),
    });
    if let Err(error) = sent {
        // The receipt went with the record, so the record is redelivered at the next start. Sizes
        // were checked before.
        tracing::error!(%error, %trace, "not sent");
    }
}

/// Returns a record that can never be sent, to be dead-lettered. A record in flight when the
/// producer closed is redelivered.
fn return_unsendable(error: &BusError, trace: Uuid, receipt: Receipt, unsendable: &mpsc::Sender<Unsendable>) {
    if error.is_permanent() {
        // At shutdown the receiver is gone, and the record is redelivered.
        let _ = unsendable.send((trace, error.to_string(), receipt));
    }
}

fn trace(event: &IndexEvent) -> Uuid {
    match event {
        IndexEvent::Sighting(s) => s.crop.origin.trace,
        IndexEvent::TrackEnd(e) => e.origin.trace,
        IndexEvent::Progress(p) => p.origin.trace,
        IndexEvent::Report(r) => r.origin.trace,
    }
}
