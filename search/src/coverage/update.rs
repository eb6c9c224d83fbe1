//! Coverage updates: what one batch of messages changes in the coverage of its cameras.
//!
//! Connections are counted from 0 at every start of a camera, so a smaller number is either an old
//! message that is delivered again, or the first message of a restarted node. Two things tell them
//! apart: a different producer is another node, and a *newer* report with a smaller connection
//! shows that the count has restarted.

use std::collections::BTreeMap;

use sightline_core::{CameraId, NodeReport, Progress, Timestamp};

use super::CameraCoverage;

/// Progress or report of one camera.
#[derive(Clone, Debug, PartialEq)]
pub enum CoverageEvent {
    /// Progress of the camera: all pictures before it are stored.
    Progress(Progress),
    /// Report of the camera's node.
    Report(NodeReport),
}

/// Changes of one batch, which is stored and flushed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoverageUpdate {
    /// Number of pictures stored, by camera.
    pub stored: BTreeMap<CameraId, u64>,
    /// Capture times of the stored pictures.
    pub captured: Vec<Timestamp>,
    /// Number of pictures rejected, by camera.
    pub rejected: BTreeMap<CameraId, u64>,
    /// Progress and reports, in order of arrival.
    pub events: Vec<CoverageEvent>,
    /// System time at which the batch was stored.
    pub now: Timestamp,
}

impl CoverageUpdate {
    /// Returns the cameras that the update is about, each once.
    pub fn cameras(&self) -> Vec<CameraId> {
        let named = self.events.iter().map(|w| match w {
            CoverageEvent::Progress(p) => &p.camera,
            CoverageEvent::Report(r) => &r.camera,
        });
        let mut all: Vec<CameraId> =
            self.stored.keys().chain(self.rejected.keys()).chain(named).map(CameraId::clone).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Applies the changes of `camera` to its entry.
    pub fn apply(&self, camera: &CameraId, entry: &mut CameraCoverage) {
        if let Some(count) = self.stored.get(camera) {
            entry.indexed += count;
            entry.last_indexed_at = Some(self.now);
        }
        entry.rejected += self.rejected.get(camera).unwrap_or(&0);
        for event in &self.events {
            match event {
                CoverageEvent::Progress(p) if p.camera == *camera => apply_progress(entry, p),
                CoverageEvent::Report(r) if r.camera == *camera => apply_report(entry, r, self.now),
                CoverageEvent::Progress(_) | CoverageEvent::Report(_) => {}
            }
        }
    }
}

/// Applies progress: all pictures before it are stored and flushed.
fn apply_progress(c: &mut CameraCoverage, p: &Progress) {
    let same_node = c.producer.as_ref().is_none_or(|known| *known == p.origin.producer);
    if same_node && c.connection.is_some_and(|newest| p.connection < newest) {
        return;
    }
    let same = same_node && c.connection == Some(p.connection);
    c.connection = Some(p.connection);
    c.producer = Some(p.origin.producer.clone());
    // Time only advances within a connection; a new connection (a file played again, say) starts
    // over.
    let earlier = c.searchable_through.filter(|_| same);
    c.searchable_through = Some(earlier.map_or(p.analysed_through, |t| t.max(p.analysed_through)));
    c.ended = p.ended || (same && c.ended);
}

/// Applies a report if it is the newest by its node's clock. A report from the future comes from a
/// wrong clock and must not block those that follow.
fn apply_report(c: &mut CameraCoverage, r: &NodeReport, now: Timestamp) {
    let key = |r: &NodeReport| (r.at, r.origin.seq);
    if c.report.as_ref().is_some_and(|known| known.at <= now && key(known) >= key(r)) {
        return;
    }
    if c.connection.is_some_and(|newest| r.connection < newest) {
        // The node has restarted its count: what follows belongs to this start, and what came
        // before stays searchable.
        c.connection = None;
        c.producer = None;
        c.ended = false;
    }
    c.report = Some(r.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::CameraState;
    use sightline_core::message::Origin;

    const NOW: i64 = 1_000_000;

    fn gate() -> CameraId {
        "gate".parse().expect("valid")
    }

    fn progress(node: &str, connection: u64, through: i64, ended: bool) -> CoverageEvent {
        let camera = gate();
        let (origin, analysed_through) = (Origin::of_camera(node, 0, &camera), Timestamp::from_micros(through));
        CoverageEvent::Progress(Progress { origin, camera, connection, analysed_through, ended })
    }

    fn report(at: i64, seq: u64, connection: u64) -> CoverageEvent {
        let camera = gate();
        CoverageEvent::Report(NodeReport {
            origin: Origin::of_camera("node", seq, &camera),
            camera,
            at: Timestamp::from_micros(at),
            state: CameraState::Decoding,
            reason: None,
            since: Timestamp::from_micros(at),
            connection,
            frames_decoded: 0,
            frames_analysed: 0,
            frames_dropped: 0,
            crops: 0,
            crops_dropped: seq,
            retry_in_s: None,
            spooled_bytes: 0,
        })
    }

    fn apply(c: &mut CameraCoverage, events: Vec<CoverageEvent>) -> (Option<u64>, Option<i64>, bool) {
        CoverageUpdate { events, now: Timestamp::from_micros(NOW), ..CoverageUpdate::default() }.apply(&gate(), c);
        (c.connection, c.searchable_through.map(Timestamp::as_micros), c.ended)
    }

    #[test]
    fn time_advances_within_a_connection_and_restarts_with_the_next() {
        let mut c = CameraCoverage::default();
        assert_eq!(apply(&mut c, vec![]), (None, None, false));
        let both = vec![progress("n", 0, 50, false), progress("n", 0, 40, false)];
        assert_eq!(apply(&mut c, both), (Some(0), Some(50), false));
        assert_eq!(apply(&mut c, vec![progress("n", 0, 60, true)]), (Some(0), Some(60), true));
        assert_eq!(apply(&mut c, vec![progress("n", 0, 55, false)]), (Some(0), Some(60), true), "delivered again");
        assert_eq!(apply(&mut c, vec![progress("n", 1, 10, false)]), (Some(1), Some(10), false));
        assert_eq!(apply(&mut c, vec![progress("n", 0, 99, true)]), (Some(1), Some(10), false), "an older connection");
    }

    #[test]
    fn a_node_that_starts_again_counts_from_its_beginning() {
        let mut c = CameraCoverage::default();
        apply(&mut c, vec![report(10, 0, 5), progress("n", 5, 50, true)]);
        assert_eq!(
            apply(&mut c, vec![progress("n", 0, 60, false)]),
            (Some(5), Some(50), true),
            "looks like a late delivery"
        );
        assert_eq!(apply(&mut c, vec![report(20, 0, 0)]), (None, Some(50), false));
        assert_eq!(apply(&mut c, vec![progress("n", 0, 70, false)]), (Some(0), Some(70), false));
        // Another node is recognised by its producer, without a report.
        assert_eq!(apply(&mut c, vec![progress("m", 0, 30, false)]), (Some(0), Some(30), false));
    }

    #[test]
    fn the_newest_report_counts_whatever_the_order() {
        let mut c = CameraCoverage::default();
        let dropped = |c: &CameraCoverage| c.report.as_ref().map(|r| r.crops_dropped);
        apply(&mut c, vec![report(20, 3, 0), report(10, 9, 0), report(20, 2, 0)]);
        assert_eq!(dropped(&c), Some(3));
        apply(&mut c, vec![report(20, 4, 0)]);
        assert_eq!(dropped(&c), Some(4));
        apply(&mut c, vec![report(NOW * 9, 5, 0), report(30, 6, 0)]);
        assert_eq!(dropped(&c), Some(6), "a clock far ahead keeps nobody out");
    }

    #[test]
    fn counts_are_by_camera() {
        let (gate, door): (CameraId, CameraId) = (gate(), "door".parse().expect("valid"));
        let update = CoverageUpdate {
            stored: [(gate.clone(), 3)].into(),
            captured: vec![Timestamp::from_micros(1); 3],
            rejected: [(door.clone(), 1)].into(),
            events: vec![progress("n", 0, 5, false)],
            now: Timestamp::from_micros(NOW),
        };
        assert_eq!(update.cameras(), [door.clone(), gate.clone()]);
        let (mut g, mut d) = (CameraCoverage::default(), CameraCoverage { rejected: 1, ..CameraCoverage::default() });
        update.apply(&gate, &mut g);
        update.apply(&door, &mut d);
        assert_eq!((g.indexed, g.rejected, g.last_indexed_at), (3, 0, Some(Timestamp::from_micros(NOW))));
        assert_eq!((d.indexed, d.rejected, d.last_indexed_at, d.searchable_through), (0, 2, None, None));
    }
}
