//! Recall of the real store against the exact one under wide and narrow filters, with the graph
//! index built, so that nothing is exact by accident.

use std::time::Instant;

use sightline_search::{EdgeOptions, EdgeStore, ExactStore, Filter, Point, VectorStore};

use crate::support::{MODEL, at, camera, point, random, rng};

const WIDTH: usize = 32;
const POINTS: usize = 4000;
const NEAREST: usize = 10;

/// Returns the mean fraction of the true nearest ten that the store finds.
fn recall(store: &dyn VectorStore, exact: &dyn VectorStore, filter: &Filter) -> f64 {
    let mut rng = rng(77);
    let (mut hits, mut wanted) = (0, 0);
    for _ in 0..100 {
        let query = random(&mut rng, WIDTH);
        let truth = exact.search(&query, NEAREST, filter).unwrap();
        let found = store.search(&query, NEAREST, filter).unwrap();
        assert!(found.iter().all(|s| filter.matches(s.id, &s.payload)));
        wanted += truth.len();
        hits += truth.iter().filter(|t| found.iter().any(|f| f.id == t.id)).count();
    }
    hits as f64 / wanted as f64
}

#[test]
fn narrow_filters_lose_no_true_hits() {
    found_under_filters(false);
}

/// The int8 vectors alone lose one hit in six; rescored with the full vectors, none is lost.
#[test]
fn int8_vectors_with_rescoring_lose_no_true_hits() {
    found_under_filters(true);
}

fn found_under_filters(int8: bool) {
    let dir = tempfile::tempdir().unwrap();
    // The thresholds are far below the defaults, so that a test of this size builds and walks the
    // graph.
    let options =
        EdgeOptions { index_from: 1000, compare_all_below: 20, index_threads: 2, int8, ..EdgeOptions::default() };
    let store = EdgeStore::open(dir.path(), MODEL, WIDTH, &options).unwrap();
    let exact = ExactStore::new(MODEL, WIDTH);
    let mut rng = rng(5);
    let points: Vec<Point> = (0..POINTS)
        .map(|i| {
            // Half of all points belong to camera "half", one in twenty to "twentieth".
            let cam = if i % 2 == 0 {
                "half"
            } else if i % 20 == 1 {
                "twentieth"
            } else {
                "rest"
            };
            point(cam, i as i64, 0, i as i64, random(&mut rng, WIDTH))
        })
        .collect();
    for batch in points.chunks(500) {
        store.upsert(batch).unwrap();
        exact.upsert(batch).unwrap();
    }
    store.flush().unwrap();
    let start = Instant::now();
    store.optimize().unwrap();
    let (total, indexed) = store.indexed().unwrap();
    println!("graph index: {indexed} of {total} points, {:.1?}", start.elapsed());
    assert!(indexed * 10 > POINTS * 8, "the graph must be there: {indexed} of {total}");

    let of = |name| Filter::camera(camera(name));
    let sliver = Filter { from: Some(at(3000)), to: Some(at(3019)), ..Filter::default() };
    let both = Filter { from: Some(at(0)), to: Some(at(399)), ..of("half") };
    for (name, filter, share) in [
        ("everything", Filter::default(), 1.0),
        ("50 % (camera)", of("half"), 0.5),
        ("5 % (camera)", of("twentieth"), 0.05),
        ("5 % (camera and time)", both, 0.05),
        ("0.5 % (time)", sliver, 0.005),
    ] {
        let kept = exact.count(&filter).unwrap() as f64 / POINTS as f64;
        assert!((kept - share).abs() < 0.1 * share, "{name} keeps {kept}");
        let recall = recall(&store, &exact, &filter);
        println!("recall@{NEAREST} keeping {name}: {recall:.4}");
        assert!(recall >= 0.95, "{name}: {recall}");
    }
}

#[test]
fn the_index_is_built_in_the_background_while_everything_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = EdgeOptions { index_from: 400, compare_all_below: 20, index_threads: 1, ..EdgeOptions::default() };
    let store = EdgeStore::open(dir.path(), MODEL, WIDTH, &options).unwrap();
    let mut rng = rng(9);
    let query = random(&mut rng, WIDTH);
    let (mut slowest, start) = (0.0f64, Instant::now());
    for i in 0..20i64 {
        let batch: Vec<Point> = (0..50).map(|j| point("gate", i * 50 + j, 0, i, random(&mut rng, WIDTH))).collect();
        store.upsert(&batch).unwrap();
        store.flush().unwrap();
        let asked = Instant::now();
        assert_eq!(store.search(&query, 10, &Filter::default()).unwrap().len(), 10);
        slowest = slowest.max(asked.elapsed().as_secs_f64());
        assert_eq!(store.search(&query, 2000, &Filter::default()).unwrap().len(), (i as usize + 1) * 50);
    }
    while store.indexed().unwrap().1 < 500 {
        assert!(start.elapsed().as_secs() < 60, "no index after a minute: {:?}", store.indexed());
        store.flush().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    println!(
        "indexed in the background after {:.1?}; slowest search meanwhile {:.1} ms",
        start.elapsed(),
        slowest * 1e3
    );
    assert_eq!(store.count(&Filter::default()).unwrap(), 1000);
    assert_eq!(store.search(&query, 2000, &Filter::default()).unwrap().len(), 1000);
}
