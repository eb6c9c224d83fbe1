//! The sender thread: it reads records from the outbox, sends them to the broker, and deletes those
//! that the broker has acknowledged.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use sightline_bus::placement::Verdict;
use sightline_bus::wire;
use sightline_core::CameraId;
use tracing::{error, warn};

use super::store::{OutboxError, PlacementStamp};
use super::{DeliveryCallback, DeliveryError, Shared, kind, lock};

/// Bytes read from the outbox at once: few compared with `bus.in_flight_bytes`, yet many records
/// per query.
const READ_BYTES: usize = 1 << 20;
/// Records read from the outbox at once.
const READ_RECORDS: usize = 512;
/// Largest number of records in flight; their bytes are limited by the carrier.
const MAX_IN_FLIGHT: usize = 10_000;
/// Longest sleep of the thread between two looks at the outbox.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Pause after a failure of the disk or the carrier.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A record that was read from the outbox but not yet accepted by the carrier.
struct ReadRecord {
    id: i64,
    camera: CameraId,
    payload: Bytes,
    placed: Option<PlacementStamp>,
}

/// Outcomes that the carrier has reported since the thread looked last.
#[derive(Default)]
struct Deliveries {
    /// Records given to the carrier whose outcome is not known yet.
    in_flight: usize,
    /// Records to delete: acknowledged, or refused for good.
    finished: Vec<i64>,
    /// A delivery failed but may be retried: every record that was not acknowledged is sent again.
    resend: bool,
}

/// The sending side of a [`super::Publisher`].
pub(super) struct Sender {
    shared: Arc<Shared>,
    deliveries: Arc<Mutex<Deliveries>>,
    read: VecDeque<ReadRecord>,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, deliveries: Arc::default(), read: VecDeque::new() }
    }

    /// Sends until the publisher is closed and every record is acknowledged, or until `stop_now` is
    /// set.
    pub(super) fn run(mut self) {
        self.shared.open.store(true, Ordering::Relaxed);
        loop {
            match self.send_pending() {
                Ok(true) => return,
                Ok(false) => self.shared.wake.wait(POLL_INTERVAL),
                Err(why) => {
                    self.shared.note_disk(&mut lock(&self.shared.state), &why);
                    if why.is_damage() {
                        self.recover();
                    }
                    if self.stopping() {
                        return;
                    }
                    std::thread::sleep(RETRY_PAUSE);
                }
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stop_now.load(Ordering::Relaxed)
    }

    /// Rebuilds a damaged database from the records that can still be read.
    fn recover(&mut self) {
        let mut state = lock(&self.shared.state);
        // Record ids start again, so the ids read before are no longer valid. Records in flight may
        // arrive twice; deterministic ids make the second one an overwrite.
        self.read.clear();
        self.deliveries = Arc::default();
        match state.outbox.recover() {
            Ok(lost) => {
                counter!("sightline_ingest_unreadable_records_total").increment(lost);
                state.disk = None;
            }
            Err(why) => error!(%why, "the outbox cannot be made anew"),
        }
    }

    /// Deletes acknowledged records and sends as many as there is room for. Returns whether the
    /// publisher is closed and the outbox empty.
    fn send_pending(&mut self) -> Result<bool, OutboxError> {
        loop {
            let again = self.acknowledge_finished()?;
            if self.stopping() {
                return Ok(true);
            }
            if again {
                std::thread::sleep(RETRY_PAUSE);
            }
            if self.read.is_empty() && !self.read_more()? {
                let state = lock(&self.shared.state);
                return Ok(state.closed && state.outbox.is_empty());
            }
            while let Some(record) = self.read.pop_front() {
                match self.verdict(&record) {
                    Verdict::Send => {}
                    Verdict::Superseded => {
                        let camera = record.camera.to_string();
                        counter!("sightline_ingest_superseded_records_total", "camera" => camera).increment(1);
                        lock(&self.deliveries).finished.push(record.id);
                        continue;
                    }
                    // The records behind it wait, too: order is kept, and who is cut off from the
                    // placement is usually cut off from the topic.
                    Verdict::Wait => {
                        self.read.push_front(record);
                        return Ok(false);
                    }
                }
                if let Some(record) = self.send(record) {
                    self.read.push_front(record);
                    return Ok(false);
                }
            }
        }
    }

    /// Deletes acknowledged records. Returns whether records have to be sent again. After an error
    /// the deletion is retried.
    fn acknowledge_finished(&mut self) -> Result<bool, OutboxError> {
        let (finished, resend) = {
            let mut deliveries = lock(&self.deliveries);
            (std::mem::take(&mut deliveries.finished), std::mem::take(&mut deliveries.resend))
        };
        if finished.is_empty() && !resend {
            return Ok(false);
        }
        let mut state = lock(&self.shared.state);
        if let Err(why) = state.outbox.acknowledge(&finished) {
            let mut deliveries = lock(&self.deliveries);
            deliveries.finished.extend(finished);
            deliveries.resend |= resend;
            return Err(why);
        }
        // The next picture finds out whether there is room.
        state.full = false;
        self.shared.note_bytes(&state);
        self.shared.room.notify_all();
        if resend {
            // Records still in flight may then arrive twice; deterministic ids make the second one
            // an overwrite.
            self.read.clear();
            state.outbox.rewind();
        }
        Ok(resend)
    }

    /// Reads more records from the outbox. Returns whether there were any.
    fn read_more(&mut self) -> Result<bool, OutboxError> {
        if lock(&self.deliveries).in_flight >= MAX_IN_FLIGHT {
            return Ok(false);
        }
        let mut state = lock(&self.shared.state);
        let taken = state.outbox.take(READ_RECORDS, READ_BYTES)?;
        if taken.damaged > 0 {
            error!(records = taken.damaged, "records of the outbox were changed on disk; they are lost");
            counter!("sightline_ingest_unreadable_records_total").increment(taken.damaged);
        }
        let any = !taken.records.is_empty();
        let mut foreign = Vec::new();
        for record in taken.records {
            match record.camera.parse() {
                Ok(camera) => {
                    let (payload, placed) = (record.payload.into(), record.placed);
                    self.read.push_back(ReadRecord { id: record.id, camera, payload, placed });
                }
                Err(_) => foreign.push(record.id),
            }
        }
        if !foreign.is_empty() {
            error!(records = foreign.len(), "records of the outbox name no camera; they are left out");
            counter!("sightline_ingest_foreign_records_total").increment(foreign.len() as u64);
            lock(&self.deliveries).finished.extend(foreign);
        }
        Ok(any)
    }

    /// Whether a record may be sent. Those of the node's own cameras may always.
    fn verdict(&self, record: &ReadRecord) -> Verdict {
        let Some(PlacementStamp { epoch, recorded_at }) = record.placed else { return Verdict::Send };
        let fence = self.shared.fence.get();
        fence.map_or(Verdict::Wait, |fence| fence.verdict(&record.camera, epoch, recorded_at))
    }

    /// Gives a record to the carrier; returns the record when the carrier has no room.
    fn send(&self, record: ReadRecord) -> Option<ReadRecord> {
        lock(&self.deliveries).in_flight += 1;
        let done = self.delivery_callback(record.id, record.camera.clone(), record.payload.clone());
        if self.shared.carrier.try_send(record.camera.as_str(), record.payload.clone(), done) {
            return None;
        }
        lock(&self.deliveries).in_flight -= 1;
        Some(record)
    }

    fn delivery_callback(&self, id: i64, camera: CameraId, payload: Bytes) -> DeliveryCallback {
        let (deliveries, wake) = (Arc::clone(&self.deliveries), Arc::clone(&self.shared.wake));
        let refused_crops = Arc::clone(&self.shared.refused_crops);
        Box::new(move |outcome| {
            let mut deliveries = lock(&deliveries);
            deliveries.in_flight = deliveries.in_flight.saturating_sub(1);
            match outcome {
                Ok(()) => {
                    counter!("sightline_ingest_published_records_total", "camera" => camera.to_string()).increment(1);
                    deliveries.finished.push(id);
                }
                Err(DeliveryError::Permanent(why)) => {
                    let kind = wire::decode_camera_event(payload).map_or("unreadable", |event| kind(&event));
                    error!(%camera, kind, why, "the broker refuses a record for good; it is lost");
                    let labels = [("camera", camera.to_string()), ("kind", kind.into())];
                    counter!("sightline_ingest_refused_records_total", &labels).increment(1);
                    if kind == "crop" {
                        *lock(&refused_crops).entry(camera).or_default() += 1;
                    }
                    deliveries.finished.push(id);
                }
                Err(DeliveryError::Retryable(why)) => {
                    warn!(%camera, why, "a record has not arrived; it will be sent again");
                    deliveries.resend = true;
                }
            }
            drop(deliveries);
            wake.notify();
        })
    }
}
