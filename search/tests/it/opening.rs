//! Opening a folder: again, twice at the same time, with another model, damaged, and with ten
//! thousand points.

use std::time::Instant;

use sightline_search::{EdgeOptions, EdgeStore, Filter, Point, StoreError, VectorStore};

use crate::support::{MODEL, WIDTH, open, point, random, rng, turned};

#[test]
fn what_was_stored_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let p = point("gate", 1, 0, 5, turned(3, 0.0));
    {
        let store = open(dir.path());
        store.upsert(std::slice::from_ref(&p)).unwrap();
        store.flush().unwrap();
    }
    let store = open(dir.path());
    let found = store.search(&turned(3, 0.0), 5, &Filter::camera(p.payload.camera.clone())).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].payload, p.payload);
}

#[test]
fn a_folder_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = EdgeStore::open(dir.path(), MODEL, WIDTH, &EdgeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("another running Sightline"), "{error}");
    drop(store);
    open(dir.path());
}

#[test]
fn another_model_or_width_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let width = EdgeStore::open(dir.path(), MODEL, 16, &EdgeOptions::default()).unwrap_err();
    assert!(matches!(width, StoreError::OtherFolder { .. }), "{width}");
    assert!(width.to_string().contains("with 8 values") && width.to_string().contains("with 16 values"), "{width}");
    std::fs::rename(dir.path().join(MODEL), dir.path().join("renamed")).unwrap();
    let model = EdgeStore::open(dir.path(), "renamed", WIDTH, &EdgeOptions::default()).unwrap_err();
    assert!(matches!(model, StoreError::OtherFolder { .. }), "{model}");
    for bad in ["", "..", "a/b", ".hidden", &"x".repeat(129)] {
        let error = EdgeStore::open(dir.path(), bad, WIDTH, &EdgeOptions::default()).unwrap_err();
        assert!(matches!(error, StoreError::ModelId(_)), "{bad:?}: {error}");
    }
    assert!(EdgeStore::open(dir.path(), "zero", 0, &EdgeOptions::default()).is_err());
}

#[test]
fn a_damaged_manifest_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let manifest = dir.path().join(MODEL).join("store.json");
    std::fs::write(&manifest, b"{\"layout\": 1,").unwrap();
    let error = EdgeStore::open(dir.path(), MODEL, WIDTH, &EdgeOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("store.json"), "{error}");
}

/// Resident memory of this process in MiB.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / (1 << 20) as f64
}

#[test]
fn ten_thousand_points_open_quickly() {
    const WIDE: usize = 256;
    let dir = tempfile::tempdir().unwrap();
    let mut rng = rng(3);
    let points: Vec<Point> = (0..10_000)
        .map(|i| point(["a", "b"][i % 2], i as i64 / 3, (i % 3) as u8, 1000 + i as i64, random(&mut rng, WIDE)))
        .collect();
    let unique = points.iter().map(|p| p.id).collect::<std::collections::HashSet<_>>().len() as u64;
    {
        let store = EdgeStore::open(dir.path(), MODEL, WIDE, &EdgeOptions::default()).unwrap();
        let start = Instant::now();
        for batch in points.chunks(500) {
            store.upsert(batch).unwrap();
        }
        let stored = start.elapsed();
        store.flush().unwrap();
        println!("10,000 x 256 stored in {stored:.2?}, flushed in {:.2?}", start.elapsed() - stored);
    }
    let (before, start) = (resident(), Instant::now());
    let store = EdgeStore::open(dir.path(), MODEL, WIDE, &EdgeOptions::default()).unwrap();
    let took = start.elapsed();
    println!("opened in {took:.2?}, resident memory {before:.0} -> {:.0} MiB", resident());
    assert_eq!(store.count(&Filter::default()).unwrap(), unique);
    assert!(took.as_secs_f64() < 10.0, "{took:?}");
}
