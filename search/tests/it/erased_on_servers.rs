//! Erasures and retention on a Qdrant server: they reach the collections of every model and of
//! nobody else, and index workers refuse what the API has erased.

use std::sync::Arc;
use std::time::Duration;

use sightline_core::config::VectorsConfig;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Discard, IndexEvent};
use sightline_search::{
    Coverage, Eraser, Filter, FolderGallery, Gallery, IndexerOptions, Journals, Point, QdrantStore, Scope,
    ServerTombstones, Sink, VectorStore, indexer, retention,
};
use uuid::Uuid;

use crate::server::places;
use crate::support::{MODEL, WIDTH, at, camera, gallery_entry, point, sighting, turned};

fn of_model(model: &str, n: i64) -> Vec<Point> {
    let mut points: Vec<Point> = (0..n).map(|i| point(["a", "b"][i as usize % 2], i, 0, i, turned(0, 0.1))).collect();
    points.iter_mut().for_each(|p| p.payload.model_id = model.to_owned());
    points
}

fn filled(config: &VectorsConfig, model: &str, n: i64) -> QdrantStore {
    let store = QdrantStore::open(config, model, WIDTH).unwrap();
    store.upsert(&of_model(model, n)).unwrap();
    store
}

#[test]
fn every_models_vectors_are_erased_and_no_other_installations() {
    for place in places() {
        let config = place.config();
        let (store, former) = (filled(&config, MODEL, 6), filled(&config, "former", 8));
        // Another installation on the same server, whose name begins like this one.
        let neighbour = VectorsConfig { collection: format!("{}-2", config.collection), ..config.clone() };
        let theirs = filled(&neighbour, MODEL, 6);
        let dir = tempfile::tempdir().unwrap();
        let gallery = Arc::new(FolderGallery::open(dir.path(), MODEL).unwrap());
        gallery.put(&of_model(MODEL, 6).iter().map(|p| gallery_entry(p, 0.0)).collect::<Vec<_>>()).unwrap();
        let ledger = Arc::new(ServerTombstones::open(&config).unwrap());
        let journals = Arc::new(Journals::shared(ledger).unwrap());
        let eraser = Eraser::new(Arc::new(store), gallery.clone(), journals);
        let a = [Scope::camera(camera("a"))];
        let receipt = eraser.run(Uuid::nil(), &a, &Shutdown::new(), &mut |_| ()).unwrap();
        assert_eq!((receipt.points, receipt.files), (4, 6), "{}: one that only the former model has", place.name);
        assert_eq!(receipt.by_model, [(MODEL.to_owned(), 3), ("former".to_owned(), 4)].into());
        assert_eq!(former.count(&Filter::default()).unwrap(), 4);
        assert_eq!(theirs.count(&Filter::default()).unwrap(), 6, "{}: not ours to erase", place.name);
        for store in [former, theirs, QdrantStore::open(&config, MODEL, WIDTH).unwrap()] {
            store.remove().unwrap();
        }
        ServerTombstones::open(&config).unwrap().remove_collection().unwrap();
    }
}

#[test]
fn a_worker_refuses_what_another_process_has_erased() {
    for place in places() {
        let config = place.config();
        let dir = tempfile::tempdir().unwrap();
        let gallery = Arc::new(FolderGallery::open(dir.path(), MODEL).unwrap());
        let open = || Arc::new(QdrantStore::open(&config, MODEL, WIDTH).unwrap());
        let journals = || Arc::new(Journals::shared(Arc::new(ServerTombstones::open(&config).unwrap())).unwrap());
        let (store, workers, coverage) = (open(), journals(), Coverage::default());
        let index = |captured: &[i64]| {
            let queue = Queue::new(captured.len());
            for us in captured {
                let seen = sighting("a", *us, 0, *us, turned(0, 0.0));
                queue.push_wait(IndexEvent::Sighting(Box::new(seen))).unwrap();
            }
            queue.close();
            let sink = Sink { store: &*store, gallery: &*gallery, coverage: &coverage, journals: &workers };
            indexer::run(&queue, sink, &Discard, &IndexerOptions::default(), &Shutdown::new()).unwrap();
        };
        index(&[1, 2]);
        let api = Eraser::new(open(), gallery.clone(), journals());
        let erased = api.run(Uuid::from_u128(1), &[Scope::camera(camera("a"))], &Shutdown::new(), &mut |_| ());
        assert_eq!(erased.unwrap().points, 2, "{}", place.name);
        // Longer than a worker may go by what it read before.
        std::thread::sleep(Duration::from_millis(700));
        index(&[1, 3]);
        assert_eq!((store.count(&Filter::default()).unwrap(), gallery.ids().unwrap().len()), (0, 0), "{}", place.name);
        api.admit(&camera("a"), Some(at(100))).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        index(&[3, 100]);
        assert_eq!(store.count(&Filter::default()).unwrap(), 1, "{}: it records anew", place.name);
        drop((workers, api));
        QdrantStore::open(&config, MODEL, WIDTH).unwrap().remove().unwrap();
        ServerTombstones::open(&config).unwrap().remove_collection().unwrap();
    }
}

/// A former model's index is kept to go back to; on a server it is a collection of its own.
#[test]
fn every_models_vectors_expire() {
    for place in places() {
        let config = place.config();
        let of = |model: &str, captured: &[i64]| {
            let store = QdrantStore::open(&config, model, WIDTH).unwrap();
            let mut points: Vec<_> =
                captured.iter().map(|i| point("gate", 1 + i % 10, 0, *i, turned(0, 0.0))).collect();
            points.iter_mut().for_each(|p| p.payload.model_id = model.to_owned());
            store.upsert(&points).unwrap();
            (store, points)
        };
        // The former model saw three pictures. Of the first track a later one has been taken since,
        // the second is in both, and the third in the former model's index alone.
        let (former, old) = of("former", &[1, 2, 3]);
        let (store, new) = of(MODEL, &[101, 2]);
        assert_eq!((old[0].id, old[1].id), (new[0].id, new[1].id), "one slot");
        let dir = tempfile::tempdir().unwrap();
        let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
        gallery.put(&[&new[0], &new[1], &old[2]].map(|p| gallery_entry(p, 0.0))).unwrap();
        let done = retention::expire(&store, &gallery, at(100), &Shutdown::new()).unwrap();
        assert_eq!((done.points, done.files), (2, 4), "{}", place.name);
        assert_eq!(done.by_model, [(MODEL.to_owned(), 1), ("former".to_owned(), 3)].into(), "{}", place.name);
        assert_eq!(former.count(&Filter::default()).unwrap(), 0, "{}: nobody comes back with it", place.name);
        assert_eq!(store.ids(&Filter::default()).unwrap(), [new[0].id]);
        assert!(gallery.jpeg(new[0].key()).unwrap().is_some(), "{}: its picture is the later one", place.name);
        former.remove().unwrap();
        store.remove().unwrap();
    }
}
