//! The carrier of the outbox on Kafka's producer.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sightline_bus::{BusError, Outgoing, Producer, TrySendError};

use super::{Carrier, DeliveryCallback, DeliveryError};

/// Sends to one topic.
#[derive(Clone, Debug)]
pub struct KafkaCarrier {
    producer: Producer,
    topic: String,
}

impl KafkaCarrier {
    /// Sends to `topic`; the producer bounds the bytes in flight.
    pub fn new(producer: Producer, topic: &str) -> Self {
        Self { producer, topic: topic.to_owned() }
    }
}

fn delivery_error(error: &BusError) -> DeliveryError {
    if error.is_permanent() {
        DeliveryError::Permanent(error.to_string())
    } else {
        DeliveryError::Retryable(error.to_string())
    }
}

impl Carrier for KafkaCarrier {
    fn try_send(&self, camera: &str, payload: Bytes, done: DeliveryCallback) -> bool {
        // `done` is called once: by the producer when the outcome is known, or below when the
        // producer refuses the record.
        let done = Arc::new(Mutex::new(Some(done)));
        let once = Arc::clone(&done);
        let call = move |outcome: Result<(), DeliveryError>| {
            let done = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                done(outcome);
            }
        };
        let record = Outgoing { topic: self.topic.clone(), key: camera.to_owned(), payload, headers: Vec::new() };
        let later = call.clone();
        match self.producer.try_send(record, move |outcome| later(outcome.map_err(|e| delivery_error(&e)))) {
            Ok(()) => true,
            Err(TrySendError::Full(..)) => false,
            Err(TrySendError::Failed(error)) => {
                call(Err(delivery_error(&error)));
                true
            }
        }
    }

    fn fault(&self) -> Option<String> {
        self.producer.fault()
    }
}
