//! Graceful shutdown: one signal, seen by every task and thread.

use tokio::sync::watch;

/// The shutdown signal, cloned into every task. Once triggered it stays triggered.
#[derive(Clone, Debug)]
pub struct Shutdown {
    tx: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A signal that is not triggered.
    pub fn new() -> Self {
        Self { tx: watch::Sender::new(false) }
    }

    /// Triggers the signal; further calls do nothing.
    pub fn trigger(&self) {
        self.tx.send_replace(true);
    }

    /// Whether the signal was triggered, for threads that poll.
    pub fn is_triggered(&self) -> bool {
        *self.tx.borrow()
    }

    /// Resolves once the signal is triggered; at once when it already was.
    pub async fn triggered(&self) {
        let mut rx = self.tx.subscribe();
        // The sender lives in `self`, so waiting cannot fail before the value is true.
        let _ = rx.wait_for(|t| *t).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_sees_the_signal() {
        let a = Shutdown::new();
        let b = a.clone();
        assert!(!b.is_triggered());
        let waiting = tokio::spawn(async move { b.triggered().await });
        a.trigger();
        waiting.await.expect("no panic");
        assert!(a.is_triggered());
        a.triggered().await;
    }
}
