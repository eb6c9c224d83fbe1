//! Tombstones: what is erased stays erased. A tombstone names scopes of which no picture may be
//! stored or shown any more, so that a replay of dead letters, or an outbox that arrives a day
//! later, brings nobody back, and people are gone from the answers at once, however long the
//! deletion takes.
//!
//! They are the only place that says what is hidden. A new one counts in memory before it is
//! written, so that a full disk or an absent server delays no hiding. While its erasure runs, a
//! tombstone is part of every search's filter; afterwards hits and pictures are still compared with
//! it, which costs one look-up each.
//!
//! Tombstones stay. One process keeps them as files in its data folder; where index workers and API
//! are separate processes they share a [`TombstoneLedger`], which each reads again every half
//! second.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, Timestamp, TrackId};
use uuid::Uuid;

use crate::files::{self, FileError};
use crate::reserve::with_reserve;
use crate::store::{Filter, Payload, Scope, StoreError};

/// Age at which tombstones of a shared ledger are read again. A late picture that slips in
/// meanwhile is not shown, and the erasure, which waits longer than this, deletes it.
pub(super) const REFRESH: Duration = Duration::from_millis(500);

/// Mark that pictures of these scopes are erased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Id of the erasure job; a camera that is removed again and again has one id.
    pub id: Uuid,
    /// Pictures that are erased; never empty.
    pub scopes: Vec<Scope>,
    /// Whether the erasure is unfinished, so that searches must pass over stored pictures.
    pub open: bool,
}

/// Durable set of tombstones.
pub trait TombstoneLedger: Send + Sync {
    /// Returns all tombstones.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn all(&self) -> Result<Vec<Tombstone>, StoreError>;

    /// Writes a tombstone over the one of the same id; durable when it returns.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError>;

    /// Removes a tombstone; durable when it returns.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn remove(&self, id: Uuid) -> Result<(), StoreError>;
}

/// Ledger of one process: a file per tombstone.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
}

impl Files {
    fn path(&self, id: Uuid) -> PathBuf {
        self.folder.join(format!("{id}.tombstone"))
    }
}

impl TombstoneLedger for Files {
    fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
        let mut tombstones = Vec::new();
        for path in files::list(&self.folder)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "tombstone")) {
            match serde_json::from_slice(&files::read(&path)?.unwrap_or_default()) {
                Ok(tombstone) => tombstones.push(tombstone),
                Err(error) => files::set_aside(&path, &error.to_string())?,
            }
        }
        Ok(tombstones)
    }

    fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        let text = serde_json::to_vec(tombstone).map_err(|e| StoreError::Engine(e.to_string()))?;
        let path = self.path(tombstone.id);
        let data = self.folder.parent().unwrap_or(&self.folder);
        Ok(with_reserve(data, FileError::is_disk_full, || {
            files::create_folder(&self.folder)?;
            files::write_whole(&path.with_extension("new"), &path, &[&text])?;
            files::sync_folder(&self.folder)
        })?)
    }

    fn remove(&self, id: Uuid) -> Result<(), StoreError> {
        if files::remove(&self.path(id))? {
            files::sync_folder(&self.folder)?;
        }
        Ok(())
    }
}

/// Ledger that forgets: for tests and indexes in memory.
#[derive(Debug, Default)]
struct Memory;

impl TombstoneLedger for Memory {
    fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
        Ok(Vec::new())
    }

    fn put(&self, _: &Tombstone) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove(&self, _: Uuid) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Scopes of one camera, for the look-up of a picture.
#[derive(Default)]
struct CameraScopes {
    tracks: HashSet<TrackId>,
    spans: Vec<Scope>,
}

#[derive(Default)]
struct Known {
    tombstones: BTreeMap<Uuid, Tombstone>,
    /// Tombstones that the ledger does not have yet.
    unwritten: BTreeSet<Uuid>,
    by_camera: HashMap<CameraId, CameraScopes>,
    /// Scopes of the open tombstones.
    hidden: Arc<[Scope]>,
}

impl Known {
    fn new(tombstones: BTreeMap<Uuid, Tombstone>, unwritten: BTreeSet<Uuid>) -> Self {
        let mut by_camera: HashMap<CameraId, CameraScopes> = HashMap::new();
        for scope in tombstones.values().flat_map(|t| &t.scopes) {
            let of_camera = by_camera.entry(scope.camera.clone()).or_default();
            match (scope.track, scope.from, scope.to) {
                (Some(track), None, None) => drop(of_camera.tracks.insert(track)),
                _ => of_camera.spans.push(scope.clone()),
            }
        }
        let hidden = tombstones.values().filter(|t| t.open).flat_map(|t| t.scopes.iter().cloned()).collect();
        Self { tombstones, unwritten, by_camera, hidden }
    }
}

/// All tombstones, in memory and in a ledger.
pub struct Tombstones {
    ledger: Arc<dyn TombstoneLedger>,
    /// Whether others write the ledger too, so that it is read again and again.
    shared: bool,
    /// Time of the last reading. Held during every call of the ledger: otherwise a reading from
    /// before a write could undo it in memory.
    read_at: Mutex<Instant>,
    known: RwLock<Known>,
}

impl std::fmt::Debug for Tombstones {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tombstones").field("all", &self.all()).finish_non_exhaustive()
    }
}

impl Tombstones {
    /// Opens the tombstones in `folder`, which only this process writes. A damaged one is set aside.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::of(Arc::new(Files { folder: folder.to_owned() }), false)
    }

    /// Opens the tombstones of a ledger that several processes share.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn shared(ledger: Arc<dyn TombstoneLedger>) -> Result<Self, StoreError> {
        Self::of(ledger, true)
    }

    /// Creates a set that does not survive the process.
    pub fn in_memory() -> Self {
        Self { ledger: Arc::new(Memory), shared: false, read_at: Mutex::new(Instant::now()), known: RwLock::default() }
    }

    fn of(ledger: Arc<dyn TombstoneLedger>, shared: bool) -> Result<Self, StoreError> {
        let known = Known::new(ledger.all()?.into_iter().map(|t| (t.id, t)).collect(), BTreeSet::new());
        Ok(Self { ledger, shared, read_at: Mutex::new(Instant::now()), known: RwLock::new(known) })
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else reads or writes the ledger.
    fn ledger_turn(&self) -> MutexGuard<'_, Instant> {
        self.read_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether other processes write the ledger too.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Reads a shared ledger again if the last reading is older than half a second and nobody else
    /// uses it at the moment.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn refresh(&self) -> Result<(), StoreError> {
        if !self.shared {
            return Ok(());
        }
        let mut read_at = match self.read_at.try_lock() {
            Ok(read_at) => read_at,
            Err(TryLockError::Poisoned(read_at)) => read_at.into_inner(),
            // An absent server makes one caller wait, not all of them one after the other.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        if read_at.elapsed() < REFRESH {
            return Ok(());
        }
        let mut all: BTreeMap<Uuid, Tombstone> = self.ledger.all()?.into_iter().map(|t| (t.id, t)).collect();
        *read_at = Instant::now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let unwritten = std::mem::take(&mut known.unwritten);
        all.extend(
            unwritten.iter().filter_map(|id| known.tombstones.get_key_value(id)).map(|(id, t)| (*id, t.clone())),
        );
        if known.tombstones == all {
            known.unwritten = unwritten;
        } else {
            *known = Known::new(all, unwritten);
        }
        Ok(())
    }

    /// Returns all tombstones.
    pub fn all(&self) -> Vec<Tombstone> {
        self.known().tombstones.values().cloned().collect()
    }

    /// Whether pictures of this camera, track and capture time are erased: none of them may be
    /// stored or shown.
    pub fn covers(&self, camera: &CameraId, track: TrackId, captured_at: Timestamp) -> bool {
        let known = self.known();
        known.by_camera.get(camera).is_some_and(|scopes| {
            scopes.tracks.contains(&track) || scopes.spans.iter().any(|s| s.covers(camera, track, captured_at))
        })
    }

    /// Whether a stored picture is erased, so that nobody may see it any more.
    pub fn hides(&self, payload: &Payload) -> bool {
        self.covers(&payload.camera, payload.track, payload.captured_at)
    }

    /// Whether an earlier picture of a stored one's slot may be erased. Its capture time is not
    /// known any more, so none is shown of a track that an erasure has touched.
    pub fn hides_earlier(&self, payload: &Payload) -> bool {
        self.known().by_camera.get(&payload.camera).is_some_and(|scopes| {
            scopes.tracks.contains(&payload.track) || scopes.spans.iter().any(|s| s.may_hold_earlier(payload))
        })
    }

    /// Returns the filter without what is being erased.
    #[must_use]
    pub fn hide(&self, mut filter: Filter) -> Filter {
        filter.except.extend(self.known().hidden.iter().cloned());
        filter
    }

    /// Adds the tombstone of an erasure that begins, in memory: from now on nothing of it is stored
    /// or shown by this process. [`Tombstones::open_erasure`] makes it durable.
    pub(super) fn hide_now(&self, id: Uuid, scopes: &[Scope]) {
        let tombstone = Tombstone { id, scopes: scopes.to_vec(), open: true };
        self.change(|all, unwritten| {
            if all.get(&id) != Some(&tombstone) {
                unwritten.insert(id);
                all.insert(id, tombstone);
            }
        });
    }

    /// Adds the tombstone of an erasure that begins; durable when it returns.
    ///
    /// # Errors
    /// When the ledger cannot be written; the tombstone counts in this process all the same.
    pub(super) fn open_erasure(&self, id: Uuid, scopes: &[Scope]) -> Result<(), StoreError> {
        self.hide_now(id, scopes);
        self.put(Tombstone { id, scopes: scopes.to_vec(), open: true })
    }

    /// Adds a tombstone, or replaces the one of the same id.
    ///
    /// # Errors
    /// When the ledger cannot be written; nothing has changed then.
    pub(super) fn put(&self, tombstone: Tombstone) -> Result<(), StoreError> {
        let _turn = self.ledger_turn();
        self.ledger.put(&tombstone)?;
        self.change(|all, unwritten| {
            unwritten.remove(&tombstone.id);
            all.insert(tombstone.id, tombstone);
        });
        Ok(())
    }

    /// Marks the erasure of a tombstone as finished.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub(super) fn close(&self, id: Uuid) -> Result<(), StoreError> {
        let found = self.known().tombstones.get(&id).filter(|t| t.open).cloned();
        found.map_or(Ok(()), |tombstone| self.put(Tombstone { open: false, ..tombstone }))
    }

    /// Takes a camera's later pictures again: the tombstones of the whole camera end just before
    /// `from`, or are lifted without it. Those of tracks and of spans of time stay.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub(super) fn admit(&self, camera: &CameraId, from: Option<Timestamp>) -> Result<(), StoreError> {
        let until = from.map(|from| from - Duration::from_micros(1));
        let whole = |s: &Scope| s.camera == *camera && *s == Scope::camera(s.camera.clone());
        for mut tombstone in self.all().into_iter().filter(|t| t.scopes.iter().any(whole)) {
            tombstone.scopes.retain(|s| until.is_some() || !whole(s));
            for scope in tombstone.scopes.iter_mut().filter(|s| whole(s)) {
                scope.to = until;
            }
            if tombstone.scopes.is_empty() {
                let _turn = self.ledger_turn();
                self.ledger.remove(tombstone.id)?;
                self.change(|all, unwritten| {
                    unwritten.remove(&tombstone.id);
                    all.remove(&tombstone.id);
                });
            } else {
                self.put(tombstone)?;
            }
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Uuid, Tombstone>, &mut BTreeSet<Uuid>)) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut unwritten) = (std::mem::take(&mut known.tombstones), std::mem::take(&mut known.unwritten));
        change(&mut all, &mut unwritten);
        *known = Known::new(all, unwritten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: i64) -> Timestamp {
        Timestamp::from_micros(us)
    }

    fn track(us: i64) -> TrackId {
        TrackId { born: at(us), ordinal: 0 }
    }

    fn gate() -> CameraId {
        "gate".parse().expect("valid")
    }

    fn tombstone(n: u128, scopes: Vec<Scope>) -> Tombstone {
        Tombstone { id: Uuid::from_u128(n), scopes, open: true }
    }

    #[test]
    fn they_outlive_a_restart_and_are_part_of_filters_only_while_they_are_open() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let span = Scope { from: Some(at(10)), to: Some(at(20)), ..Scope::camera(gate()) };
        {
            let tombstones = Tombstones::open(dir.path()).expect("opened");
            tombstones.put(tombstone(1, vec![span])).expect("written");
            tombstones.put(tombstone(2, vec![Scope::track(gate(), track(7))])).expect("written");
            tombstones.close(Uuid::from_u128(2)).expect("written");
        }
        std::fs::write(dir.path().join("bad.tombstone"), "{").expect("written");
        let tombstones = Tombstones::open(dir.path()).expect("a damaged one stops nothing");
        assert!(dir.path().join("bad.tombstone.damaged").exists());
        for (born, captured, erased) in [(1, 9, false), (1, 10, true), (1, 20, true), (1, 21, false), (7, 99, true)] {
            assert_eq!(tombstones.covers(&gate(), track(born), at(captured)), erased, "{born} {captured}");
        }
        assert!(!tombstones.covers(&"yard".parse().expect("valid"), track(7), at(15)));
        assert_eq!(tombstones.hide(Filter::default()).except.len(), 1);
    }

    #[test]
    fn a_camera_that_comes_back_records_anew_and_its_past_stays_erased() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let tombstones = Tombstones::open(dir.path()).expect("opened");
        tombstones.put(tombstone(1, vec![Scope::camera(gate())])).expect("written");
        tombstones.close(Uuid::from_u128(1)).expect("written");
        assert!(tombstones.covers(&gate(), track(1), at(i64::MAX)));
        tombstones.admit(&gate(), Some(at(100))).expect("written");
        let reopened = Tombstones::open(dir.path()).expect("opened");
        for known in [&tombstones, &reopened] {
            assert!(known.covers(&gate(), track(1), at(99)) && !known.covers(&gate(), track(1), at(100)));
        }
        // A recording may show any time.
        tombstones.put(tombstone(2, vec![Scope::camera(gate())])).expect("written");
        tombstones.admit(&gate(), None).expect("written");
        assert!(!tombstones.covers(&gate(), track(1), at(100)) && tombstones.covers(&gate(), track(1), at(99)));
        assert_eq!(Tombstones::open(dir.path()).expect("opened").all().len(), 1);
    }

    /// A ledger that can be away, and that holds a reading back until it may return.
    #[derive(Default)]
    struct Shaky {
        stored: Mutex<BTreeMap<Uuid, Tombstone>>,
        away: std::sync::atomic::AtomicBool,
        reading: Mutex<Option<(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>)>>,
    }

    impl Shaky {
        fn sound(&self) -> Result<(), StoreError> {
            let away = self.away.load(std::sync::atomic::Ordering::SeqCst);
            if away { Err(StoreError::Engine("away".to_owned())) } else { Ok(()) }
        }
    }

    impl TombstoneLedger for Shaky {
        fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
            self.sound()?;
            let all = self.stored.lock().expect("sound").values().cloned().collect();
            if let Some((begun, go_on)) = self.reading.lock().expect("sound").take() {
                begun.send(()).expect("waited for");
                go_on.recv().expect("told");
            }
            Ok(all)
        }

        fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
            self.sound()?;
            self.stored.lock().expect("sound").insert(tombstone.id, tombstone.clone());
            Ok(())
        }

        fn remove(&self, id: Uuid) -> Result<(), StoreError> {
            self.sound()?;
            self.stored.lock().expect("sound").remove(&id);
            Ok(())
        }
    }

    #[test]
    fn an_erasure_hides_while_the_ledger_is_away_and_is_written_later() {
        let ledger = Arc::new(Shaky::default());
        let tombstones = Tombstones::shared(ledger.clone()).expect("opened");
        ledger.away.store(true, std::sync::atomic::Ordering::SeqCst);
        let id = Uuid::from_u128(1);
        assert!(tombstones.open_erasure(id, &[Scope::camera(gate())]).is_err());
        assert!(tombstones.covers(&gate(), track(1), at(1)), "it counts at once");
        assert_eq!(tombstones.hide(Filter::default()).except.len(), 1);
        ledger.away.store(false, std::sync::atomic::Ordering::SeqCst);
        std::thread::sleep(REFRESH);
        tombstones.refresh().expect("read");
        assert!(tombstones.covers(&gate(), track(1), at(1)), "a ledger without it does not undo it");
        tombstones.open_erasure(id, &[Scope::camera(gate())]).expect("written");
        assert_eq!(ledger.all().expect("read").len(), 1);
        // From here on the ledger is right: another process lifts it.
        ledger.remove(id).expect("removed");
        std::thread::sleep(REFRESH);
        tombstones.refresh().expect("read");
        assert!(!tombstones.covers(&gate(), track(1), at(1)));
    }

    #[test]
    fn a_reading_from_before_a_write_does_not_undo_it() {
        let ledger = Arc::new(Shaky::default());
        let tombstones = Tombstones::shared(ledger.clone()).expect("opened");
        std::thread::sleep(REFRESH);
        let ((begun, has_begun), (go_on, may_go_on)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        *ledger.reading.lock().expect("sound") = Some((begun, may_go_on));
        std::thread::scope(|scope| {
            scope.spawn(|| tombstones.refresh().expect("read"));
            has_begun.recv().expect("begun");
            let writing = scope.spawn(|| tombstones.open_erasure(Uuid::from_u128(1), &[Scope::camera(gate())]));
            tombstones.refresh().expect("nobody waits for another's reading");
            std::thread::sleep(Duration::from_millis(50));
            go_on.send(()).expect("waiting");
            writing.join().expect("no panic").expect("written");
        });
        assert!(tombstones.covers(&gate(), track(1), at(1)));
    }
}
