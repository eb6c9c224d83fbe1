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
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use sightline_core::{CameraId, Timestamp, TrackId};
use uuid::Uuid;

use super::ledger::{Files, Memory, Tombstone, TombstoneLedger};
use crate::store::{Filter, Payload, Scope, StoreError};

/// Age at which tombstones of a shared ledger are read again. A late picture that slips in
/// meanwhile is not shown, and the erasure, which waits longer than this, deletes it.
pub(super) const REFRESH: Duration = Duration::from_millis(500);

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
mod tests;
