//! Reports of a node on its cameras: at every change of state and every two seconds, also while no
//! frame comes, so that readers of the index learn of a camera that fails and of every picture that
//! was dropped.
//!
//! Reports have a sequence number of their own: they depend on the clock, whereas the messages of
//! replayed footage must repeat bit for bit.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sightline_core::message::Origin;
use sightline_core::{CameraId, NodeReport, Timestamp};

use super::status::Meters;
use crate::Outlet;

/// Interval of the reports on each camera while nothing changes.
pub const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Makes reports and sends them to the outlet.
pub(crate) struct Reporter {
    producer: String,
    out: Arc<dyn Outlet>,
}

impl Reporter {
    pub(crate) fn new(producer: &str, out: Arc<dyn Outlet>) -> Self {
        Self { producer: producer.to_owned(), out }
    }

    /// Reports the present state of a camera. Never waits.
    pub(crate) fn report(&self, meters: &Meters) {
        let origin = Origin::new(&self.producer, meters.next_report());
        self.out.report(meters.status().report(origin, self.out.spooled_bytes()));
    }

    /// Reports a camera that this node does not run.
    pub(crate) fn refused(&self, camera: &CameraId, reason: &str, since: Timestamp, number: u64) {
        let origin = Origin::new(&self.producer, number);
        let report = NodeReport::refused(origin, camera.clone(), reason.to_owned(), since);
        self.out.report(NodeReport { spooled_bytes: self.out.spooled_bytes(), ..report });
    }

    /// Reports a camera that no node runs.
    pub(crate) fn unplaced(&self, camera: &CameraId, reason: &str, since: Timestamp, number: u64) {
        let origin = Origin::new(&self.producer, number);
        let report = NodeReport::unplaced(origin, camera.clone(), reason.to_owned(), since);
        self.out.report(NodeReport { spooled_bytes: self.out.spooled_bytes(), ..report });
    }
}

/// Calls `tick` every [`REPORT_EVERY`] in a thread of its own, until dropped.
pub(crate) struct Ticker {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let stop: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("camera-reports".into()).spawn(move || {
            let (lock, changed) = &*stopped;
            let mut end = lock.lock().unwrap_or_else(PoisonError::into_inner);
            while !*end {
                let (guard, waited) = changed.wait_timeout(end, REPORT_EVERY).unwrap_or_else(PoisonError::into_inner);
                end = guard;
                if waited.timed_out() && !*end {
                    tick();
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread has logged its own panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sightline_core::CameraState;

    /// A report of a camera that has published `crops` pictures.
    pub(crate) fn report(camera: &str, crops: u64) -> NodeReport {
        NodeReport {
            origin: Origin::new("t", crops),
            camera: camera.parse().expect("valid"),
            at: Timestamp::from_micros(0),
            state: CameraState::Decoding,
            reason: None,
            since: Timestamp::from_micros(0),
            connection: 0,
            frames_decoded: 0,
            frames_analysed: 0,
            frames_dropped: 0,
            crops,
            crops_dropped: 0,
            retry_in_s: None,
            spooled_bytes: 0,
        }
    }
}
