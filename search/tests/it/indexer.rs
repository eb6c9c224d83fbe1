//! Indexer: order of writes, transient failures, data that can never be stored, and repeated
//! deliveries.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sightline_core::message::Origin;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{
    CameraId, Delivery, IndexEvent, PatchFeatures, Receipt, RefusalHandler, Sighting, SightingId, Timestamp, TrackEnd,
    TrackId,
};
use sightline_search::{
    CameraExtent, Coverage, Deleted, ExactStore, FileError, Filter, FolderGallery, Gallery, GalleryEntry, GalleryError,
    IndexerError, IndexerOptions, Journals, PictureKey, Point, Record, Scored, Sink, StoreError, VectorStore, indexer,
};

use crate::support::{MODEL, WIDTH, at, camera, progress, sighting, track, turned};

/// Calls that were made, and how often each call fails.
#[derive(Default)]
struct Script {
    calls: Mutex<Vec<&'static str>>,
    gallery_fails: AtomicU32,
    upsert_fails: AtomicU32,
    flush_fails: AtomicU32,
    full: AtomicBool,
    coverage: Coverage,
    /// Coverage of camera "gate" when the store was flushed.
    at_flush: Mutex<Vec<Option<Timestamp>>>,
    refused: Mutex<Vec<(IndexEvent, String)>>,
}

impl Script {
    fn call(&self, name: &'static str, fails: &AtomicU32) -> bool {
        self.calls.lock().unwrap().push(name);
        self.full.load(Ordering::SeqCst)
            || fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }
}

impl RefusalHandler<IndexEvent> for Script {
    fn refuse(&self, event: IndexEvent, reason: &str, receipt: Receipt) {
        self.refused.lock().unwrap().push((event, reason.to_owned()));
        receipt.complete();
    }
}

/// A message, with its position in the order of acknowledgements (`0`: not acknowledged).
fn tracked(event: IndexEvent, count: &Arc<AtomicU32>) -> (Delivery<IndexEvent>, Arc<AtomicU32>) {
    let (count, at) = (count.clone(), Arc::new(AtomicU32::new(0)));
    let seen = at.clone();
    let receipt = Receipt::new(move || at.store(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst));
    (Delivery::new(event, receipt), seen)
}

struct Store(ExactStore, Arc<Script>);

impl VectorStore for Store {
    fn model_id(&self) -> &str {
        self.0.model_id()
    }
    fn width(&self) -> usize {
        self.0.width()
    }
    fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        if self.1.call("upsert", &self.1.upsert_fails) {
            return Err(StoreError::Engine("no space left on device".to_owned()));
        }
        self.0.upsert(points)
    }
    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError> {
        self.0.search(vector, limit, filter)
    }
    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        self.0.get(ids)
    }
    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        self.0.vectors(ids)
    }
    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.0.newest(filter, limit)
    }
    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError> {
        self.0.scroll(filter, after, limit)
    }
    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError> {
        self.0.delete_ids(ids)
    }
    fn delete(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.0.delete(filter)
    }
    fn end_track(&self, c: &CameraId, t: TrackId, f: Timestamp, l: Timestamp, e: bool) -> Result<u64, StoreError> {
        self.1.calls.lock().unwrap().push("end_track");
        self.0.end_track(c, t, f, l, e)
    }
    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.0.estimate(filter)
    }

    fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.0.count(filter)
    }
    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError> {
        self.0.cameras()
    }
    fn flush(&self) -> Result<(), StoreError> {
        let seen = self.1.coverage.get(&camera("gate")).and_then(|c| c.searchable_through);
        self.1.at_flush.lock().unwrap().push(seen);
        if self.1.call("flush", &self.1.flush_fails) {
            return Err(StoreError::Engine("no space left on device".to_owned()));
        }
        Ok(())
    }
    fn optimize(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

struct Pictures(FolderGallery, Arc<Script>);

impl Gallery for Pictures {
    fn put(&self, entries: &[GalleryEntry]) -> Result<(), GalleryError> {
        if self.1.call("gallery", &self.1.gallery_fails) {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(FileError { action: "write", path: "gallery/jpeg".into(), source }.into());
        }
        self.0.put(entries)
    }
    fn put_patches(&self, features: &[(PictureKey, PatchFeatures)]) -> Result<(), GalleryError> {
        self.0.put_patches(features)
    }
    fn jpeg(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        self.0.jpeg(key)
    }
    fn patches(&self, key: PictureKey) -> Result<Option<PatchFeatures>, GalleryError> {
        self.0.patches(key)
    }
    fn prune(&self, kept: &[PictureKey]) -> Result<u64, GalleryError> {
        self.0.prune(kept)
    }
    fn retire(&self, replaced: &[PictureKey], now: Timestamp) -> Result<u64, GalleryError> {
        self.0.retire(replaced, now)
    }
    fn replaced(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        self.0.replaced(key)
    }
    fn delete_replaced(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        self.0.delete_replaced(ids)
    }
    fn expire_replaced(&self, now: Timestamp) -> Result<u64, GalleryError> {
        self.0.expire_replaced(now)
    }
    fn delete(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        self.0.delete(ids)
    }
    fn ids(&self) -> Result<Vec<SightingId>, GalleryError> {
        self.0.ids()
    }
    fn ids_in(&self, shard: u16, before: SystemTime) -> Result<Vec<SightingId>, GalleryError> {
        self.0.ids_in(shard, before)
    }
    fn quarantine(&self, ids: &[SightingId], now: Timestamp) -> Result<u64, GalleryError> {
        self.0.quarantine(ids, now)
    }
    fn expire_quarantine(&self, now: Timestamp) -> Result<u64, GalleryError> {
        self.0.expire_quarantine(now)
    }
    fn forget_model(&self, model_id: &str) -> Result<(), GalleryError> {
        self.0.forget_model(model_id)
    }
}

/// An indexer on a thread of its own.
struct Line {
    queue: Queue<Delivery<IndexEvent>>,
    script: Arc<Script>,
    store: Arc<Store>,
    gallery: Arc<Pictures>,
    shutdown: Shutdown,
    thread: std::thread::JoinHandle<Result<(), IndexerError>>,
    _folder: tempfile::TempDir,
}

impl Line {
    /// `events` are in the queue before the indexer starts, so that they form one batch.
    fn start<I: Into<Delivery<IndexEvent>>>(script: Script, capacity: usize, events: Vec<I>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (script, queue, shutdown) = (Arc::new(script), Queue::new(capacity), Shutdown::new());
        let store = Arc::new(Store(ExactStore::new(MODEL, WIDTH), script.clone()));
        let gallery = Arc::new(Pictures(FolderGallery::open(folder.path(), MODEL).unwrap(), script.clone()));
        for event in events {
            queue.push_wait(event.into()).unwrap();
        }
        let thread = {
            let (queue, script, shutdown) = (queue.clone(), script.clone(), shutdown.clone());
            let (store, gallery) = (store.clone(), gallery.clone());
            let options = IndexerOptions {
                batch: 64,
                backoff_first: Duration::from_millis(5),
                backoff_last: Duration::from_millis(20),
            };
            let refused = script.clone();
            std::thread::spawn(move || {
                let journals = Journals::in_memory();
                let (store, gallery) = (&*store, &*gallery);
                let sink = Sink { store, gallery, coverage: &script.coverage, journals: &journals };
                indexer::run(&queue, sink, &*refused, &options, &shutdown)
            })
        };
        Self { queue, script, store, gallery, shutdown, thread, _folder: folder }
    }

    fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        sightline_testing::until(Duration::from_secs(20), what, || reached(self));
    }
}

fn seen(s: Sighting) -> IndexEvent {
    IndexEvent::Sighting(Box::new(s))
}

fn through(us: i64) -> IndexEvent {
    IndexEvent::Progress(progress("gate", 0, us, false))
}

fn end(born: i64, last: i64, ended: bool) -> IndexEvent {
    let (first_seen, last_seen) = (at(born), at(last));
    let origin = Origin::new("test", 0);
    IndexEvent::TrackEnd(TrackEnd { origin, camera: camera("gate"), track: track(born), first_seen, last_seen, ended })
}

#[test]
fn pictures_then_points_then_flush_then_coverage() {
    let events = vec![
        seen(sighting("gate", 1, 0, 10, turned(0, 0.0))),
        through(15),
        seen(sighting("gate", 1, 1, 20, turned(1, 0.0))),
        end(1, 25, true),
        through(30),
    ];
    let line = Line::start(Script::default(), 8, events);
    line.queue.close();
    line.thread.join().unwrap().unwrap();
    assert_eq!(*line.script.calls.lock().unwrap(), ["gallery", "upsert", "end_track", "flush"]);
    assert_eq!(*line.script.at_flush.lock().unwrap(), [None], "nothing is promised before the flush");
    let gate = line.script.coverage.get(&camera("gate")).unwrap();
    assert_eq!((gate.searchable_through, gate.connection, gate.indexed), (Some(at(30)), Some(0), 2));
    assert!(gate.last_indexed_at.is_some() && !gate.ended);
    for r in line.store.newest(&Filter::default(), 9).unwrap() {
        assert_eq!((r.payload.first_seen, r.payload.last_seen, r.payload.ended), (at(1), at(25), true));
        assert!(line.gallery.jpeg(r.key()).unwrap().is_some() && line.gallery.patches(r.key()).unwrap().is_some());
    }
}

#[test]
fn transient_failures_lose_nothing() {
    let script = Script {
        gallery_fails: AtomicU32::new(3),
        upsert_fails: AtomicU32::new(2),
        flush_fails: AtomicU32::new(4),
        ..Script::default()
    };
    let events = vec![seen(sighting("gate", 1, 0, 10, turned(0, 0.0))), through(15)];
    let line = Line::start(script, 8, events);
    line.queue.close();
    line.thread.join().unwrap().unwrap();
    let calls = line.script.calls.lock().unwrap();
    let count = |name| calls.iter().filter(|c| **c == name).count();
    assert_eq!((count("gallery"), count("upsert"), count("flush")), (4, 3, 5));
    assert!(calls.is_sorted_by_key(|c| ["gallery", "upsert", "flush"].iter().position(|n| n == c)), "{calls:?}");
    assert!(line.script.at_flush.lock().unwrap().iter().all(Option::is_none));
    assert_eq!(line.store.count(&Filter::default()).unwrap(), 1);
    assert_eq!(line.script.coverage.fault(), None);
}

#[test]
fn a_full_disk_blocks_the_pipeline_and_is_reported() {
    let script = Script { full: AtomicBool::new(true), ..Script::default() };
    let line = Line::start(script, 2, Vec::<IndexEvent>::new());
    let producer = {
        let queue = line.queue.clone();
        std::thread::spawn(move || {
            for i in 0..40 {
                queue.push_wait(seen(sighting("gate", i, 0, 100 + i, turned(0, 0.0))).into()).unwrap();
            }
            queue.push_wait(through(200).into()).unwrap();
            queue.close();
        })
    };
    line.until("the fault is told", |l| l.script.coverage.fault().is_some());
    assert!(line.script.coverage.fault().unwrap().contains("gallery"), "{:?}", line.script.coverage.fault());
    line.until("the queue is full", |l| l.queue.len() == 2);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!producer.is_finished(), "the producer must wait");
    assert!(line.script.coverage.get(&camera("gate")).is_none());
    line.script.full.store(false, Ordering::SeqCst);
    producer.join().unwrap();
    line.thread.join().unwrap().unwrap();
    assert_eq!(line.store.count(&Filter::default()).unwrap(), 40);
    let gate = line.script.coverage.get(&camera("gate")).unwrap();
    assert_eq!((gate.searchable_through, gate.indexed), (Some(at(200)), 40));
}

#[test]
fn a_stop_while_nothing_can_be_stored_says_what_is_unsaved() {
    let script = Script { full: AtomicBool::new(true), ..Script::default() };
    let events: Vec<_> = (0..3).map(|i| seen(sighting("gate", i, 0, i, turned(0, 0.0)))).collect();
    let line = Line::start(script, 8, events);
    line.until("it has failed", |l| l.script.coverage.fault().is_some());
    line.queue.push_wait(through(9).into()).unwrap();
    line.shutdown.trigger();
    let Err(IndexerError::Unsaved { events, reason }) = line.thread.join().unwrap() else { panic!("must fail") };
    assert_eq!(events, 4);
    assert!(reason.contains("gallery/jpeg"), "{reason}");
    assert!(line.queue.push_wait(through(10).into()).is_err(), "nobody is left to wait for");
    assert!(line.script.coverage.get(&camera("gate")).is_none());
}

#[test]
fn data_that_can_never_be_stored_is_refused_alone() {
    let mut misshapen = sighting("gate", 3, 0, 30, turned(0, 0.0));
    misshapen.patches.rows += 1;
    let mut foreign = sighting("gate", 4, 0, 40, turned(0, 0.0));
    foreign.model_id = "another".to_owned();
    let events = vec![
        seen(sighting("gate", 1, 0, 10, turned(0, 0.0))),
        seen(sighting("gate", 2, 0, 20, vec![f32::NAN; WIDTH])),
        seen(misshapen),
        seen(foreign),
        seen(sighting("gate", 5, 0, 50, turned(1, 0.0))),
        through(60),
    ];
    let line = Line::start(Script::default(), 8, events);
    line.queue.close();
    line.thread.join().unwrap().unwrap();
    let gate = line.script.coverage.get(&camera("gate")).unwrap();
    assert_eq!((gate.indexed, gate.rejected, gate.searchable_through), (2, 3, Some(at(60))));
    let stored = line.store.ids(&Filter::default()).unwrap();
    let kept = line.gallery.ids().unwrap();
    assert_eq!(stored.len(), 2);
    assert_eq!(kept.len(), 2, "no picture is left of what was refused");
    let refused = line.script.refused.lock().unwrap();
    let reasons: Vec<&str> = refused.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(refused.len(), 3, "{reasons:?}");
    assert!(
        reasons[0].contains("finite") && reasons[1].contains("patch") && reasons[2].contains("another"),
        "{reasons:?}"
    );
}

#[test]
fn repeated_and_late_deliveries_take_nothing_back() {
    let old = sighting("gate", 1, 0, 10, turned(0, 0.0));
    let better = sighting("gate", 1, 0, 40, turned(2, 0.0));
    let id = better.id();
    let line = Line::start(Script::default(), 16, vec![seen(old.clone()), seen(better.clone()), end(1, 90, true)]);
    line.until("the first batch is in", |l| l.script.coverage.get(&camera("gate")).is_some());
    assert_eq!(line.script.coverage.get(&camera("gate")).unwrap().indexed, 1, "one slot, one picture");
    // Redelivery after a crash of the stage before: the older picture, an older span, the better
    // picture.
    for event in [seen(old), end(1, 50, false), seen(better.clone()), through(100)] {
        line.queue.push_wait(event.into()).unwrap();
    }
    line.queue.close();
    line.thread.join().unwrap().unwrap();
    let found = line.store.vectors(&[id]).unwrap();
    let payload = &found[0].0.payload;
    assert_eq!(line.store.count(&Filter::default()).unwrap(), 1);
    assert_eq!((payload.captured_at, payload.last_seen, payload.ended), (at(40), at(90), true));
    assert_eq!(found[0].1[2], 1.0);
    assert_eq!(line.gallery.jpeg(PictureKey::new(id, &better.crop.jpeg)).unwrap().unwrap(), better.crop.jpeg);
}

#[test]
fn messages_are_acknowledged_after_everything_else() {
    let count = Arc::new(AtomicU32::new(0));
    let mut broken = sighting("gate", 1, 1, 20, vec![f32::NAN; WIDTH]);
    broken.crop.captured_at = at(12);
    let events = vec![seen(sighting("gate", 1, 0, 10, turned(0, 0.0))), end(1, 25, false), seen(broken), through(30)];
    let (deliveries, done): (Vec<_>, Vec<_>) = events.into_iter().map(|e| tracked(e, &count)).unzip();
    let script = Script { flush_fails: AtomicU32::new(2), ..Script::default() };
    let line = Line::start(script, 8, deliveries);
    line.until("the flush fails", |l| l.script.coverage.fault().is_some());
    assert!(count.load(Ordering::SeqCst) <= 1, "only the refused one is done with before the flush");
    line.queue.close();
    line.thread.join().unwrap().unwrap();
    let done: Vec<u32> = done.iter().map(|d| d.load(Ordering::SeqCst)).collect();
    assert_eq!(done[2], 1, "refused");
    assert!(done.iter().all(|d| *d > 0), "{done:?}");
    assert_eq!(line.script.coverage.get(&camera("gate")).unwrap().searchable_through, Some(at(30)));
}

#[test]
fn receipts_of_unsaved_events_stay_open_at_a_shutdown() {
    let count = Arc::new(AtomicU32::new(0));
    let script = Script { full: AtomicBool::new(true), ..Script::default() };
    let (delivery, done) = tracked(seen(sighting("gate", 1, 0, 10, turned(0, 0.0))), &count);
    let line = Line::start(script, 8, vec![delivery]);
    line.until("it has failed", |l| l.script.coverage.fault().is_some());
    line.shutdown.trigger();
    assert!(line.thread.join().unwrap().is_err());
    assert_eq!(done.load(Ordering::SeqCst), 0, "it will be delivered again");
}

#[test]
fn a_better_picture_that_cannot_be_stored_does_not_cost_the_earlier_one() {
    let good = sighting("gate", 1, 0, 10, turned(0, 0.0));
    let broken = sighting("gate", 1, 0, 20, vec![0.0; WIDTH]);
    let line = Line::start(Script::default(), 8, vec![seen(good.clone()), seen(broken)]);
    line.queue.close();
    line.thread.join().unwrap().unwrap();
    assert_eq!(line.store.get(&[good.id()]).unwrap()[0].payload.captured_at, at(10));
    assert_eq!(line.script.refused.lock().unwrap().len(), 1);
}

#[test]
fn a_picture_is_never_shown_with_the_time_of_another_one() {
    let (first, better) = (sighting("gate", 1, 0, 10, turned(0, 0.0)), sighting("gate", 1, 0, 40, turned(2, 0.0)));
    let line = Line::start(Script::default(), 8, vec![seen(first.clone())]);
    line.until("the first one is in", |l| l.store.count(&Filter::default()).unwrap() == 1);
    line.until("it is acknowledged", |l| l.script.coverage.get(&camera("gate")).is_some());
    // The better picture is in the gallery, and the store fails: the earlier point has its picture.
    line.script.upsert_fails.store(1_000_000, Ordering::SeqCst);
    line.queue.push_wait(seen(better.clone()).into()).unwrap();
    line.until("it fails", |l| l.script.coverage.fault().is_some());
    let now = line.store.get(&[first.id()]).unwrap().remove(0);
    assert_eq!(now.payload.captured_at, at(10));
    assert_eq!(line.gallery.jpeg(now.key()).unwrap().as_ref(), Some(&first.crop.jpeg));
    line.script.upsert_fails.store(0, Ordering::SeqCst);
    line.queue.close();
    let (store, gallery) = (line.store.clone(), line.gallery.clone());
    line.thread.join().unwrap().unwrap();
    let then = store.get(&[first.id()]).unwrap().remove(0);
    assert_eq!(then.payload.captured_at, at(40));
    assert_eq!(gallery.jpeg(then.key()).unwrap().as_ref(), Some(&better.crop.jpeg));
    assert_eq!(gallery.jpeg(now.key()).unwrap(), None, "and the earlier one is gone from there");
    assert_eq!(gallery.patches(now.key()).unwrap(), None);
    assert_eq!(gallery.replaced(now.key()).unwrap().as_ref(), Some(&first.crop.jpeg), "a list may still name it");
}
