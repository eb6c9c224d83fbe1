//! Coverage: how far each camera's footage is searchable, the difference between "registered" and
//! "searchable".
//!
//! The indexer advances a camera only after the store has flushed, so that coverage survives a
//! kill. Where several processes share an index, all of them read a [`CoverageLedger`]: the index
//! worker that currently owns a camera reads its entry there, applies the update of a batch and
//! writes it back before the messages are acknowledged. So a camera can change its worker, and a
//! worker can die, without any coverage moving backwards.

mod remote;
mod update;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, NodeReport, Timestamp};
use tokio::sync::watch;

pub use remote::RemoteCoverage;
pub use update::{CoverageEvent, CoverageUpdate};

use crate::store::{CameraExtent, StoreError};

/// How far the footage of one camera is searchable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CameraCoverage {
    /// Newest connection of which progress has arrived; `None` since the start of the process or of
    /// the camera's node.
    pub connection: Option<u64>,
    /// Producer name of the process that this connection belongs to.
    pub producer: Option<String>,
    /// Capture time up to which all footage is searchable; after a start, that of the newest stored
    /// picture.
    pub searchable_through: Option<Timestamp>,
    /// Whether the footage of that connection has ended and all of it is searchable.
    pub ended: bool,
    /// System time at which a picture was last stored.
    pub last_indexed_at: Option<Timestamp>,
    /// Number of stored pictures: those found at the start and every one written since, including
    /// replacements.
    pub indexed: u64,
    /// Number of pictures rejected because of invalid data; each is logged.
    pub rejected: u64,
    /// Last report of the camera's node: state, reason, drops. `None` where camera and index share
    /// a process.
    pub report: Option<NodeReport>,
}

/// Coverage of one camera, with the time at which it last advanced.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownCoverage {
    /// Coverage as the index worker wrote it.
    pub coverage: CameraCoverage,
    /// System time at which connection or [`CameraCoverage::searchable_through`] last changed in
    /// this process. The capture times of a recording do not say it.
    pub advanced_at: Timestamp,
}

/// Coverage of all cameras at one moment.
pub type CoverageSnapshot = Arc<BTreeMap<CameraId, KnownCoverage>>;

/// Coverage that several processes share.
pub trait CoverageLedger: Send + Sync {
    /// Returns the entries of these cameras; cameras without an entry are left out.
    ///
    /// # Errors
    /// When the store fails.
    fn read(&self, cameras: &[CameraId]) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError>;

    /// Returns the entries of all cameras.
    ///
    /// # Errors
    /// When the store fails.
    fn all(&self) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError>;

    /// Writes these entries over the earlier ones; durable when it returns.
    ///
    /// # Errors
    /// When the store fails.
    fn write(&self, entries: &BTreeMap<CameraId, CameraCoverage>) -> Result<(), StoreError>;

    /// Removes the entry of a camera.
    ///
    /// # Errors
    /// When the store fails.
    fn forget(&self, camera: &CameraId) -> Result<(), StoreError>;
}

struct Shared {
    /// Shared with the readers and copied on a change only while one of them holds it.
    cameras: RwLock<CoverageSnapshot>,
    /// Reason why the index cannot store at the moment.
    fault: RwLock<Option<String>>,
    changes: watch::Sender<u64>,
    ledger: Option<Arc<dyn CoverageLedger>>,
}

/// Handle on the coverage of all cameras; clones share it.
#[derive(Clone)]
pub struct Coverage {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coverage").field("cameras", &self.all()).field("fault", &self.fault()).finish_non_exhaustive()
    }
}

impl Default for Coverage {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Coverage {
    fn new(ledger: Option<Arc<dyn CoverageLedger>>) -> Self {
        let (cameras, fault) = Default::default();
        Self { shared: Arc::new(Shared { cameras, fault, changes: watch::Sender::new(0), ledger }) }
    }

    /// Creates coverage from what a store already holds.
    pub fn from_store(cameras: Vec<CameraExtent>) -> Self {
        let coverage = Self::default();
        coverage.put(cameras.into_iter().map(|c| {
            let seen =
                CameraCoverage { searchable_through: Some(c.last), indexed: c.points, ..CameraCoverage::default() };
            (c.camera, seen)
        }));
        coverage
    }

    /// Creates coverage shared with other processes: a camera's entry is read from `ledger` before
    /// it changes and written back after.
    pub fn with_ledger(ledger: Arc<dyn CoverageLedger>) -> Self {
        Self::new(Some(ledger))
    }

    /// Returns the coverage of all cameras. It is not copied: readers and this handle share it.
    pub fn snapshot(&self) -> CoverageSnapshot {
        Arc::clone(&self.shared.cameras.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a copy of the coverage of all cameras.
    pub fn all(&self) -> BTreeMap<CameraId, CameraCoverage> {
        self.snapshot().iter().map(|(camera, known)| (camera.clone(), known.coverage.clone())).collect()
    }

    /// Returns the coverage of one camera; `None` for a camera that has sent nothing yet.
    pub fn get(&self, camera: &CameraId) -> Option<CameraCoverage> {
        self.snapshot().get(camera).map(|known| known.coverage.clone())
    }

    /// Removes the entry of a camera that was removed.
    pub fn forget(&self, camera: &CameraId) {
        if let Some(ledger) = &self.shared.ledger
            && let Err(error) = ledger.forget(camera)
        {
            tracing::warn!(%camera, %error, "the coverage of a removed camera is still kept");
        }
        self.change(|known| {
            known.remove(camera);
        });
    }

    /// Reason why the index cannot store anything at the moment, for example a full disk. Nothing
    /// is lost meanwhile: the stages before it wait.
    pub fn fault(&self) -> Option<String> {
        self.shared.fault.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a counter that grows with every change, to wait on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    pub(crate) fn set_fault(&self, fault: Option<String>) {
        {
            let mut known = self.shared.fault.write().unwrap_or_else(PoisonError::into_inner);
            if *known == fault {
                return;
            }
            *known = fault;
        }
        self.shared.changes.send_modify(|n| *n += 1);
    }

    /// Applies an update whose pictures are stored and flushed. With a ledger, durable when it
    /// returns.
    ///
    /// # Errors
    /// When the ledger fails; nothing has changed then.
    pub fn commit(&self, update: &CoverageUpdate) -> Result<(), StoreError> {
        let cameras = update.cameras();
        if cameras.is_empty() {
            return Ok(());
        }
        let mut entries = {
            let known = self.snapshot();
            let entry = |c: &CameraId| known.get(c).map(|k| k.coverage.clone()).unwrap_or_default();
            cameras.iter().map(|c| (c.clone(), entry(c))).collect::<BTreeMap<_, _>>()
        };
        if let Some(ledger) = &self.shared.ledger {
            entries.extend(ledger.read(&cameras)?);
        }
        for (camera, entry) in &mut entries {
            update.apply(camera, entry);
        }
        if let Some(ledger) = &self.shared.ledger {
            ledger.write(&entries)?;
        }
        self.put(entries);
        Ok(())
    }

    /// Replaces all entries with what another process has written; announces it only if they
    /// differ.
    fn replace(&self, entries: BTreeMap<CameraId, CameraCoverage>) {
        let known = self.snapshot();
        if !known.iter().map(|(camera, k)| (camera, &k.coverage)).eq(&entries) {
            self.change(|known| known.retain(|camera, _| entries.contains_key(camera)));
            self.put(entries);
        }
    }

    /// Writes these entries over the earlier ones.
    fn put(&self, entries: impl IntoIterator<Item = (CameraId, CameraCoverage)>) {
        let now = Timestamp::now();
        self.change(|known| {
            for (camera, coverage) in entries {
                let progress = |c: &CameraCoverage| (c.connection, c.searchable_through);
                let before = known.get(&camera).filter(|k| progress(&k.coverage) == progress(&coverage));
                let advanced_at = before.map_or(now, |k| k.advanced_at);
                known.insert(camera, KnownCoverage { coverage, advanced_at });
            }
        });
    }

    fn change(&self, f: impl FnOnce(&mut BTreeMap<CameraId, KnownCoverage>)) {
        f(Arc::make_mut(&mut self.shared.cameras.write().unwrap_or_else(PoisonError::into_inner)));
        self.shared.changes.send_modify(|n| *n += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::Progress;
    use sightline_core::message::Origin;
    use std::sync::Mutex;

    /// A ledger in memory that fails on demand.
    #[derive(Default)]
    struct MemoryLedger {
        entries: Mutex<BTreeMap<CameraId, CameraCoverage>>,
        down: Mutex<bool>,
    }

    impl MemoryLedger {
        fn open(&self) -> Result<std::sync::MutexGuard<'_, BTreeMap<CameraId, CameraCoverage>>, StoreError> {
            if *self.down.lock().expect("sound") {
                return Err(StoreError::Engine("down".to_owned()));
            }
            Ok(self.entries.lock().expect("sound"))
        }
    }

    impl CoverageLedger for MemoryLedger {
        fn read(&self, cameras: &[CameraId]) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError> {
            let entries = self.open()?;
            Ok(cameras.iter().filter_map(|c| entries.get(c).map(|e| (c.clone(), e.clone()))).collect())
        }
        fn all(&self) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError> {
            Ok(self.open()?.clone())
        }
        fn write(&self, entries: &BTreeMap<CameraId, CameraCoverage>) -> Result<(), StoreError> {
            self.open()?.extend(entries.clone());
            Ok(())
        }
        fn forget(&self, camera: &CameraId) -> Result<(), StoreError> {
            self.open()?.remove(camera);
            Ok(())
        }
    }

    fn gate() -> CameraId {
        "gate".parse().expect("valid")
    }

    fn progress(connection: u64, through: i64) -> CoverageUpdate {
        let (camera, analysed_through) = (gate(), Timestamp::from_micros(through));
        let origin = Origin::of_camera("node", 0, &camera);
        let mut update = CoverageUpdate::default();
        update.events.push(CoverageEvent::Progress(Progress {
            origin,
            camera,
            connection,
            analysed_through,
            ended: false,
        }));
        update
    }

    fn through(c: &Coverage) -> Option<i64> {
        c.get(&gate()).and_then(|c| c.searchable_through).map(Timestamp::as_micros)
    }

    #[test]
    fn coverage_starts_from_the_stored_pictures() {
        let (first, last) = (Timestamp::from_micros(1), Timestamp::from_micros(9));
        let c = Coverage::from_store(vec![CameraExtent { camera: gate(), points: 7, first, last }]);
        let entry = c.get(&gate()).expect("known");
        assert_eq!((entry.connection, entry.searchable_through, entry.indexed), (None, Some(last), 7));
        c.forget(&gate());
        assert!(c.get(&gate()).is_none());
    }

    #[test]
    fn a_snapshot_is_shared_and_says_when_each_camera_advanced() {
        let c = Coverage::default();
        c.commit(&progress(0, 5)).expect("no ledger");
        let before = c.snapshot();
        assert!(Arc::ptr_eq(&before, &c.snapshot()), "no copy for each reader");
        c.commit(&progress(0, 5)).expect("no ledger");
        let same = c.snapshot();
        assert_eq!(same[&gate()].advanced_at, before[&gate()].advanced_at, "nothing new was searchable");
        std::thread::sleep(std::time::Duration::from_millis(2));
        c.commit(&progress(0, 6)).expect("no ledger");
        assert!(c.snapshot()[&gate()].advanced_at > before[&gate()].advanced_at);
        assert_eq!(before[&gate()].coverage.searchable_through, Some(Timestamp::from_micros(5)), "a reader's copy");
    }

    #[test]
    fn changes_are_announced() {
        let c = Coverage::default();
        let mut changes = c.changes();
        changes.mark_unchanged();
        c.commit(&CoverageUpdate::default()).expect("no ledger");
        assert!(!changes.has_changed().expect("alive"), "no news");
        c.commit(&progress(0, 5)).expect("no ledger");
        assert!(changes.has_changed().expect("alive"));
        changes.mark_unchanged();
        c.set_fault(None);
        assert!(!changes.has_changed().expect("alive"), "there was none before");
        c.set_fault(Some("full".to_owned()));
        assert!(changes.has_changed().expect("alive"));
    }

    #[test]
    fn a_reader_follows_what_others_write() {
        let ledger = Arc::new(MemoryLedger::default());
        let reader = RemoteCoverage::start(ledger.clone(), std::time::Duration::from_millis(5)).expect("a thread");
        let seen = reader.coverage();
        let until = |what: &str, reached: &dyn Fn() -> bool| {
            let start = std::time::Instant::now();
            while !reached() {
                assert!(start.elapsed().as_secs() < 20, "waited in vain until {what}");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        };
        let mut changes = seen.changes();
        changes.mark_unchanged();
        Coverage::with_ledger(ledger.clone()).commit(&progress(0, 50)).expect("up");
        until("the news are there", &|| through(&seen) == Some(50));
        assert!(changes.has_changed().expect("alive"));
        *ledger.down.lock().expect("sound") = true;
        until("the fault is told", &|| seen.fault().is_some_and(|f| f.contains("down")));
        assert_eq!(through(&seen), Some(50), "what was read last is kept");
        *ledger.down.lock().expect("sound") = false;
        until("the fault is over", &|| seen.fault().is_none());
        seen.forget(&gate());
        until("the entry is gone", &|| ledger.all().expect("up").is_empty() && seen.get(&gate()).is_none());
        drop(reader);
    }

    #[test]
    fn workers_that_share_a_ledger_never_move_coverage_backwards() {
        let ledger = Arc::new(MemoryLedger::default());
        let worker = || Coverage::with_ledger(ledger.clone());
        let (one, two) = (worker(), worker());
        one.commit(&progress(0, 50)).expect("up");
        two.commit(&progress(0, 90)).expect("up");
        // The camera returns to a worker that knows its old entry, and its last messages are
        // delivered again.
        one.commit(&progress(0, 60)).expect("up");
        assert_eq!(through(&one), Some(90));
        *ledger.down.lock().expect("sound") = true;
        assert!(one.commit(&progress(0, 99)).is_err());
        assert_eq!(through(&one), Some(90), "not kept, so not said");
        *ledger.down.lock().expect("sound") = false;
        let restarted = worker();
        restarted.commit(&progress(0, 70)).expect("up");
        assert_eq!(through(&restarted), Some(90), "a restart takes nothing back");
        restarted.forget(&gate());
        assert!(ledger.all().expect("up").is_empty());
    }
}
