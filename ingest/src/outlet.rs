//! Where a node's events go: a queue to the next stage of the same process, or the disk on their way to a broker
//! ([`crate::Publisher`]).
//!
//! Two kinds of cameras send: live ones, which never wait and lose pictures instead, and files, which wait and lose
//! nothing. Reports may always be lost: the next one says more.

use std::time::Duration;

use sightline_core::queue::Queue;
use sightline_core::{CameraEvent, CameraId, NodeReport};

/// Why an event was not taken.
#[derive(Debug)]
pub enum NotTaken {
    /// No room for it; here it is back.
    Full(Box<CameraEvent>),
    /// Nothing is taken any more.
    Closed,
    /// It can never be sent, for this reason.
    Never(String),
}

/// Takes the events of many cameras, called from their threads.
pub trait Outlet: Send + Sync {
    /// Takes an event of a live camera at once. An older crop may have to go for it, if `droppable` allows that for its
    /// camera; it comes back to be counted.
    ///
    /// # Errors
    /// See [`NotTaken`].
    fn send_live(
        &self,
        event: CameraEvent,
        droppable: &dyn Fn(&CameraId) -> bool,
    ) -> Result<Option<CameraEvent>, NotTaken>;

    /// Takes an event that must not be lost, waiting for room at most `timeout`.
    ///
    /// # Errors
    /// See [`NotTaken`].
    fn send_waiting(&self, event: CameraEvent, timeout: Duration) -> Result<(), NotTaken>;

    /// Takes a report, or drops it. Never waits, never costs another camera's event its place.
    fn report(&self, report: NodeReport);

    /// Bytes that wait on the disk of this machine.
    fn spooled_bytes(&self) -> u64 {
        0
    }
}

fn is_report(event: &CameraEvent) -> bool {
    matches!(event, CameraEvent::Report(_))
}

fn not_taken(queue: &Queue<CameraEvent>, event: CameraEvent) -> NotTaken {
    if queue.is_closed() { NotTaken::Closed } else { NotTaken::Full(Box::new(event)) }
}

impl Outlet for Queue<CameraEvent> {
    fn send_live(
        &self,
        event: CameraEvent,
        droppable: &dyn Fn(&CameraId) -> bool,
    ) -> Result<Option<CameraEvent>, NotTaken> {
        let event = match self.offer(event, is_report) {
            Ok(_) => return Ok(None),
            Err(event) => event,
        };
        let crop = |e: &CameraEvent| matches!(e, CameraEvent::Crop(c) if droppable(&c.camera));
        self.offer(event, crop).map_err(|event| not_taken(self, event))
    }

    fn send_waiting(&self, event: CameraEvent, timeout: Duration) -> Result<(), NotTaken> {
        let event = match self.offer(event, is_report) {
            Ok(_) => return Ok(()),
            Err(event) => event,
        };
        self.push_timeout(event, timeout).map_err(|event| not_taken(self, event))
    }

    fn report(&self, report: NodeReport) {
        let camera = report.camera.clone();
        let older = |e: &CameraEvent| matches!(e, CameraEvent::Report(r) if r.camera == camera);
        // No room, or closed: then it is lost.
        let _ = self.offer(CameraEvent::Report(report), older);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use sightline_core::message::Origin;
    use sightline_core::{Progress, Timestamp};

    fn progress(camera: &str) -> CameraEvent {
        let camera: CameraId = camera.parse().expect("valid");
        let origin = Origin::of_camera("t", 0, &camera);
        let analysed_through = Timestamp::from_micros(0);
        CameraEvent::Progress(Progress { origin, camera, connection: 0, analysed_through, ended: false })
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
        assert!(matches!(queue.send_live(progress("z"), &nothing), Err(NotTaken::Full(_))));
        assert_eq!(inside(&queue), ["x", "y"]);
        queue.close();
        assert!(matches!(queue.send_waiting(progress("z"), Duration::ZERO), Err(NotTaken::Closed)));
    }
}
