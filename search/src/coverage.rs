//! How far each camera's footage can be searched: the difference between "registered" and "searchable".
//!
//! The indexer moves a camera on only after the store has flushed, so whatever this says survives a kill.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use sightline_core::{CameraId, Progress, Timestamp};
use tokio::sync::watch;

use crate::store::CameraExtent;

/// What is known of one camera.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CameraCoverage {
    /// The newest connection of which progress has arrived; `None` since the process started.
    pub connection: Option<u64>,
    /// Everything captured up to here is searchable; after a start that of the last stored picture.
    pub searchable_through: Option<Timestamp>,
    /// The footage of that connection has ended, and all of it is searchable.
    pub ended: bool,
    /// When a picture was last stored, by the system clock.
    pub last_indexed_at: Option<Timestamp>,
    /// Pictures stored: those found at the start and every one written since, replacements included.
    pub indexed: u64,
    /// Pictures refused because their data was wrong; each one is logged.
    pub rejected: u64,
}

#[derive(Debug)]
struct Shared {
    cameras: RwLock<BTreeMap<CameraId, CameraCoverage>>,
    /// What keeps the index from storing, while it does.
    fault: RwLock<Option<String>>,
    changes: watch::Sender<u64>,
}

/// A handle on the coverage of all cameras; clones share it.
#[derive(Clone, Debug)]
pub struct Coverage {
    shared: Arc<Shared>,
}

impl Default for Coverage {
    fn default() -> Self {
        let (cameras, fault) = Default::default();
        Self { shared: Arc::new(Shared { cameras, fault, changes: watch::Sender::new(0) }) }
    }
}

impl Coverage {
    /// Starts from what a store holds already.
    pub fn from_store(cameras: Vec<CameraExtent>) -> Self {
        let coverage = Self::default();
        coverage.change(|known| {
            known.extend(cameras.into_iter().map(|c| {
                let seen =
                    CameraCoverage { searchable_through: Some(c.last), indexed: c.points, ..CameraCoverage::default() };
                (c.camera, seen)
            }));
        });
        coverage
    }

    /// All cameras.
    pub fn all(&self) -> BTreeMap<CameraId, CameraCoverage> {
        self.shared.cameras.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One camera; nothing is known of one that has sent nothing yet.
    pub fn get(&self, camera: &CameraId) -> Option<CameraCoverage> {
        self.shared.cameras.read().unwrap_or_else(PoisonError::into_inner).get(camera).cloned()
    }

    /// Forgets a camera that was removed.
    pub fn forget(&self, camera: &CameraId) {
        self.change(|known| {
            known.remove(camera);
        });
    }

    /// What keeps the index from storing anything just now, for example a full disk. Nothing is lost meanwhile: the
    /// stages before it wait.
    pub fn fault(&self) -> Option<String> {
        self.shared.fault.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A counter that grows with every change, to wait on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    pub(crate) fn set_fault(&self, fault: Option<String>) {
        *self.shared.fault.write().unwrap_or_else(PoisonError::into_inner) = fault;
        self.shared.changes.send_modify(|n| *n += 1);
    }

    /// `count` pictures of a camera are stored and flushed.
    pub(crate) fn stored(&self, camera: &CameraId, count: u64, now: Timestamp) {
        self.change(|known| {
            let c = known.entry(camera.clone()).or_default();
            c.indexed += count;
            c.last_indexed_at = Some(now);
        });
    }

    /// A picture of a camera was refused.
    pub(crate) fn rejected(&self, camera: &CameraId) {
        self.change(|known| known.entry(camera.clone()).or_default().rejected += 1);
    }

    /// Everything before this progress is stored and flushed.
    pub(crate) fn passed(&self, p: &Progress) {
        self.change(|known| {
            let c = known.entry(p.camera.clone()).or_default();
            if c.connection.is_some_and(|newest| p.connection < newest) {
                return;
            }
            let same = c.connection == Some(p.connection);
            c.connection = Some(p.connection);
            // Within a connection time only advances; a new one (a file played again, say) starts over.
            let earlier = c.searchable_through.filter(|_| same);
            c.searchable_through = Some(earlier.map_or(p.analysed_through, |t| t.max(p.analysed_through)));
            c.ended = p.ended || (same && c.ended);
        });
    }

    fn change(&self, f: impl FnOnce(&mut BTreeMap<CameraId, CameraCoverage>)) {
        f(&mut self.shared.cameras.write().unwrap_or_else(PoisonError::into_inner));
        self.shared.changes.send_modify(|n| *n += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::message::Origin;

    fn progress(connection: u64, through: i64, ended: bool) -> Progress {
        let camera = "gate".parse().expect("valid");
        let (origin, analysed_through) = (Origin::of_camera("test", 0, &camera), Timestamp::from_micros(through));
        Progress { origin, camera, connection, analysed_through, ended }
    }

    fn state(c: &Coverage) -> (Option<u64>, Option<i64>, bool) {
        let gate = c.get(&"gate".parse().expect("valid")).unwrap_or_default();
        (gate.connection, gate.searchable_through.map(Timestamp::as_micros), gate.ended)
    }

    #[test]
    fn time_advances_within_a_connection_and_restarts_with_the_next() {
        let c = Coverage::default();
        let mut changes = c.changes();
        changes.mark_unchanged();
        assert_eq!(state(&c), (None, None, false));
        c.passed(&progress(0, 50, false));
        c.passed(&progress(0, 40, false));
        assert_eq!(state(&c), (Some(0), Some(50), false));
        c.passed(&progress(0, 60, true));
        assert_eq!(state(&c), (Some(0), Some(60), true));
        c.passed(&progress(1, 10, false));
        assert_eq!(state(&c), (Some(1), Some(10), false));
        c.passed(&progress(0, 99, true));
        assert_eq!(state(&c), (Some(1), Some(10), false), "news of an older connection count for nothing");
        assert!(changes.has_changed().expect("alive"));
    }

    #[test]
    fn a_start_knows_what_is_stored() {
        let camera: CameraId = "gate".parse().expect("valid");
        let (first, last) = (Timestamp::from_micros(1), Timestamp::from_micros(9));
        let c = Coverage::from_store(vec![CameraExtent { camera: camera.clone(), points: 7, first, last }]);
        assert_eq!(state(&c), (None, Some(9), false));
        assert_eq!(c.all()[&camera].indexed, 7);
        c.forget(&camera);
        assert!(c.get(&camera).is_none());
    }
}
