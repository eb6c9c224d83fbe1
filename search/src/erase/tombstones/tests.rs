//! Tombstones over restarts, in filters, and while their ledger is away.

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
