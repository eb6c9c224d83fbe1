//! How far each camera's footage can be searched: the difference between "registered" and "searchable".
//!
//! The indexer moves a camera on only after the store has flushed, so whatever this says survives a kill. Where several
//! processes share an index, what is known lies in a [`CoverageLedger`] that all of them read: the index worker that has a
//! camera just now takes its state from there, adds the news of a batch, and writes it back before the messages count
//! as received. So cameras can change their worker, and workers can die, without anything going backwards.

mod news;
mod remote;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, NodeReport, Timestamp};
use tokio::sync::watch;

pub(crate) use news::{News, Word};
pub use remote::RemoteCoverage;

use crate::store::{CameraExtent, StoreError};

/// What is known of one camera.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CameraCoverage {
    /// The newest connection of which progress has arrived; `None` since the process (or the camera's node) started.
    pub connection: Option<u64>,
    /// Name of the process that this connection belongs to.
    pub producer: Option<String>,
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
    /// What the camera's node said last: state, reason, drops. `None` where camera and index share a process.
    pub report: Option<NodeReport>,
}

/// Coverage that several processes share.
pub trait CoverageLedger: Send + Sync {
    /// What is kept of these cameras; those without an entry are left out.
    ///
    /// # Errors
    /// The store's.
    fn read(&self, cameras: &[CameraId]) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError>;

    /// What is kept of all cameras.
    ///
    /// # Errors
    /// The store's.
    fn all(&self) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError>;

    /// Keeps these entries, replacing earlier ones; durable when it returns.
    ///
    /// # Errors
    /// The store's.
    fn write(&self, entries: &BTreeMap<CameraId, CameraCoverage>) -> Result<(), StoreError>;

    /// Removes the entry of a camera.
    ///
    /// # Errors
    /// The store's.
    fn forget(&self, camera: &CameraId) -> Result<(), StoreError>;
}

struct Shared {
    cameras: RwLock<BTreeMap<CameraId, CameraCoverage>>,
    /// What keeps the index from storing, while it does.
    fault: RwLock<Option<String>>,
    changes: watch::Sender<u64>,
    ledger: Option<Arc<dyn CoverageLedger>>,
}

/// A handle on the coverage of all cameras; clones share it.
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

    /// Coverage shared with other processes: a camera's state is taken from `ledger` before it changes, and kept there.
    pub fn with_ledger(ledger: Arc<dyn CoverageLedger>) -> Self {
        Self::new(Some(ledger))
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
        if let Some(ledger) = &self.shared.ledger
            && let Err(error) = ledger.forget(camera)
        {
            tracing::warn!(%camera, %error, "the coverage of a removed camera is still kept");
        }
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
        {
            let mut known = self.shared.fault.write().unwrap_or_else(PoisonError::into_inner);
            if *known == fault {
                return;
            }
            *known = fault;
        }
        self.shared.changes.send_modify(|n| *n += 1);
    }

    /// Everything in `news` is stored and flushed. With a ledger: durable when this returns.
    ///
    /// # Errors
    /// The ledger's; nothing has changed then.
    pub(crate) fn settle(&self, news: &News) -> Result<(), StoreError> {
        let cameras = news.cameras();
        if cameras.is_empty() {
            return Ok(());
        }
        let mut entries = {
            let known = self.shared.cameras.read().unwrap_or_else(PoisonError::into_inner);
            cameras.iter().map(|c| (c.clone(), known.get(c).cloned().unwrap_or_default())).collect::<BTreeMap<_, _>>()
        };
        if let Some(ledger) = &self.shared.ledger {
            entries.extend(ledger.read(&cameras)?);
        }
        for (camera, entry) in &mut entries {
            news.apply(camera, entry);
        }
        if let Some(ledger) = &self.shared.ledger {
            ledger.write(&entries)?;
        }
        self.change(|known| known.extend(entries));
        Ok(())
    }

    /// What another process has written; says so only when it differs.
    fn replace(&self, entries: BTreeMap<CameraId, CameraCoverage>) {
        if *self.shared.cameras.read().unwrap_or_else(PoisonError::into_inner) != entries {
            self.change(|known| *known = entries);
        }
    }

    fn change(&self, f: impl FnOnce(&mut BTreeMap<CameraId, CameraCoverage>)) {
        f(&mut self.shared.cameras.write().unwrap_or_else(PoisonError::into_inner));
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
    struct Book {
        entries: Mutex<BTreeMap<CameraId, CameraCoverage>>,
        down: Mutex<bool>,
    }

    impl Book {
        fn open(&self) -> Result<std::sync::MutexGuard<'_, BTreeMap<CameraId, CameraCoverage>>, StoreError> {
            if *self.down.lock().expect("sound") {
                return Err(StoreError::Engine("down".to_owned()));
            }
            Ok(self.entries.lock().expect("sound"))
        }
    }

    impl CoverageLedger for Book {
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

    fn passed(connection: u64, through: i64) -> News {
        let (camera, analysed_through) = (gate(), Timestamp::from_micros(through));
        let origin = Origin::of_camera("node", 0, &camera);
        let mut news = News::default();
        news.words.push(Word::Progress(Progress { origin, camera, connection, analysed_through, ended: false }));
        news
    }

    fn through(c: &Coverage) -> Option<i64> {
        c.get(&gate()).and_then(|c| c.searchable_through).map(Timestamp::as_micros)
    }

    #[test]
    fn a_start_knows_what_is_stored() {
        let (first, last) = (Timestamp::from_micros(1), Timestamp::from_micros(9));
        let c = Coverage::from_store(vec![CameraExtent { camera: gate(), points: 7, first, last }]);
        let entry = c.get(&gate()).expect("known");
        assert_eq!((entry.connection, entry.searchable_through, entry.indexed), (None, Some(last), 7));
        c.forget(&gate());
        assert!(c.get(&gate()).is_none());
    }

    #[test]
    fn news_are_heard_of() {
        let c = Coverage::default();
        let mut changes = c.changes();
        changes.mark_unchanged();
        c.settle(&News::default()).expect("no ledger");
        assert!(!changes.has_changed().expect("alive"), "no news");
        c.settle(&passed(0, 5)).expect("no ledger");
        assert!(changes.has_changed().expect("alive"));
        changes.mark_unchanged();
        c.set_fault(None);
        assert!(!changes.has_changed().expect("alive"), "there was none before");
        c.set_fault(Some("full".to_owned()));
        assert!(changes.has_changed().expect("alive"));
    }

    #[test]
    fn a_reader_follows_what_others_write() {
        let book = Arc::new(Book::default());
        let reader = RemoteCoverage::start(book.clone(), std::time::Duration::from_millis(5)).expect("a thread");
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
        Coverage::with_ledger(book.clone()).settle(&passed(0, 50)).expect("up");
        until("the news are there", &|| through(&seen) == Some(50));
        assert!(changes.has_changed().expect("alive"));
        *book.down.lock().expect("sound") = true;
        until("the fault is told", &|| seen.fault().is_some_and(|f| f.contains("down")));
        assert_eq!(through(&seen), Some(50), "what was read last is kept");
        *book.down.lock().expect("sound") = false;
        until("the fault is over", &|| seen.fault().is_none());
        seen.forget(&gate());
        until("the entry is gone", &|| book.all().expect("up").is_empty() && seen.get(&gate()).is_none());
        drop(reader);
    }

    #[test]
    fn workers_that_share_a_ledger_never_take_each_other_back() {
        let book = Arc::new(Book::default());
        let worker = || Coverage::with_ledger(book.clone());
        let (one, two) = (worker(), worker());
        one.settle(&passed(0, 50)).expect("up");
        two.settle(&passed(0, 90)).expect("up");
        // The camera comes back to a worker that knows it as it was, and its last messages with it.
        one.settle(&passed(0, 60)).expect("up");
        assert_eq!(through(&one), Some(90));
        *book.down.lock().expect("sound") = true;
        assert!(one.settle(&passed(0, 99)).is_err());
        assert_eq!(through(&one), Some(90), "not kept, so not said");
        *book.down.lock().expect("sound") = false;
        let restarted = worker();
        restarted.settle(&passed(0, 70)).expect("up");
        assert_eq!(through(&restarted), Some(90), "a restart takes nothing back");
        restarted.forget(&gate());
        assert!(book.all().expect("up").is_empty());
    }
}
