//! Acknowledgement that travels with a message: its source learns when the message has been stored.
//!
//! A message taken from the bus stays *open* there until everything that follows from it is stored:
//! each stage passes the [`Receipt`] on with its results, and the last stage completes it. Dropping
//! a receipt leaves the message open, so that the source delivers it again. This gives at-least-once
//! delivery without any other communication between stages.

use std::fmt;

/// Acknowledges a message; to be completed once everything that follows from it is stored.
#[must_use = "a receipt that is dropped leaves its message open: it will be delivered again"]
pub struct Receipt(Option<Box<dyn FnOnce() + Send>>);

impl Receipt {
    /// A receipt that calls `done` when it is completed.
    pub fn new(done: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(done)))
    }

    /// A receipt for messages that need no acknowledgement: between the stages of one process.
    pub fn none() -> Self {
        Self(None)
    }

    /// Acknowledges the message.
    pub fn complete(self) {
        if let Some(done) = self.0 {
            done();
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Receipt(open)" } else { "Receipt(none)" })
    }
}

/// A message with its receipt.
#[derive(Debug)]
pub struct Delivery<E> {
    /// The message.
    pub event: E,
    /// To be completed when everything that follows from it is stored.
    pub receipt: Receipt,
}

impl<E> Delivery<E> {
    /// A message with its receipt.
    pub fn new(event: E, receipt: Receipt) -> Self {
        Self { event, receipt }
    }
}

impl<E> From<E> for Delivery<E> {
    /// Wraps a message that needs no acknowledgement.
    fn from(event: E) -> Self {
        Self { event, receipt: Receipt::none() }
    }
}

/// Handles messages that can never be processed, however often they are delivered: damaged
/// pictures, features of another model. Called from the stage's thread; must not block for long.
pub trait RefusalHandler<E>: Send + Sync {
    /// Keeps (or discards) the message with the reason, and completes the receipt when that is
    /// done.
    fn refuse(&self, event: E, reason: &str, receipt: Receipt);
}

/// Discards refused messages. The stage has logged and counted them already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl<E> RefusalHandler<E> for Discard {
    fn refuse(&self, _: E, _: &str, receipt: Receipt) {
        receipt.complete();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_receipt_is_completed_once_or_never() {
        let count = Arc::new(AtomicU32::new(0));
        let receipt = |count: &Arc<AtomicU32>| {
            let count = Arc::clone(count);
            Receipt::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })
        };
        receipt(&count).complete();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        drop(receipt(&count));
        assert_eq!(count.load(Ordering::SeqCst), 1, "dropped: still open");
        Discard.refuse((), "why", receipt(&count));
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
