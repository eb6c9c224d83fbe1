//! Erasures as jobs: requests store them, a task runs them, and each ends with a receipt.
//!
//! ```text
//! POST /v1/erasures, DELETE /v1/cameras/{id} --> job in the state database --> 202
//!    task: tombstone (hidden, refused) --> the camera stops --> chunks erased --> receipt, audit record
//! ```
//!
//! A failed attempt is repeated with growing pauses, and a job that a crash interrupted goes on at
//! the next start, in `sightline serve` and `sightline-api` alike. Where cameras run in other
//! processes, [`late`] looks after what arrives of a removed camera afterwards.

mod jobs;
pub mod late;
mod progress;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sightline_core::shutdown::Shutdown;
use sightline_search::Progress;

pub use jobs::{Jobs, admit_from};

use crate::app::App;

/// How long a dead letter is kept, as a multiple of `bus.retention_hours`; the topics are created
/// so.
const DEAD_LETTER_FACTOR: u32 = 10;

/// Copies of messages outside the index, for the receipts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copies {
    /// How long the topics keep a message; `None` in a process without topics.
    pub topics: Option<Duration>,
}

/// Runs jobs, and watches for late pictures of removed cameras, until `shutdown`; run it as a task
/// of its own.
pub async fn run(app: App, copies: Copies, shutdown: Shutdown) {
    let watch = async {
        if let Some(keep) = copies.topics {
            late::run(app.clone(), keep, shutdown.clone()).await;
        }
    };
    tokio::join!(app.erasures().run(app.clone(), copies, shutdown.clone()), watch);
}

/// Progress of a running erasure, and the sign that it has to stop.
#[derive(Clone)]
pub struct ErasureRun {
    progress: Arc<Mutex<Progress>>,
    shutdown: Shutdown,
}

impl ErasureRun {
    /// Creates the handle of a run that `shutdown` ends.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { progress: Arc::default(), shutdown }
    }

    /// Ends the run between two chunks.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Stores how far the run has come, after each chunk.
    pub fn set(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Returns how far the run has come; all zero before the first chunk.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
