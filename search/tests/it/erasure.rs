//! Erasure: everything that matches is deleted and nothing else, and an interrupted erasure is
//! finished at the next start.

use sightline_search::{
    EraseError, ExactStore, Filter, FolderGallery, Gallery, GalleryEntry, Point, Receipt, StoreError, VectorStore,
    erase, resume_erasures, sweep_orphans,
};

use crate::support::{MODEL, WIDTH, camera, gallery_entry, point, turned};

fn filled() -> (tempfile::TempDir, ExactStore, FolderGallery, Vec<Point>) {
    let dir = tempfile::tempdir().unwrap();
    let (store, gallery) = (ExactStore::new(MODEL, WIDTH), FolderGallery::open(dir.path(), MODEL).unwrap());
    let points: Vec<Point> =
        (0..30).map(|i| point(["a", "b", "c"][i % 3], i as i64, 0, i as i64, turned(i, 0.1))).collect();
    let entries: Vec<GalleryEntry> = points.iter().map(|p| gallery_entry(p, 0.0)).collect();
    gallery.put(&entries).unwrap();
    store.upsert(&points).unwrap();
    (dir, store, gallery, points)
}

#[test]
fn a_cameras_people_are_gone_everywhere() {
    let (dir, store, gallery, points) = filled();
    let journals = dir.path().join("erasures");
    let filter = Filter::camera(camera("b"));
    assert_eq!(erase(&store, &gallery, &journals, &filter).unwrap(), Receipt { points: 10, files: 20 });
    assert_eq!(erase(&store, &gallery, &journals, &filter).unwrap(), Receipt::default());
    assert_eq!((store.count(&Filter::default()).unwrap(), gallery.ids().unwrap().len()), (20, 20));
    for p in &points {
        let gone = p.payload.camera == camera("b");
        assert_eq!(gallery.jpeg(p.id).unwrap().is_none(), gone);
        assert_eq!(store.get(&[p.id]).unwrap().is_empty(), gone);
    }
    assert_eq!(std::fs::read_dir(&journals).unwrap().count(), 0, "no journal is left");
    let error = erase(&store, &gallery, &journals, &Filter::default()).unwrap_err();
    assert!(matches!(error, EraseError::Store(StoreError::Unrestricted)), "{error}");
}

#[test]
fn an_interrupted_deletion_is_finished_at_the_next_start() {
    let (dir, store, gallery, points) = filled();
    let journals = dir.path().join("erasures");
    assert_eq!(resume_erasures(&store, &gallery, &journals).unwrap(), Receipt::default(), "nothing to do");
    // The state of a crash after the vectors: the journal exists, the points are deleted, the files
    // are not.
    std::fs::create_dir(&journals).unwrap();
    let ids: String = points[..2].iter().map(|p| format!("{}\n", p.id)).collect();
    std::fs::write(journals.join("one.ids"), ids).unwrap();
    std::fs::write(journals.join("half.new"), &points[9].id.to_string()[..20]).unwrap();
    store.delete(&Filter::ids(vec![points[0].id])).unwrap();
    assert_eq!(resume_erasures(&store, &gallery, &journals).unwrap(), Receipt { points: 1, files: 4 });
    assert_eq!(std::fs::read_dir(&journals).unwrap().count(), 0);
    assert_eq!((store.count(&Filter::default()).unwrap(), gallery.ids().unwrap().len()), (28, 28));

    std::fs::write(journals.join("bad.ids"), "no id\n").unwrap();
    for _ in 0..2 {
        assert_eq!(resume_erasures(&store, &gallery, &journals).unwrap(), Receipt::default(), "it stops no start");
    }
    assert!(journals.join("bad.damaged").exists() && !journals.join("bad.ids").exists(), "somebody can look at it");
}

/// The pictures are all that is left to make an index anew from.
#[test]
fn nothing_is_swept_against_an_empty_or_another_store() {
    let (_dir, store, gallery, points) = filled();
    let pictures = gallery.ids().unwrap().len();
    let new = ExactStore::new(MODEL, WIDTH);
    assert_eq!(sweep_orphans(&new, &gallery).unwrap(), 0, "an empty store");
    new.upsert(&[point("elsewhere", 1, 0, 1, turned(0, 0.0))]).unwrap();
    assert_eq!(sweep_orphans(&new, &gallery).unwrap(), 0, "another store");
    store.delete(&Filter::ids(points[..points.len() / 2 + 1].iter().map(|p| p.id).collect())).unwrap();
    assert_eq!(sweep_orphans(&store, &gallery).unwrap(), 0, "an older copy of the store");
    assert_eq!(gallery.ids().unwrap().len(), pictures);
}

#[test]
fn pictures_without_a_point_are_swept_up() {
    let (_dir, store, gallery, points) = filled();
    assert_eq!(sweep_orphans(&store, &gallery).unwrap(), 0);
    store.delete(&Filter::ids(vec![points[3].id])).unwrap();
    assert_eq!(sweep_orphans(&store, &gallery).unwrap(), 2);
    assert!(gallery.jpeg(points[3].id).unwrap().is_none() && gallery.jpeg(points[4].id).unwrap().is_some());
}
