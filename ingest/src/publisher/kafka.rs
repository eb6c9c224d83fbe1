//! Kafka's producer as the carrier.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sightline_core::bus::{BusError, Outgoing, Producer, Unsent};

use super::{Carrier, Done, Undelivered};

/// Sends to one topic.
#[derive(Clone, Debug)]
pub struct KafkaCarrier {
    producer: Producer,
    topic: String,
}

impl KafkaCarrier {
    /// Sends to `topic`; the producer bounds the bytes on their way.
    pub fn new(producer: Producer, topic: &str) -> Self {
        Self { producer, topic: topic.to_owned() }
    }
}

fn undelivered(error: &BusError) -> Undelivered {
    if error.is_permanent() { Undelivered::Never(error.to_string()) } else { Undelivered::Later(error.to_string()) }
}

impl Carrier for KafkaCarrier {
    fn try_send(&self, camera: &str, payload: Bytes, done: Done) -> bool {
        // Called once: by the producer when the record's fate is known, or below when it does not take the record.
        let done = Arc::new(Mutex::new(Some(done)));
        let once = Arc::clone(&done);
        let call = move |outcome: Result<(), Undelivered>| {
            let done = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                done(outcome);
            }
        };
        let record = Outgoing { topic: self.topic.clone(), key: camera.to_owned(), payload, headers: Vec::new() };
        let later = call.clone();
        match self.producer.try_send(record, move |outcome| later(outcome.map_err(|e| undelivered(&e)))) {
            Ok(()) => true,
            Err(Unsent::Full(..)) => false,
            Err(Unsent::Failed(error)) => {
                call(Err(undelivered(&error)));
                true
            }
        }
    }

    fn fault(&self) -> Option<String> {
        self.producer.fault()
    }
}
