//! The index of a new model replaces a former one: every sighting once, whatever interrupts the run
//! and whatever happens between two runs, and only when it is complete.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sightline_core::SightingId;
use sightline_core::shutdown::Shutdown;
use sightline_embed::{EmbedError, ImageFeatures};
use sightline_search::reindex::{
    Embed, Event, Indexes, Outcome, Reindex, ReindexError, UNFINISHED, VECTORS, drop_others, open_embedded,
};
use sightline_search::{
    EdgeOptions, EdgeStore, Eraser, Filter, FolderGallery, Gallery, GalleryEntry, Journals, Point, Recovered, Scope,
    VectorStore, indexed_models, retention,
};

use crate::support::{MODEL, WIDTH, at, camera, gallery_entry, open, patches, point, track, turned};

const NEW: &str = "new-model";
/// Width of the new model's vectors, which is larger.
const NEW_WIDTH: usize = WIDTH + 4;

/// Creates a data folder as the former model leaves it: `n` sightings of two cameras, three per
/// track.
fn data(n: i64) -> (tempfile::TempDir, Vec<Point>) {
    let dir = tempfile::tempdir().unwrap();
    let points: Vec<Point> = (0..n)
        .map(|i| point(["a", "b"][i as usize % 2], i / 6, (i / 2 % 3) as u8, 100 + i, turned(i as usize, 0.1)))
        .collect();
    put(dir.path(), &points);
    (dir, points)
}

fn vectors(data: &Path) -> PathBuf {
    data.join(VECTORS)
}

/// Stores points as the former model does, with their pictures.
fn put(data: &Path, points: &[Point]) {
    let (store, gallery) = (open(&vectors(data)), FolderGallery::open(&data.join("gallery"), MODEL).unwrap());
    let entries: Vec<GalleryEntry> = points.iter().map(|p| gallery_entry(p, 0.0)).collect();
    gallery.put(&entries).unwrap();
    store.upsert(points).unwrap();
    store.flush().unwrap();
}

fn open_pictures(data: &Path) -> FolderGallery {
    FolderGallery::open(&data.join("gallery"), NEW).unwrap()
}

/// The new model: the features of a picture are derived from its bytes; bytes that begin with X are
/// no picture.
fn features(jpeg: &Bytes) -> Result<ImageFeatures, String> {
    if jpeg.starts_with(b"X") {
        return Err("not a picture".to_owned());
    }
    let sum: usize = jpeg.iter().map(|b| usize::from(*b)).sum();
    let mut feature = turned(sum, 0.3);
    feature.resize(NEW_WIDTH, 0.5);
    Ok(ImageFeatures { feature, patches: patches(sum as f32) })
}

fn model(jpegs: &[Bytes]) -> Result<Vec<Result<ImageFeatures, String>>, EmbedError> {
    Ok(jpegs.iter().map(features).collect())
}

fn open_indexes(data: &Path) -> Indexes {
    Indexes::open(data, NEW, NEW_WIDTH, &EdgeOptions::default()).unwrap().expect("a former model's index")
}

fn run(indexes: &Indexes, gallery: &dyn Gallery, embed: &Embed<'_>) -> Result<Outcome, ReindexError> {
    run_until(indexes, gallery, embed, &Shutdown::new())
}

fn run_until(
    indexes: &Indexes,
    gallery: &dyn Gallery,
    embed: &Embed<'_>,
    shutdown: &Shutdown,
) -> Result<Outcome, ReindexError> {
    let (former, new, unfinished) = (indexes.former(), indexes.new_index(), indexes.unfinished());
    let job = Reindex { former, new, unfinished, gallery, embed, batch: 4, disk: None, shutdown };
    let mut last = (0, 0);
    let outcome = job.run(&mut |event| {
        if let Event::Progress { done, total, left_out, .. } = event {
            assert!(done + left_out <= total && done >= last.0, "{done} of {total} after {last:?}");
            last = (done, left_out);
        }
    })?;
    assert_eq!(last, (outcome.found + outcome.embedded, outcome.left_out.len() as u64));
    Ok(outcome)
}

/// Creates a model that fails after this number of batches.
fn dying(batches: usize) -> impl Fn(&[Bytes]) -> Result<Vec<Result<ImageFeatures, String>>, EmbedError> {
    let left = Cell::new(batches);
    move |jpegs| {
        let Some(now) = left.get().checked_sub(1) else { return Err(EmbedError::Stopped) };
        left.set(now);
        model(jpegs)
    }
}

/// Asserts that the new model's index holds exactly these sightings, each with its metadata, vector
/// and features.
fn holds(store: &dyn VectorStore, gallery: &dyn Gallery, points: &[Point]) {
    let mut ids = store.ids(&Filter::default()).unwrap();
    let mut expected: Vec<SightingId> = points.iter().map(|p| p.id).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    for p in points {
        let (record, vector) = store.vectors(&[p.id]).unwrap().pop().unwrap();
        assert_eq!((record.payload.model_id.as_str(), record.payload.captured_at), (NEW, p.payload.captured_at));
        assert_eq!((&record.payload.camera, record.payload.track), (&p.payload.camera, p.payload.track));
        let made = features(&gallery.jpeg(p.key()).unwrap().unwrap()).unwrap();
        let norm = made.feature.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(vector.iter().zip(&made.feature).all(|(a, b)| (a - b / norm).abs() < 1e-5), "the vector of {}", p.id);
        assert_eq!(gallery.patches(p.key()).unwrap(), Some(made.patches), "the features of {}", p.id);
    }
}

#[test]
fn everybody_is_embedded_once_whatever_stops_it_and_only_then_it_takes_over() {
    let (dir, points) = data(26);
    let mut found = 0;
    for _ in 0..3 {
        let (indexes, gallery) = (open_indexes(dir.path()), open_pictures(dir.path()));
        assert!(indexes.unfinished());
        let error = run(&indexes, &gallery, &dying(2)).unwrap_err();
        assert!(matches!(error, ReindexError::Model(EmbedError::Stopped)), "{error}");
        assert_eq!(indexed_models(&vectors(dir.path())).unwrap(), [MODEL], "the former model answers");
        found += 8;
        assert_eq!(indexes.new_index().count(&Filter::default()).unwrap(), found, "none of them twice");
    }
    let (indexes, gallery) = (open_indexes(dir.path()), open_pictures(dir.path()));
    let stop = Shutdown::new();
    stop.trigger();
    let stopped = run_until(&indexes, &gallery, &model, &stop).unwrap();
    assert_eq!(stopped, Outcome { total: 26, found, stopped: true, ..Outcome::default() });
    let outcome = run(&indexes, &gallery, &model).unwrap();
    assert_eq!(outcome, Outcome { total: 26, found, embedded: 2, ..Outcome::default() });
    holds(indexes.new_index(), &gallery, &points);
    assert!(drop_others(dir.path(), NEW, &gallery).is_err(), "nothing has taken over yet");
    indexes.finish().unwrap();
    assert_eq!(indexed_models(&vectors(dir.path())).unwrap(), [NEW, MODEL]);
    assert!(!dir.path().join(UNFINISHED).exists());

    // A second run has nothing left to do.
    let again = open_indexes(dir.path());
    assert!(!again.unfinished());
    let outcome = run(&again, &gallery, &dying(0)).unwrap();
    assert_eq!(outcome, Outcome { total: 26, found: 26, ..Outcome::default() });
    again.finish().unwrap();

    let begun = vectors(dir.path()).join(".dropped-older");
    std::fs::create_dir_all(begun.join("shard")).unwrap();
    assert_eq!(drop_others(dir.path(), NEW, &gallery).unwrap(), [MODEL]);
    assert_eq!(indexed_models(&vectors(dir.path())).unwrap(), [NEW]);
    assert_eq!(std::fs::read_dir(vectors(dir.path())).unwrap().count(), 1, "nothing set aside is left");
    assert!(!dir.path().join("gallery/patches").join(MODEL).exists());
    assert!(Indexes::open(dir.path(), NEW, NEW_WIDTH, &EdgeOptions::default()).unwrap().is_none());
    holds(&*open_embedded(dir.path(), NEW, NEW_WIDTH).unwrap(), &gallery, &points);
}

#[test]
fn what_the_former_model_does_between_two_runs_is_caught_up_with() {
    let (dir, mut points) = data(24);
    {
        let (indexes, gallery) = (open_indexes(dir.path()), open_pictures(dir.path()));
        run(&indexes, &gallery, &model).unwrap();
    }
    let (erased, newcomer) = (points.remove(0), point("c", 900, 0, 950, turned(1, 0.0)));
    {
        // The server, on the former model.
        let gallery = Arc::new(FolderGallery::open(&dir.path().join("gallery"), MODEL).unwrap());
        let store = open_embedded(dir.path(), MODEL, WIDTH).unwrap();
        assert_eq!(store.count(&Filter::default()).unwrap(), 24, "the half-done index answers nothing");
        let eraser = Eraser::new(store.clone(), gallery.clone(), Arc::new(Journals::in_memory()));
        let taken = Some(erased.payload.captured_at);
        let scope = Scope { from: taken, to: taken, ..Scope::camera(erased.payload.camera.clone()) };
        let receipt = eraser.run(uuid::Uuid::nil(), &[scope], &Shutdown::new(), &mut |_| ()).unwrap();
        drop(eraser);
        assert_eq!((receipt.points, receipt.files), (1, 3), "picture and both models' features");
        // A better picture for a slot, a track that continues, a new person.
        points[0].payload.captured_at = at(777);
        store.upsert(&points[..1]).unwrap();
        let better = GalleryEntry { jpeg: "a better picture".into(), ..gallery_entry(&points[0], 0.0) };
        gallery.put(&[better, gallery_entry(&newcomer, 0.0)]).unwrap();
        store.end_track(&camera("b"), track(0), at(0), at(5000), true).unwrap();
        store.upsert(std::slice::from_ref(&newcomer)).unwrap();
        store.flush().unwrap();
    }
    let (indexes, gallery) = (open_indexes(dir.path()), open_pictures(dir.path()));
    assert!(indexes.new_index().get(&[erased.id]).unwrap().is_empty(), "erased from the half-done index at once");
    let outcome = run(&indexes, &gallery, &model).unwrap();
    assert_eq!(outcome, Outcome { total: 24, found: 22, embedded: 2, ..Outcome::default() });
    points.push(newcomer);
    holds(indexes.new_index(), &gallery, &points);
    let track = indexes.new_index().ids(&Filter::track(camera("b"), track(0))).unwrap();
    for record in indexes.new_index().get(&track).unwrap() {
        assert_eq!((record.payload.last_seen, record.payload.ended), (at(5000), true));
    }
    // A program without knowledge of the half-built index erased a sighting from the other one
    // alone.
    let gone = points.pop().unwrap();
    indexes.former()[0].delete(&Filter::ids(vec![gone.id])).unwrap();
    let outcome = run(&indexes, &gallery, &dying(0)).unwrap();
    assert_eq!((outcome.erased, outcome.total, outcome.found), (1, 23, 23));
    holds(indexes.new_index(), &gallery, &points);
}

#[test]
fn erasing_and_expiring_reach_every_models_index() {
    let (dir, points) = data(24);
    {
        let (indexes, gallery) = (open_indexes(dir.path()), open_pictures(dir.path()));
        run(&indexes, &gallery, &model).unwrap();
        indexes.finish().unwrap();
    }
    let gallery = Arc::new(open_pictures(dir.path()));
    let store = open_embedded(dir.path(), NEW, NEW_WIDTH).unwrap();
    // A sighting that the new model could not embed: only the former one has it.
    let only_former = points[4].id;
    drop(store);
    EdgeStore::open(&vectors(dir.path()), NEW, NEW_WIDTH, &EdgeOptions::default())
        .unwrap()
        .delete(&Filter::ids(vec![only_former]))
        .unwrap();
    let store = open_embedded(dir.path(), NEW, NEW_WIDTH).unwrap();
    assert_eq!(store.count(&Filter::default()).unwrap(), 23);
    let journals = Journals::open(dir.path()).unwrap();
    let recovered = journals.recover(dir.path(), &*store, &*gallery).unwrap();
    assert_eq!(recovered, Recovered::default(), "its picture is somebody's");
    retention::expire(&*store, &*gallery, at(106), &Shutdown::new()).unwrap();
    let eraser = Eraser::new(store, gallery.clone(), Arc::new(journals));
    let b = [Scope::camera(camera("b"))];
    let receipt = eraser.run(uuid::Uuid::nil(), &b, &Shutdown::new(), &mut |_| ()).unwrap();
    let counts: Vec<_> = receipt.by_model.iter().map(|(model, n)| (model.as_str(), *n)).collect();
    assert_eq!(counts, [(NEW, receipt.points), (MODEL, receipt.points)], "every model's vectors are in the receipt");
    drop(eraser);
    let stays = |p: &&Point| p.payload.captured_at >= at(106) && p.payload.camera == camera("a");
    let mut left: Vec<SightingId> = points.iter().filter(stays).map(|p| p.id).collect();
    left.sort();
    for (model, width) in [(NEW, NEW_WIDTH), (MODEL, WIDTH)] {
        let store = EdgeStore::open(&vectors(dir.path()), model, width, &EdgeOptions::default());
        let mut ids = store.unwrap().ids(&Filter::default()).unwrap();
        ids.sort();
        assert_eq!(ids, left, "in the index of {model}");
    }
    assert!(points.iter().all(|p| gallery.jpeg(p.key()).unwrap().is_some() == left.contains(&p.id)));
}

#[test]
fn pictures_that_are_not_there_are_named_and_stop_nothing() {
    let (dir, points) = data(12);
    {
        let former = FolderGallery::open(&dir.path().join("gallery"), MODEL).unwrap();
        former.put(&[GalleryEntry { jpeg: "X is no picture".into(), ..gallery_entry(&points[3], 0.0) }]).unwrap();
        let id = points[7].id.to_string();
        std::fs::remove_file(dir.path().join("gallery/jpeg").join(&id[..3]).join(format!("{id}.jpg"))).unwrap();
    }
    let (indexes, gallery) = (open_indexes(dir.path()), open_pictures(dir.path()));
    let outcome = run(&indexes, &gallery, &model).unwrap();
    assert_eq!((outcome.total, outcome.embedded, outcome.left_out.len()), (12, 10, 2));
    let why = |id: SightingId| outcome.left_out.iter().find(|l| l.sighting == id).unwrap().why.as_str();
    assert_eq!((why(points[3].id), why(points[7].id)), ("not a picture", "its picture is not there"));
    // The pictures return.
    gallery
        .put(&[
            GalleryEntry { patches: patches(0.0), ..gallery_entry(&points[3], 0.0) },
            gallery_entry(&points[7], 0.0),
        ])
        .unwrap();
    let outcome = run(&indexes, &gallery, &model).unwrap();
    assert_eq!((outcome.found, outcome.embedded, outcome.left_out.len()), (10, 2, 0));
    holds(indexes.new_index(), &gallery, &points);
}

#[test]
fn a_failing_disk_is_reported_and_loses_nothing() {
    let (dir, points) = data(12);
    let (indexes, gallery) = (open_indexes(dir.path()), open_pictures(dir.path()));
    // A file takes the place of a sub-folder, so the features of one picture cannot be written.
    let in_the_way = dir.path().join("gallery/patches").join(NEW).join(&points[5].id.to_string()[..3]);
    std::fs::write(&in_the_way, b"in the way").unwrap();
    let error = run(&indexes, &gallery, &model).unwrap_err();
    assert!(matches!(error, ReindexError::Gallery(_)) && error.to_string().contains(NEW), "{error}");
    assert!(indexes.new_index().get(&[points[5].id]).unwrap().is_empty(), "no vector without features");
    std::fs::remove_file(&in_the_way).unwrap();
    assert_eq!(run(&indexes, &gallery, &model).unwrap().left_out, []);
    holds(indexes.new_index(), &gallery, &points);
}

#[test]
fn an_index_that_answers_already_keeps_its_own_and_an_empty_one_does_not_count() {
    let (dir, points) = data(6);
    let own = |store: &dyn VectorStore, gallery: &dyn Gallery| {
        let mut own = point("new-camera", 1, 0, 2, turned(0, 0.0));
        own.vector.resize(NEW_WIDTH, 0.0);
        own.payload.model_id = NEW.to_owned();
        gallery.put(&[gallery_entry(&own, 0.0)]).unwrap();
        store.upsert(std::slice::from_ref(&own)).unwrap();
        own.id
    };
    drop(open_embedded(dir.path(), NEW, NEW_WIDTH).unwrap());
    assert_eq!(indexed_models(&vectors(dir.path())).unwrap(), [NEW, MODEL]);
    drop(open_indexes(dir.path()));
    assert_eq!(indexed_models(&vectors(dir.path())).unwrap(), [MODEL], "the former model answers again");

    let gallery = open_pictures(dir.path());
    let id = own(&*open_embedded(dir.path(), NEW, NEW_WIDTH).unwrap(), &gallery);
    let indexes = open_indexes(dir.path());
    assert!(!indexes.unfinished());
    let outcome = run(&indexes, &gallery, &model).unwrap();
    assert_eq!((outcome.total, outcome.embedded, outcome.erased), (6, 6, 0));
    assert_eq!(indexes.new_index().count(&Filter::default()).unwrap(), 7);
    assert!(!indexes.new_index().get(&[id, points[0].id]).unwrap().is_empty());
    indexes.finish().unwrap();
}
