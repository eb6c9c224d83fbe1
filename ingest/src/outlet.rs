//! The outlet of a node's events: a queue to the next stage of the same process, or the outbox on
//! the way to a broker ([`crate::Publisher`]).
//!
//! Two kinds of cameras send events: live cameras, which never wait and lose pictures instead, and
//! files, which wait and lose nothing. Reports may always be lost: the next one supersedes them.

use std::time::Duration;

use sightline_core::queue::Queue;
use sightline_core::{CameraEvent, CameraId, NodeReport};

/// Why an event was not accepted.
#[derive(Debug)]
pub enum SendError {
    /// There is no room; contains the event.
    Full(Box<CameraEvent>),
    /// The outlet is closed.
    Closed,
    /// The event can never be sent, for this reason.
    Permanent(String),
}

/// Accepts the events of many cameras, called from their threads.
pub trait Outlet: Send + Sync {
    /// Accepts an event of a live camera without waiting. To make room, an older crop may be
    /// dropped if `droppable` allows that for its camera; the dropped event is returned so that it
    /// can be counted.
    ///
    /// # Errors
    /// See [`SendError`].
    fn send_live(
        &self,
        event: CameraEvent,
        droppable: &dyn Fn(&CameraId) -> bool,
    ) -> Result<Option<CameraEvent>, SendError>;

    /// Accepts an event that must not be lost, waiting for room at most `timeout`.
    ///
    /// # Errors
    /// See [`SendError`].
    fn send_waiting(&self, event: CameraEvent, timeout: Duration) -> Result<(), SendError>;

    /// Accepts a report, or drops it. Never waits, and never displaces an event of another camera.
    fn report(&self, report: NodeReport);

    /// Bytes that wait on this machine's disk.
    fn spooled_bytes(&self) -> u64 {
        0
    }
}

fn is_report(event: &CameraEvent) -> bool {
    matches!(event, CameraEvent::Report(_))
}

fn send_error(queue: &Queue<CameraEvent>, event: CameraEvent) -> SendError {
    if queue.is_closed() { SendError::Closed } else { SendError::Full(Box::new(event)) }
}

impl Outlet for Queue<CameraEvent> {
    fn send_live(
        &self,
        event: CameraEvent,
        droppable: &dyn Fn(&CameraId) -> bool,
    ) -> Result<Option<CameraEvent>, SendError> {
        let event = match self.try_push(event, is_report) {
            Ok(_) => return Ok(None),
            Err(event) => event,
        };
        let crop = |e: &CameraEvent| matches!(e, CameraEvent::Crop(c) if droppable(&c.camera));
        self.try_push(event, crop).map_err(|event| send_error(self, event))
    }

    fn send_waiting(&self, event: CameraEvent, timeout: Duration) -> Result<(), SendError> {
        let event = match self.try_push(event, is_report) {
            Ok(_) => return Ok(()),
            Err(event) => event,
        };
        self.push_timeout(event, timeout).map_err(|event| send_error(self, event))
    }

    fn report(&self, report: NodeReport) {
        let camera = report.camera.clone();
        let older = |e: &CameraEvent| matches!(e, CameraEvent::Report(r) if r.camera == camera);
        // Without room, or when closed, the report is lost.
        let _ = self.try_push(CameraEvent::Report(report), older);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::node::report::tests::report;
    use sightline_core::message::Origin;
    use sightline_core::{BBox, Crop, CropQuality, Progress, Timestamp, TrackId};

    fn progress(camera: &str) -> CameraEvent {
        let camera: CameraId = camera.parse().expect("valid");
        let origin = Origin::of_camera("t", 0, &camera);
        let analysed_through = Timestamp::from_micros(0);
        CameraEvent::Progress(Progress { origin, camera, connection: 0, analysed_through, ended: false })
    }

    /// A crop of `bytes` bytes, taken at `at` of the track that began then.
    pub(crate) fn crop(camera: &str, seq: u64, at: Timestamp, bytes: usize) -> CameraEvent {
        CameraEvent::Crop(Crop {
            origin: Origin::new("t", seq),
            camera: camera.parse().expect("valid"),
            track: TrackId { born: at, ordinal: 0 },
            crop_no: 0,
            captured_at: at,
            last_seen: at,
            bbox: BBox::default(),
            frame_size: (1, 1),
            quality: CropQuality::default(),
            jpeg: vec![1; bytes].into(),
        })
    }

    fn inside(queue: &Queue<CameraEvent>) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(Duration::ZERO))
            .map(|e| format!("{}{}", if is_report(&e) { "report " } else { "" }, e.camera()))
            .collect()
    }

    #[test]
    fn reports_take_free_places_only_and_give_them_up_first() {
        let queue: Queue<CameraEvent> = Queue::new(2);
        let nothing = |_: &CameraId| false;
        queue.report(report("a", 1));
        queue.report(report("b", 1));
        queue.report(report("c", 1));
        queue.report(report("a", 2));
        assert_eq!(inside(&queue), ["report b", "report a"], "one of its own may be replaced");
        queue.report(report("a", 3));
        queue.report(report("b", 3));
        assert!(matches!(queue.send_live(progress("x"), &nothing), Ok(None)));
        assert!(queue.send_waiting(progress("y"), Duration::ZERO).is_ok());
        queue.report(report("a", 4));
        assert!(matches!(queue.send_live(progress("z"), &nothing), Err(SendError::Full(_))));
        assert_eq!(inside(&queue), ["x", "y"]);
        queue.close();
        assert!(matches!(queue.send_waiting(progress("z"), Duration::ZERO), Err(SendError::Closed)));
    }
}
