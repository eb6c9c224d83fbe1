//! Retention: expired sightings are deleted with their pictures; the others stay.

use std::time::Duration;

use sightline_core::Timestamp;
use sightline_core::shutdown::Shutdown;
use sightline_search::{ExactStore, Filter, FolderGallery, Gallery, GalleryEntry, PictureKey, VectorStore, retention};

use crate::support::{MODEL, WIDTH, at, gallery_entry, point, turned};

#[test]
fn old_sightings_are_deleted_in_batches_with_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let (store, gallery) = (ExactStore::new(MODEL, WIDTH), FolderGallery::open(dir.path(), MODEL).unwrap());
    // More than one batch has expired.
    let points: Vec<_> = (0..700).map(|i| point("gate", i, 0, i, turned(0, 0.0))).collect();
    store.upsert(&points).unwrap();
    let pictures: Vec<_> = points.iter().step_by(100).map(|p| gallery_entry(p, 0.0)).collect();
    gallery.put(&pictures).unwrap();
    let done = retention::expire(&store, &gallery, at(600), &Shutdown::new()).unwrap();
    assert_eq!((done.points, done.files), (600, 12));
    assert_eq!(store.count(&Filter::default()).unwrap(), 100);
    assert!(store.newest(&Filter::default(), 700).unwrap().iter().all(|r| r.payload.captured_at >= at(600)));
    assert_eq!(gallery.ids().unwrap().len(), 1);
    assert_eq!(retention::expire(&store, &gallery, at(600), &Shutdown::new()).unwrap().points, 0);
}

#[test]
fn a_replaced_picture_expires_with_its_own_age() {
    let dir = tempfile::tempdir().unwrap();
    let (store, gallery) = (ExactStore::new(MODEL, WIDTH), FolderGallery::open(dir.path(), MODEL).unwrap());
    // In view from 10 on; the picture of 10 was replaced by that of 200, that of 150 by that of
    // 210.
    let points = [point("gate", 10, 0, 200, turned(0, 0.0)), point("gate", 150, 0, 210, turned(0, 0.0))];
    store.upsert(&points).unwrap();
    let earlier = points.each_ref().map(|p| {
        let key = PictureKey::new(p.id, b"the earlier one");
        GalleryEntry { key, jpeg: "the earlier one".into(), ..gallery_entry(p, 0.0) }
    });
    gallery.put(&points.each_ref().map(|p| gallery_entry(p, 0.0))).unwrap();
    gallery.put(&earlier).unwrap();
    gallery.retire(&earlier.each_ref().map(|e| e.key), Timestamp::now()).unwrap();
    retention::expire(&store, &gallery, at(100), &Shutdown::new()).unwrap();
    assert_eq!(gallery.replaced(earlier[0].key).unwrap(), None);
    assert!(gallery.replaced(earlier[1].key).unwrap().is_some(), "younger than that");
    assert!(points.iter().all(|p| gallery.jpeg(p.key()).unwrap().is_some()));
}

#[test]
fn a_shutdown_ends_the_retention() {
    let dir = tempfile::tempdir().unwrap();
    let (store, gallery) = (ExactStore::new(MODEL, WIDTH), FolderGallery::open(dir.path(), MODEL).unwrap());
    let shutdown = Shutdown::new();
    shutdown.trigger();
    store.upsert(&[point("gate", 1, 0, 1, turned(0, 0.0))]).unwrap();
    retention::run(&store, &gallery, Some(Duration::from_secs(1)), &shutdown);
    assert_eq!(store.count(&Filter::default()).unwrap(), 1, "nothing is begun after a stop");
}
