//! In-flight records: keeps the record of each message that is being stored, so that a refused one
//! goes to the dead letters unchanged.
//!
//! The indexer knows messages, not records. The pictures and features of a message share the memory
//! of its record, so keeping both costs little.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sightline_bus::wire::{self, Coding};
use sightline_bus::{DeadLetters, Incoming};
use sightline_core::{CameraId, Delivery, IndexEvent, Receipt, RefusalHandler};
use uuid::Uuid;

/// Key of a sighting in flight.
type Key = (CameraId, Uuid, u64);

/// Records in flight, by sighting.
#[derive(Clone)]
pub struct InFlightRecords {
    records: Arc<Mutex<HashMap<Key, Incoming>>>,
    dead: DeadLetters,
    topic: String,
}

fn key(event: &IndexEvent) -> Option<Key> {
    match event {
        IndexEvent::Sighting(s) => Some((s.crop.camera.clone(), s.crop.origin.trace, s.crop.origin.seq)),
        IndexEvent::TrackEnd(_) | IndexEvent::Progress(_) | IndexEvent::Report(_) => None,
    }
}

impl InFlightRecords {
    /// Creates an empty set; refused messages of `topic` go to `dead`.
    pub fn new(dead: DeadLetters, topic: &str) -> Self {
        Self { records: Arc::default(), dead, topic: topic.to_owned() }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Key, Incoming>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decodes the message of a record; `None` when the record is invalid, in which case it has
    /// gone to the dead letters.
    pub fn open(&self, delivery: Delivery<Incoming>) -> Option<Delivery<IndexEvent>> {
        let Delivery { event: record, receipt } = delivery;
        match wire::decode_index_event(record.payload.clone()) {
            Ok(event) => Some(self.track(event, record, receipt)),
            Err(error) => {
                self.dead.send(record, &error.to_string(), receipt);
                None
            }
        }
    }

    fn track(&self, event: IndexEvent, record: Incoming, receipt: Receipt) -> Delivery<IndexEvent> {
        // Only sightings are ever refused.
        let Some(key) = key(&event) else { return Delivery::new(event, receipt) };
        self.records().insert(key.clone(), record);
        let records = Arc::clone(&self.records);
        let done = move || {
            records.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            receipt.complete();
        };
        Delivery::new(event, Receipt::new(done))
    }
}

impl RefusalHandler<IndexEvent> for InFlightRecords {
    fn refuse(&self, event: IndexEvent, reason: &str, receipt: Receipt) {
        let kept = key(&event).and_then(|key| self.records().get(&key).cloned());
        // When the same message is in flight twice, the first refusal takes the record.
        let record = kept.unwrap_or_else(|| Incoming {
            topic: self.topic.clone(),
            partition: -1,
            offset: -1,
            key: Some(Bytes::from(event.camera().to_string())),
            payload: wire::encode_index_event(&event, Coding::F16).unwrap_or_default(),
            headers: Vec::new(),
        });
        self.dead.send(record, reason, receipt);
    }
}
