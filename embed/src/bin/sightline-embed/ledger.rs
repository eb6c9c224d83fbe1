//! Ledger of in-flight crops: it keeps the record of each, so that a crop that cannot be embedded
//! is dead-lettered with its topic, partition and offset.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sightline_bus::wire;
use sightline_bus::{DeadLetters, Incoming};
use sightline_core::{CameraEvent, Delivery, Receipt, RefusalHandler};
use uuid::Uuid;

/// The records of in-flight crops, and the dead-letter queue.
pub struct Ledger {
    /// In-flight records by trace id; a redelivered record has the same id.
    open: Mutex<HashMap<Uuid, Vec<Incoming>>>,
    dead: DeadLetters,
    /// Topic of a dead letter whose record is unknown, which would be a bug.
    topic: String,
}

/// Removes its record from the ledger when dropped, with the receipt.
struct OpenRecord {
    ledger: Arc<Ledger>,
    trace: Uuid,
    partition: i32,
    offset: i64,
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        let mut open = self.ledger.open();
        let Some(records) = open.get_mut(&self.trace) else { return };
        records.retain(|r| (r.partition, r.offset) != (self.partition, self.offset));
        if records.is_empty() {
            open.remove(&self.trace);
        }
    }
}

impl Ledger {
    /// Refused records of `topic` go to `dead`.
    pub fn new(dead: DeadLetters, topic: &str) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), dead, topic: topic.to_owned() })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, Vec<Incoming>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decodes a record, and keeps it if it is a crop. A record that cannot be decoded is
    /// dead-lettered, and `None` is returned.
    pub fn decode(self: &Arc<Self>, delivery: Delivery<Incoming>) -> Option<Delivery<CameraEvent>> {
        let Delivery { event: incoming, receipt } = delivery;
        let event = match wire::decode_camera_event(incoming.payload.clone()) {
            Ok(event) => event,
            Err(error) => {
                metrics::counter!("sightline_embed_poison_records_total").increment(1);
                tracing::warn!(partition = incoming.partition, offset = incoming.offset, %error, "record set aside");
                self.dead.send(incoming, &error.to_string(), receipt);
                return None;
            }
        };
        let CameraEvent::Crop(crop) = &event else { return Some(Delivery::new(event, receipt)) };
        let trace = crop.origin.trace;
        let (ledger, partition, offset) = (Arc::clone(self), incoming.partition, incoming.offset);
        self.open().entry(trace).or_default().push(incoming);
        let entry = OpenRecord { ledger, trace, partition, offset };
        let receipt = Receipt::new(move || {
            drop(entry);
            receipt.complete();
        });
        Some(Delivery::new(event, receipt))
    }

    /// Dead-letters the record of the crop with this trace id.
    pub fn set_aside(&self, trace: Uuid, reason: &str, receipt: Receipt) {
        let known = self.open().get_mut(&trace).and_then(Vec::pop);
        let unknown = || Incoming {
            topic: self.topic.clone(),
            partition: -1,
            offset: -1,
            key: None,
            payload: Default::default(),
            headers: Vec::new(),
        };
        self.dead.send(known.unwrap_or_else(unknown), reason, receipt);
    }
}

impl RefusalHandler<CameraEvent> for Ledger {
    fn refuse(&self, event: CameraEvent, reason: &str, receipt: Receipt) {
        match event {
            CameraEvent::Crop(crop) => self.set_aside(crop.origin.trace, reason, receipt),
            // Nothing else is ever refused.
            other => {
                tracing::error!(camera = %other.camera(), reason, "refused");
                receipt.complete();
            }
        }
    }
}
