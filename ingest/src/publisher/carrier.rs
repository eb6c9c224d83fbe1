//! What brings records to the broker: Kafka's producer, and a stand-in for it in the tests.

use bytes::Bytes;

/// Why a record has not arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// It never will, however often it is sent.
    Never(String),
    /// The carrier has given up for now.
    Later(String),
}

/// Called once when a record has arrived, or not. May be called from any thread; does not block.
pub type Done = Box<dyn FnOnce(Result<(), Undelivered>) + Send>;

/// Brings records to the topic.
pub trait Carrier: Send + Sync {
    /// Takes a record under the camera's key, in order with its others; `false` when there is no room. Never waits.
    fn try_send(&self, camera: &str, payload: Bytes, done: Done) -> bool;

    /// Why nothing arrives at present; `None` when all is well.
    fn fault(&self) -> Option<String>;
}
