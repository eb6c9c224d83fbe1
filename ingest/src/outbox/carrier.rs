//! The transport of the outbox: Kafka's producer, or a stand-in for it in the tests.

use bytes::Bytes;

/// Why a record was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryError {
    /// A retry cannot help.
    Permanent(String),
    /// The carrier gave up for now; the record should be sent again.
    Retryable(String),
}

/// Called once with the outcome of a delivery, from any thread; must not block.
pub type DeliveryCallback = Box<dyn FnOnce(Result<(), DeliveryError>) + Send>;

/// Sends records to the topic.
pub trait Carrier: Send + Sync {
    /// Accepts a record with the camera as its key, in order with that camera's other records;
    /// `false` when there is no room. Never waits.
    fn try_send(&self, camera: &str, payload: Bytes, done: DeliveryCallback) -> bool;

    /// Why nothing is delivered at present; `None` when deliveries work.
    fn fault(&self) -> Option<String>;
}
