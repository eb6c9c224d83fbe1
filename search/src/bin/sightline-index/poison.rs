//! Keeps the records whose messages are being stored, so that one that is refused goes to the dead letters as it came.
//!
//! The indexer knows messages, not records. Pictures and features of a message share the memory of its record, so keeping
//! both costs little.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sightline_core::bus::{DeadLetters, Incoming};
use sightline_core::wire::{self, Coding};
use sightline_core::{CameraId, Delivery, IndexEvent, Receipt, Refused};
use uuid::Uuid;

/// Names a sighting among those under way.
type Key = (CameraId, Uuid, u64);

/// See the module.
#[derive(Clone)]
pub struct Poison {
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

impl Poison {
    /// Refused messages of `topic` go to `dead`.
    pub fn new(dead: DeadLetters, topic: &str) -> Self {
        Self { records: Arc::default(), dead, topic: topic.to_owned() }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Key, Incoming>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message of a record; `None` when there is none in it, and it has gone to the dead letters.
    pub fn open(&self, delivery: Delivery<Incoming>) -> Option<Delivery<IndexEvent>> {
        let Delivery { event: record, receipt } = delivery;
        match wire::decode_index_event(record.payload.clone()) {
            Ok(event) => Some(self.watch(event, record, receipt)),
            Err(error) => {
                self.dead.send(record, &error.to_string(), receipt);
                None
            }
        }
    }

    fn watch(&self, event: IndexEvent, record: Incoming, receipt: Receipt) -> Delivery<IndexEvent> {
        // What is not a sighting is never refused.
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

impl Refused<IndexEvent> for Poison {
    fn refuse(&self, event: IndexEvent, reason: &str, receipt: Receipt) {
        let kept = key(&event).and_then(|key| self.records().get(&key).cloned());
        // The same message twice under way: the first that is refused takes the record with it.
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
