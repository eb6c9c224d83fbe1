//! What a node tells of its cameras: at every change of state and every two seconds, also while no frame comes, so that
//! whoever reads the index knows of a camera that fails and of every picture that was dropped.
//!
//! Reports have a sequence of their own: they depend on the clock, and the messages of footage that is played once more
//! must repeat to the last bit.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sightline_core::message::Origin;
use sightline_core::{CameraId, NodeReport, NodeState, Timestamp};

use crate::status::Meters;
use crate::{CameraState, Outlet};

/// How often each camera is reported when nothing changes.
pub const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Makes reports and hands them on.
pub(crate) struct Reporter {
    producer: String,
    out: Arc<dyn Outlet>,
}

impl From<CameraState> for NodeState {
    fn from(state: CameraState) -> Self {
        match state {
            CameraState::Connecting => Self::Connecting,
            CameraState::Decoding => Self::Decoding,
            CameraState::Retrying => Self::Retrying,
            CameraState::Failed => Self::Failed,
            CameraState::Ended => Self::Ended,
        }
    }
}

impl Reporter {
    pub(crate) fn new(producer: &str, out: Arc<dyn Outlet>) -> Self {
        Self { producer: producer.to_owned(), out }
    }

    /// Reports a camera as it is now. Never waits.
    pub(crate) fn report(&self, meters: &Meters) {
        let (s, number) = (meters.status(), meters.next_report());
        self.out.report(NodeReport {
            origin: Origin::new(&self.producer, number),
            camera: s.camera,
            at: Timestamp::now(),
            state: s.state.into(),
            reason: s.reason,
            since: s.since,
            connection: s.connection,
            frames_decoded: s.frames_decoded,
            frames_analysed: s.frames_analysed,
            frames_dropped: s.frames_dropped,
            crops: s.crops,
            crops_dropped: s.crops_dropped,
            retry_in_s: s.retry_in_s,
            spooled_bytes: self.out.spooled_bytes(),
        });
    }

    /// Reports a camera that this node does not run.
    pub(crate) fn refused(&self, camera: &CameraId, reason: &str, since: Timestamp, number: u64) {
        self.out.report(NodeReport {
            origin: Origin::new(&self.producer, number),
            camera: camera.clone(),
            at: Timestamp::now(),
            state: NodeState::Failed,
            reason: Some(reason.to_owned()),
            since,
            connection: 0,
            frames_decoded: 0,
            frames_analysed: 0,
            frames_dropped: 0,
            crops: 0,
            crops_dropped: 0,
            retry_in_s: None,
            spooled_bytes: self.out.spooled_bytes(),
        });
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
            let (lock, bell) = &*stopped;
            let mut end = lock.lock().unwrap_or_else(PoisonError::into_inner);
            while !*end {
                let (guard, waited) = bell.wait_timeout(end, REPORT_EVERY).unwrap_or_else(PoisonError::into_inner);
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
            // A panic inside has been reported there.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of a camera with so many pictures.
    pub(crate) fn report(camera: &str, crops: u64) -> NodeReport {
        NodeReport {
            origin: Origin::new("t", crops),
            camera: camera.parse().expect("valid"),
            at: Timestamp::from_micros(0),
            state: NodeState::Decoding,
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
