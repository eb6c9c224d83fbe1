//! Erasure: everything of its scopes is deleted and nothing else, in chunks that take turns with the
//! indexer; what is erased stays erased; and a start deletes only what a journal names.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{
    CameraId, Delivery, Discard, IndexEvent, PatchFeatures, Receipt as Done, SightingId, Timestamp, TrackId,
};
use sightline_search::{
    CameraExtent, Coverage, Deleted, EraseError, Eraser, ExactStore, Filter, FolderGallery, Gallery, GalleryEntry,
    GalleryError, IndexerOptions, Journals, PictureKey, Point, Receipt, Record, Recovered, Scope, Scored, Sink,
    StoreError, VectorStore, indexer,
};
use uuid::Uuid;

use crate::support::{MODEL, WIDTH, at, camera, gallery_entry, point, sighting, track, turned};

/// A store that counts what it is asked, refuses to list everything, and fails on demand.
struct Watched {
    store: ExactStore,
    /// Largest number of ids in a filter or a deletion.
    most_ids: AtomicUsize,
    /// Ids returned by all pages together.
    listed: AtomicUsize,
    upsert_fails: AtomicBool,
    refuses: Mutex<Option<SightingId>>,
    /// Order of upserts and deletions.
    order: Mutex<Vec<char>>,
}

impl Watched {
    fn new() -> Self {
        Self {
            store: ExactStore::new(MODEL, WIDTH),
            most_ids: AtomicUsize::new(0),
            listed: AtomicUsize::new(0),
            upsert_fails: AtomicBool::new(false),
            refuses: Mutex::default(),
            order: Mutex::default(),
        }
    }
}

impl VectorStore for Watched {
    fn model_id(&self) -> &str {
        self.store.model_id()
    }
    fn width(&self) -> usize {
        self.store.width()
    }
    fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        if self.upsert_fails.load(Ordering::SeqCst) {
            return Err(StoreError::Engine("no space left on device".to_owned()));
        }
        if points.iter().any(|p| Some(p.id) == *self.refuses.lock().unwrap()) {
            return Err(StoreError::Refused("as asked".to_owned()));
        }
        self.order.lock().unwrap().push('i');
        self.store.upsert(points)
    }
    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError> {
        self.store.search(vector, limit, filter)
    }
    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        self.store.get(ids)
    }
    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        self.store.vectors(ids)
    }
    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.store.newest(filter, limit)
    }
    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError> {
        self.most_ids.fetch_max(filter.ids.as_ref().map_or(0, Vec::len), Ordering::SeqCst);
        let page = self.store.scroll(filter, after, limit)?;
        self.listed.fetch_add(page.len(), Ordering::SeqCst);
        Ok(page)
    }
    fn ids(&self, _: &Filter) -> Result<Vec<SightingId>, StoreError> {
        panic!("nothing lists all ids at once")
    }
    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError> {
        self.most_ids.fetch_max(ids.len(), Ordering::SeqCst);
        self.order.lock().unwrap().push('e');
        self.store.delete_ids(ids)
    }
    fn delete(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.store.delete(filter)
    }
    fn end_track(&self, c: &CameraId, t: TrackId, f: Timestamp, l: Timestamp, e: bool) -> Result<u64, StoreError> {
        self.store.end_track(c, t, f, l, e)
    }
    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.store.estimate(filter)
    }
    fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.store.count(filter)
    }
    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError> {
        self.store.cameras()
    }
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
    fn optimize(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// A gallery that is slow to delete, and fails after a number of deletions.
struct Slow {
    gallery: FolderGallery,
    pause: Duration,
    deletions: AtomicUsize,
    fails_at: AtomicUsize,
}

impl Slow {
    fn open(folder: &Path, pause: Duration) -> Self {
        let (deletions, fails_at) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        Self { gallery: FolderGallery::open(folder, MODEL).unwrap(), pause, deletions, fails_at }
    }
}

impl Gallery for Slow {
    fn put(&self, entries: &[GalleryEntry]) -> Result<(), GalleryError> {
        self.gallery.put(entries)
    }
    fn put_patches(&self, features: &[(PictureKey, PatchFeatures)]) -> Result<(), GalleryError> {
        self.gallery.put_patches(features)
    }
    fn jpeg(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        self.gallery.jpeg(key)
    }
    fn patches(&self, key: PictureKey) -> Result<Option<PatchFeatures>, GalleryError> {
        self.gallery.patches(key)
    }
    fn prune(&self, kept: &[PictureKey]) -> Result<u64, GalleryError> {
        self.gallery.prune(kept)
    }
    fn retire(&self, replaced: &[PictureKey], now: Timestamp) -> Result<u64, GalleryError> {
        self.gallery.retire(replaced, now)
    }
    fn replaced(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        self.gallery.replaced(key)
    }
    fn delete_replaced(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        self.gallery.delete_replaced(ids)
    }
    fn expire_replaced(&self, now: Timestamp) -> Result<u64, GalleryError> {
        self.gallery.expire_replaced(now)
    }
    fn delete(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        if self.deletions.fetch_add(1, Ordering::SeqCst) >= self.fails_at.load(Ordering::SeqCst) {
            return Err(GalleryError::Damaged { path: "gallery".into(), reason: "as asked".to_owned() });
        }
        std::thread::sleep(self.pause);
        self.gallery.delete(ids)
    }
    fn ids(&self) -> Result<Vec<SightingId>, GalleryError> {
        self.gallery.ids()
    }
    fn ids_in(&self, shard: u16, before: SystemTime) -> Result<Vec<SightingId>, GalleryError> {
        self.gallery.ids_in(shard, before)
    }
    fn quarantine(&self, ids: &[SightingId], now: Timestamp) -> Result<u64, GalleryError> {
        self.gallery.quarantine(ids, now)
    }
    fn expire_quarantine(&self, now: Timestamp) -> Result<u64, GalleryError> {
        self.gallery.expire_quarantine(now)
    }
    fn forget_model(&self, model_id: &str) -> Result<(), GalleryError> {
        self.gallery.forget_model(model_id)
    }
}

/// An index in a folder of its own.
struct World {
    dir: tempfile::TempDir,
    store: Arc<Watched>,
    gallery: Arc<Slow>,
    journals: Arc<Journals>,
    coverage: Coverage,
}

impl World {
    fn new() -> Self {
        Self::slow(Duration::ZERO)
    }

    fn slow(pause: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let gallery = Arc::new(Slow::open(&dir.path().join("gallery"), pause));
        let journals = Arc::new(Journals::open(dir.path()).unwrap());
        Self { dir, store: Arc::new(Watched::new()), gallery, journals, coverage: Coverage::default() }
    }

    fn eraser(&self) -> Eraser {
        Eraser::new(self.store.clone(), self.gallery.clone(), self.journals.clone())
    }

    /// Stores points with pictures, without the indexer.
    fn put(&self, points: &[Point]) {
        self.store.store.upsert(points).unwrap();
        self.gallery.put(&points.iter().map(|p| gallery_entry(p, 0.0)).collect::<Vec<_>>()).unwrap();
    }

    fn erase(&self, scopes: &[Scope]) -> Result<Receipt, EraseError> {
        self.eraser().run(Uuid::from_u128(1), scopes, &Shutdown::new(), &mut |_| ())
    }

    fn stored(&self) -> u64 {
        self.store.count(&Filter::default()).unwrap()
    }

    /// Indexes these events to the end; returns how many were acknowledged. A stop is triggered at
    /// the first failure.
    fn index(&self, events: Vec<IndexEvent>) -> usize {
        let (queue, acknowledged, stop) = (Queue::new(events.len()), Arc::new(AtomicUsize::new(0)), Shutdown::new());
        for event in events {
            let count = acknowledged.clone();
            let receipt = Done::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            });
            queue.push_wait(Delivery::new(event, receipt)).unwrap();
        }
        queue.close();
        stop.trigger();
        let (store, gallery) = (&*self.store, &*self.gallery);
        let sink = Sink { store, gallery, coverage: &self.coverage, journals: &self.journals };
        let _ = indexer::run(&queue, sink, &Discard, &IndexerOptions::default(), &stop);
        acknowledged.load(Ordering::SeqCst)
    }

    /// Closes everything except the store and opens it again, as a restart does.
    fn restart(self) -> (Self, Recovered) {
        let Self { dir, store, gallery, journals, .. } = self;
        drop((gallery, journals));
        let gallery = Arc::new(Slow::open(&dir.path().join("gallery"), Duration::ZERO));
        let journals = Arc::new(Journals::open(dir.path()).unwrap());
        let recovered = journals.recover(dir.path(), &*store, &*gallery).unwrap();
        (Self { dir, store, gallery, journals, coverage: Coverage::default() }, recovered)
    }
}

fn seen(camera: &str, born: i64, captured: i64) -> IndexEvent {
    IndexEvent::Sighting(Box::new(sighting(camera, born, 0, captured, turned(0, 0.0))))
}

/// Ten pictures of each of three cameras, one second apart.
fn thirty() -> Vec<Point> {
    (0..30).map(|i| point(["a", "b", "c"][i % 3], i as i64, 0, i as i64, turned(i, 0.1))).collect()
}

#[test]
fn a_start_sweeps_nothing_against_an_empty_new_or_other_store() {
    let world = World::new();
    let events: Vec<_> = (0..30).map(|i| seen(["a", "b", "c"][i % 3], i as i64, i as i64)).collect();
    assert_eq!(world.index(events), 30);
    let (dir, kept) = (world.dir, world.gallery.ids().unwrap().len());
    assert_eq!(kept, 30);
    drop((world.gallery, world.journals));
    let gallery = FolderGallery::open(&dir.path().join("gallery"), MODEL).unwrap();
    // The vectors were deleted, or vectors.collection names another collection.
    let (empty, other) = (ExactStore::new(MODEL, WIDTH), ExactStore::new(MODEL, WIDTH));
    other.upsert(&[point("z", 1, 0, 1, turned(0, 0.0))]).unwrap();
    for store in [&empty, &other] {
        let journals = Journals::open(dir.path()).unwrap();
        assert_eq!(journals.recover(dir.path(), store, &gallery).unwrap(), Recovered::default());
        assert_eq!(gallery.ids().unwrap().len(), 30, "the pictures are the only source of another index");
    }
}

#[test]
fn a_start_deletes_the_pictures_of_an_interrupted_batch_and_no_others() {
    let world = World::new();
    assert_eq!(world.index(vec![seen("a", 1, 1)]), 1);
    world.gallery.put(&[gallery_entry(&point("z", 9, 0, 9, turned(0, 0.0)), 0.0)]).unwrap();
    world.store.upsert_fails.store(true, Ordering::SeqCst);
    assert_eq!(world.index(vec![seen("a", 1, 2), seen("b", 2, 2), seen("c", 3, 3)]), 0);
    assert_eq!(world.gallery.ids().unwrap().len(), 4, "written before the store failed");
    let (world, recovered) = world.restart();
    // Picture and features of two slots, and of the later picture of a slot whose point stays.
    assert_eq!(recovered, Recovered { points: 0, files: 6 });
    let mut kept = world.gallery.ids().unwrap();
    kept.sort();
    let mut wanted = vec![point("a", 1, 0, 1, vec![]).id, point("z", 9, 0, 9, vec![]).id];
    wanted.sort();
    assert_eq!(kept, wanted, "the store knows one, and no journal names the other");
    assert_eq!(world.restart().1, Recovered::default());
}

#[test]
fn damaged_journals_are_set_aside_and_stop_no_start() {
    let world = World::new();
    world.put(&thirty());
    let erasures = world.dir.path().join("erasures");
    std::fs::create_dir_all(&erasures).unwrap();
    let known = thirty()[4].id;
    std::fs::write(erasures.join("one.ids"), format!("{known}\nno id\n")).unwrap();
    std::fs::write(erasures.join("two.tombstone"), "{").unwrap();
    std::fs::write(world.dir.path().join("batch.journal"), "sightline batch 1\nnonsense\nend 00000000\n").unwrap();
    let (world, recovered) = world.restart();
    assert_eq!(recovered, Recovered { points: 1, files: 2 }, "the readable line of an erasure counts");
    for aside in ["erasures/one.ids.damaged", "erasures/two.tombstone.damaged", "batch.journal.damaged"] {
        assert!(world.dir.path().join(aside).exists(), "{aside}");
    }
    assert_eq!(world.restart().1, Recovered::default());
}

#[test]
fn an_erasure_that_an_earlier_version_began_is_finished_at_the_start() {
    let world = World::new();
    let points = thirty();
    world.put(&points);
    let erasures = world.dir.path().join("erasures");
    std::fs::create_dir_all(&erasures).unwrap();
    let ids: String = points[..2].iter().map(|p| format!("{}\n", p.id)).collect();
    std::fs::write(erasures.join("one.ids"), ids).unwrap();
    std::fs::write(erasures.join("half.new"), &points[9].id.to_string()[..20]).unwrap();
    world.store.delete_ids(&[points[0].id]).unwrap();
    let (world, recovered) = world.restart();
    assert_eq!(recovered, Recovered { points: 1, files: 4 });
    assert_eq!(std::fs::read_dir(&erasures).unwrap().count(), 0);
    assert_eq!((world.stored(), world.gallery.ids().unwrap().len()), (28, 28));
}

#[test]
fn a_cameras_people_are_gone_everywhere_and_nobody_else() {
    let world = World::new();
    let points = thirty();
    world.put(&points);
    let b = Scope::camera(camera("b"));
    let receipt = world.erase(std::slice::from_ref(&b)).unwrap();
    assert_eq!(receipt, Receipt { points: 10, files: 20, by_model: [(MODEL.to_owned(), 10)].into() });
    assert_eq!(world.erase(&[b]).unwrap(), Receipt::default());
    for p in &points {
        let gone = p.payload.camera == camera("b");
        assert_eq!(world.gallery.jpeg(p.key()).unwrap().is_none(), gone);
        assert_eq!(world.store.get(&[p.id]).unwrap().is_empty(), gone);
    }
    // A span of time, inclusive at both ends, and a track.
    let span = Scope { from: Some(at(6)), to: Some(at(12)), ..Scope::camera(camera("a")) };
    assert_eq!(world.erase(&[span, Scope::track(camera("c"), track(2))]).unwrap().points, 3 + 1);
    assert_eq!(world.stored(), 16);
    let (scopes, missing) = world.eraser().tracks_of(&[points[0].id, points[1].id, points[0].id]).unwrap();
    assert_eq!(scopes, [Scope::track(camera("a"), track(0))]);
    assert_eq!(missing, [points[1].id], "erased before");
}

#[test]
fn a_large_erasure_lists_each_id_once_and_sends_a_thousand_at_most() {
    let world = World::new();
    let points: Vec<Point> =
        (0..5500).map(|i| point(["a", "b"][i % 2], i as i64, 0, i as i64, turned(0, 0.1))).collect();
    world.store.store.upsert(&points).unwrap();
    let mut fractions = Vec::new();
    let receipt = world.eraser().run(Uuid::nil(), &[Scope::camera(camera("a"))], &Shutdown::new(), &mut |p| {
        fractions.push(p.fraction);
    });
    assert_eq!(receipt.unwrap().points, 2750);
    assert_eq!(world.stored(), 2750);
    assert_eq!(world.store.listed.load(Ordering::SeqCst), 2750, "each id once");
    assert!(world.store.most_ids.load(Ordering::SeqCst) <= 1000);
    assert!(fractions.len() == 3 && fractions.is_sorted(), "{fractions:?}");
    assert!((fractions[0] - 1000.0 / 2750.0).abs() < 0.1 && fractions[2] > 0.99, "{fractions:?}");
}

#[test]
fn another_cameras_pictures_take_turns_with_a_large_erasure() {
    let world = World::slow(Duration::from_millis(40));
    let points: Vec<Point> = (0..12_000).map(|i| point("a", i, 0, i, turned(0, 0.1))).collect();
    world.store.store.upsert(&points).unwrap();
    let queue = Queue::<IndexEvent>::new(4);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (store, gallery) = (&*world.store, &*world.gallery);
            let sink = Sink { store, gallery, coverage: &world.coverage, journals: &world.journals };
            let options = IndexerOptions { batch: 1, ..IndexerOptions::default() };
            indexer::run(&queue, sink, &Discard, &options, &Shutdown::new()).unwrap();
        });
        let erasing = scope.spawn(|| world.erase(&[Scope::camera(camera("a"))]).unwrap());
        let mut n = 0;
        while !erasing.is_finished() {
            n += 1;
            queue.push_wait(seen("b", n, n)).unwrap();
        }
        queue.close();
        assert_eq!(erasing.join().unwrap().points, 12_000);
    });
    let order: String = world.store.order.lock().unwrap().iter().collect();
    let during = order.trim_start_matches('i').trim_end_matches('i');
    println!("{during}");
    assert_eq!(during.matches('e').count(), 12);
    assert!(during.matches('i').count() >= 5, "the indexer waits for a chunk at most: {during}");
}

#[test]
fn an_erasure_that_was_interrupted_goes_on_and_hides_meanwhile() {
    let world = World::new();
    let points: Vec<Point> =
        (0..3000).map(|i| point(["a", "b"][i % 2], i as i64, 0, i as i64, turned(0, 0.1))).collect();
    world.store.store.upsert(&points).unwrap();
    world.gallery.put(&points[..40].iter().map(|p| gallery_entry(p, 0.0)).collect::<Vec<_>>()).unwrap();
    let scopes = [Scope::camera(camera("a"))];
    world.gallery.fails_at.store(1, Ordering::SeqCst);
    assert!(matches!(world.erase(&scopes), Err(EraseError::Gallery(_))));
    assert_eq!(world.stored(), 2000, "one chunk is gone");
    let found = |world: &World| {
        let filter = world.eraser().hide(Filter::default());
        world.store.search(&turned(0, 0.1), 5000, &filter).unwrap().len()
    };
    assert_eq!(found(&world), 1500, "nobody of the camera is found any more");
    let left = world.store.newest(&Filter::camera(camera("a")), 1).unwrap().remove(0);
    assert!(world.eraser().hides(&left.payload));
    let (world, _) = world.restart();
    assert_eq!(found(&world), 1500, "also after a restart");
    let stop = Shutdown::new();
    let stopped = world.eraser().run(Uuid::from_u128(1), &scopes, &stop, &mut |_| stop.trigger());
    assert!(matches!(stopped, Err(EraseError::Stopped)), "{stopped:?}");
    assert_eq!(world.erase(&scopes).unwrap_or_default().points + world.stored(), 1500, "{}", world.stored());
    assert_eq!((world.stored(), found(&world), world.gallery.ids().unwrap().len()), (1500, 1500, 20));
    assert!(world.eraser().hide(Filter::default()).except.is_empty(), "nothing is left to hide");
}

#[test]
fn late_pictures_of_an_erased_camera_are_refused_until_it_is_added_again() {
    let world = World::new();
    let old = vec![seen("a", 10, 10), seen("b", 20, 20)];
    assert_eq!(world.index(old.clone()), 2);
    world.erase(&[Scope::camera(camera("a"))]).unwrap();
    // Dead letters are replayed, and an outbox arrives a day later.
    assert_eq!(world.index(old.clone()), 2, "acknowledged, so that they do not come again");
    assert_eq!((world.stored(), world.gallery.ids().unwrap().len()), (1, 1));
    assert!(world.coverage.get(&camera("b")).unwrap().indexed == 2);
    assert!(world.coverage.get(&camera("a")).is_none_or(|a| a.indexed == 1), "none is counted as stored");
    let (world, _) = world.restart();
    world.index(vec![seen("a", 10, 10), seen("a", 30, 30)]);
    assert_eq!(world.stored(), 1, "also after a restart");
    // It is added again: it records anew, and its past stays erased.
    world.eraser().admit(&camera("a"), Some(at(100))).unwrap();
    world.index(vec![seen("a", 10, 10), seen("a", 99, 99), seen("a", 100, 100)]);
    assert_eq!(world.store.newest(&Filter::camera(camera("a")), 9).unwrap().len(), 1);
    let (world, _) = world.restart();
    world.index(vec![seen("a", 10, 10), seen("a", 101, 101)]);
    assert_eq!((world.stored(), world.gallery.ids().unwrap().len()), (3, 3));
}

#[test]
fn a_time_span_and_a_track_stay_erased_while_their_camera_goes_on() {
    let world = World::new();
    world.index((0..6).map(|i| seen("a", i, i)).collect());
    let span = Scope { from: Some(at(1)), to: Some(at(2)), ..Scope::camera(camera("a")) };
    assert_eq!(world.erase(&[span, Scope::track(camera("a"), track(5))]).unwrap().points, 3);
    // A better picture of the erased track, the same footage again, and new people.
    world.index((0..6).map(|i| seen("a", i, i)).chain([seen("a", 5, 50), seen("a", 60, 60)]).collect());
    let mut born: Vec<i64> =
        world.store.newest(&Filter::default(), 99).unwrap().iter().map(|r| r.payload.track.born.as_micros()).collect();
    born.sort_unstable();
    assert_eq!(born, [0, 3, 4, 60]);
}

/// A track stays in view across the end of a span: its slot holds a picture of after the span, and
/// the one before it was captured inside.
#[test]
fn a_replaced_picture_inside_of_a_span_is_erased() {
    let key = |born: i64, captured: i64| {
        let s = sighting("a", born, 0, captured, turned(0, 0.0));
        PictureKey::new(s.id(), &s.crop.jpeg)
    };
    let world = World::new();
    for (born, captured) in [(1, 10), (2, 10), (100, 100)] {
        world.index(vec![seen("a", born, captured)]);
    }
    for (born, captured) in [(1, 30), (2, 12), (100, 130)] {
        world.index(vec![seen("a", born, captured)]);
    }
    let replaced = |world: &World, born, captured| world.gallery.replaced(key(born, captured)).unwrap().is_some();
    assert!(replaced(&world, 1, 10) && replaced(&world, 2, 10) && replaced(&world, 100, 100));
    let span = Scope { from: Some(at(5)), to: Some(at(20)), ..Scope::camera(camera("a")) };
    let receipt = world.erase(std::slice::from_ref(&span)).unwrap();
    // One sighting with picture, features and the replaced picture, and one replaced picture alone.
    assert_eq!((receipt.points, receipt.files), (1, 4));
    assert!(!replaced(&world, 1, 10) && !replaced(&world, 2, 10));
    assert!(replaced(&world, 100, 100), "of a track that was not in view then");
    assert!(world.gallery.jpeg(key(1, 30)).unwrap().is_some(), "captured after the span");
    // Erased while the better picture is on its way: it is deleted, not moved.
    world.index(vec![seen("a", 50, 50)]);
    world.eraser().begin(Uuid::from_u128(2), &[Scope { from: Some(at(40)), to: Some(at(60)), ..span }]).unwrap();
    world.index(vec![seen("a", 50, 70)]);
    assert!(world.gallery.jpeg(key(50, 70)).unwrap().is_some() && !replaced(&world, 50, 50));
    assert!(world.gallery.jpeg(key(50, 50)).unwrap().is_none());
}

#[test]
fn a_sighting_that_the_store_refuses_leaves_no_picture() {
    let world = World::new();
    let refused = sighting("a", 2, 0, 2, turned(0, 0.0)).id();
    *world.store.refuses.lock().unwrap() = Some(refused);
    world.index(vec![seen("a", 1, 1), seen("a", 2, 2), seen("a", 3, 3)]);
    assert_eq!(world.stored(), 2, "the healthy ones of the batch are stored");
    let kept = world.gallery.ids().unwrap();
    assert!(kept.len() == 2 && !kept.contains(&refused), "reachable by no erasure and no retention");
}
