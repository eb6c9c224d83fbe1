//! Contract test of every store: the exact one, the embedded one, and those on servers (see
//! [`crate::server`]), with fixed queries and with random filters.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sightline_core::ids::sighting_id;
use sightline_search::{
    CameraExtent, EdgeOptions, EdgeStore, ExactStore, Filter, Point, Scope, Scored, StoreError, VectorStore,
};
use uuid::Uuid;

use crate::support::{MODEL, WIDTH, at, camera, point, random, rng, track, turned};

/// Runs a test against every store.
fn on_each(question: impl Fn(&dyn VectorStore)) {
    question(&ExactStore::new(MODEL, WIDTH));
    let dir = tempfile::tempdir().unwrap();
    question(&EdgeStore::open(dir.path(), MODEL, WIDTH, &EdgeOptions::default()).unwrap());
    crate::server::on_each(WIDTH, |store| question(store));
}

/// 240 points: three cameras, 40 tracks each, two pictures per track, some with the same capture
/// time.
fn population() -> Vec<Point> {
    let mut rng = rng(1);
    let mut points = Vec::new();
    for cam in ["a", "b", "c"] {
        for t in 0..40i64 {
            for crop in 0..2u8 {
                let captured = 1_700_000_000_000_000 + t / 2 * 1_000_000 + i64::from(crop);
                points.push(point(cam, 1_700_000_000_000_000 + t, crop, captured, random(&mut rng, WIDTH)));
            }
        }
    }
    points
}

#[test]
fn the_nearest_come_first_with_their_cosine_and_payload() {
    on_each(|store| {
        assert_eq!((store.model_id(), store.width()), (MODEL, WIDTH));
        let points: Vec<Point> = (0..6).map(|i| point("gate", i, 0, 100 + i, turned(0, 0.2 * i as f32))).collect();
        let mut long = points[3].clone();
        long.vector.iter_mut().for_each(|x| *x *= 40.0);
        store.upsert(&[&points[..3], &[long], &points[4..]].concat()).unwrap();
        let found = store.search(&turned(0, 0.0), 4, &Filter::default()).unwrap();
        assert_eq!(
            found.iter().map(|s| s.id).collect::<Vec<_>>(),
            points[..4].iter().map(|p| p.id).collect::<Vec<_>>()
        );
        for (i, s) in found.iter().enumerate() {
            assert!((s.cosine - (0.2 * i as f32).cos()).abs() < 1e-5, "{}", s.cosine);
            assert_eq!(s.payload, points[i].payload);
        }
        assert!(store.search(&turned(0, 0.0), 0, &Filter::default()).unwrap().is_empty());
    });
}

#[test]
fn the_same_id_is_overwritten_and_its_span_never_shrinks() {
    on_each(|store| {
        let first = point("gate", 50, 0, 100, turned(0, 0.0));
        store.upsert(std::slice::from_ref(&first)).unwrap();
        assert_eq!(store.end_track(&camera("gate"), track(50), at(40), at(900), true).unwrap(), 1);
        let better = point("gate", 50, 0, 130, turned(2, 0.0));
        store.upsert(std::slice::from_ref(&better)).unwrap();
        assert_eq!(store.count(&Filter::default()).unwrap(), 1);
        let found = store.vectors(&[first.id]).unwrap();
        let payload = &found[0].0.payload;
        assert_eq!(payload.captured_at, at(130), "the newer picture");
        assert!((found[0].1[2] - 1.0).abs() < 1e-6, "the newer vector");
        assert_eq!((payload.first_seen, payload.last_seen, payload.ended), (at(40), at(900), true));
    });
}

#[test]
fn track_ends_reach_every_picture_and_never_go_back() {
    on_each(|store| {
        let other = point("door", 50, 0, 60, turned(1, 0.0));
        store
            .upsert(&[
                point("gate", 50, 0, 60, turned(0, 0.0)),
                point("gate", 50, 1, 80, turned(1, 0.0)),
                other.clone(),
            ])
            .unwrap();
        let end = |last, ended| store.end_track(&camera("gate"), track(50), at(50), at(last), ended).unwrap();
        assert_eq!((end(200, false), end(300, true), end(250, false)), (2, 2, 2));
        assert_eq!(store.end_track(&camera("gate"), track(51), at(1), at(2), true).unwrap(), 0, "an unknown track");
        store.flush().unwrap();
        for r in store.newest(&Filter::track(camera("gate"), track(50)), 9).unwrap() {
            assert_eq!((r.payload.first_seen, r.payload.last_seen, r.payload.ended), (at(50), at(300), true));
        }
        assert_eq!(store.get(&[other.id]).unwrap()[0].payload, other.payload, "another camera's track of that birth");
    });
}

#[test]
fn wrong_data_is_refused_as_a_whole() {
    on_each(|store| {
        let good = point("gate", 1, 0, 1, turned(0, 0.0));
        let bad = |vector: Vec<f32>| [good.clone(), point("gate", 2, 0, 1, vector)];
        let short = store.upsert(&bad(vec![1.0; 3])).unwrap_err();
        assert!(matches!(short, StoreError::Width { expected: WIDTH, got: 3 }) && short.is_permanent());
        for value in [0.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(store.upsert(&bad(vec![value; WIDTH])), Err(StoreError::NoDirection)), "{value}");
            assert!(matches!(store.search(&[value; WIDTH], 1, &Filter::default()), Err(StoreError::NoDirection)));
        }
        let mut foreign = good.clone();
        foreign.payload.model_id = "other".to_owned();
        assert!(matches!(store.upsert(&[foreign]), Err(StoreError::OtherModel { .. })));
        assert_eq!(store.count(&Filter::default()).unwrap(), 0);
        assert!(matches!(store.search(&[1.0], 1, &Filter::default()), Err(StoreError::Width { .. })));
        store.upsert(&[]).unwrap();
    });
}

#[test]
fn ids_come_back_in_the_order_asked_for() {
    on_each(|store| {
        let points = population();
        store.upsert(&points).unwrap();
        let ids = [points[7].id, Uuid::from_u128(99), points[2].id];
        let got: Vec<Uuid> = store.get(&ids).unwrap().into_iter().map(|r| r.id).collect();
        assert_eq!(got, [points[7].id, points[2].id]);
        assert!(store.get(&[]).unwrap().is_empty());
    });
}

#[test]
fn pages_by_time_show_everything_once() {
    on_each(|store| {
        let points = population();
        store.upsert(&points).unwrap();
        let mut filter = Filter { cameras: Some(vec![camera("a"), camera("c")]), ..Filter::default() };
        let (mut seen, mut times) = (Vec::new(), Vec::new());
        loop {
            // Seven per page: several pictures share a capture time, so pages end between them.
            let page = store.newest(&filter, 7).unwrap();
            seen.extend(page.iter().map(|r| r.id));
            times.extend(page.iter().map(|r| r.payload.captured_at));
            match filter.after(&page) {
                Some(next) => filter = next,
                None => break,
            }
        }
        assert!(times.is_sorted_by(|a, b| a >= b));
        assert_eq!(seen.len(), 160);
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 160);
    });
}

#[test]
fn cameras_are_listed_with_their_extents() {
    on_each(|store| {
        assert!(store.cameras().unwrap().is_empty());
        store.upsert(&population()).unwrap();
        store.upsert(&[point("a", 5, 2, 17, turned(0, 0.0))]).unwrap();
        let t0 = 1_700_000_000_000_000;
        let last = at(t0 + 19_000_001);
        let extent = |name, points, first| CameraExtent { camera: camera(name), points, first: at(first), last };
        assert_eq!(store.cameras().unwrap(), [extent("a", 81, 17), extent("b", 80, t0), extent("c", 80, t0)]);
    });
}

#[test]
fn deletion_takes_what_matches_and_never_everything_by_oversight() {
    on_each(|store| {
        let points = population();
        store.upsert(&points).unwrap();
        assert!(matches!(store.delete(&Filter::default()), Err(StoreError::Unrestricted)));
        let spared = Filter { exclude: vec![points[0].id], ..Filter::default() };
        assert!(matches!(store.delete(&spared), Err(StoreError::Unrestricted)));
        assert_eq!(store.delete(&Filter::ids(vec![])).unwrap(), 0);
        assert_eq!(store.delete(&Filter::camera(camera("b"))).unwrap(), 80);
        assert_eq!(store.delete(&Filter::camera(camera("b"))).unwrap(), 0);
        store.flush().unwrap();
        assert_eq!(store.count(&Filter::default()).unwrap(), 160);
        let found = store.search(&turned(0, 0.0), 1000, &Filter::default()).unwrap();
        assert_eq!(found.len(), 160);
        assert!(found.iter().all(|s| s.payload.camera != camera("b")));
        store.upsert(&points[80..82]).unwrap();
        assert_eq!(store.count(&Filter::camera(camera("b"))).unwrap(), 2, "what was deleted can come back");
    });
}

#[test]
fn the_nearest_tracks_come_with_their_pictures() {
    on_each(|store| {
        let mut points = population();
        // Track 7 of camera "a" and of camera "b" share their id; only one of them is near.
        points[14].vector = turned(0, 0.01);
        points[15].vector = turned(0, 0.3);
        points[80].vector = turned(0, 0.02);
        points[81].vector = turned(0, 0.1);
        store.upsert(&points).unwrap();
        let found = store.nearest_tracks(&turned(0, 0.0), 40, 3, &Filter::default()).unwrap();
        assert_eq!(found.len(), 40);
        // A server gives the nearest picture of a track alone; the others are fetched by id.
        let begins = |crops: &[Scored], want: [Uuid; 2]| {
            let ids: Vec<Uuid> = crops.iter().map(|s| s.id).collect();
            !ids.is_empty() && want.starts_with(&ids)
        };
        assert!(begins(&found[0], [points[14].id, points[15].id]), "{:?}", found[0]);
        assert!(begins(&found[1], [points[80].id, points[81].id]), "{:?}", found[1]);
        assert!(found.is_sorted_by(|a, b| a[0].cosine >= b[0].cosine));
        let mut seen = HashSet::new();
        for crops in &found {
            assert!(crops.iter().all(|c| (&c.payload.camera, c.payload.track) == (&crops[0].payload.camera, crops[0].payload.track)));
            assert!(crops.is_sorted_by(|a, b| a.cosine >= b.cosine));
            assert!(seen.insert((crops[0].payload.camera.clone(), crops[0].payload.track)), "a track twice");
        }
        let exact = ExactStore::new(MODEL, WIDTH);
        exact.upsert(&points).unwrap();
        let only = Filter::camera(camera("c"));
        let truth = exact.nearest_tracks(&turned(3, 0.2), 25, 1, &only).unwrap();
        let found = store.nearest_tracks(&turned(3, 0.2), 25, 1, &only).unwrap();
        let best = |tracks: &[Vec<sightline_search::Scored>]| tracks.iter().map(|t| t[0].id).collect::<Vec<_>>();
        assert_eq!(best(&found), best(&truth));
        assert!(found.iter().all(|t| t.len() == 1), "one picture was asked for");
        assert_eq!(store.nearest_tracks(&turned(3, 0.2), 200, 3, &only).unwrap().len(), 40, "no more are there");
        assert!(store.nearest_tracks(&turned(0, 0.0), 5, 3, &Filter::ids(vec![])).unwrap().is_empty());
        assert!(matches!(store.nearest_tracks(&[1.0], 1, 1, &Filter::default()), Err(StoreError::Width { .. })));
    });
}

fn filters() -> impl Strategy<Value = Filter> {
    let cameras = prop::option::of(prop::sample::subsequence(vec!["a", "b", "c", "nowhere"], 0..=3));
    // Whole microseconds around the population's times, and far outside.
    let time = prop_oneof![
        (-2i64..22, -1i64..3).prop_map(|(s, us)| 1_700_000_000_000_000 + s * 1_000_000 + us),
        Just(0),
        Just(i64::MAX),
        Just(i64::MIN),
    ];
    let some = |p: f64, n| prop::option::weighted(p, prop::collection::vec(0usize..250, 0..n));
    let track = prop::option::weighted(0.2, (prop::sample::select(vec!["a", "b"]), 0i64..42));
    let times = || (prop::option::weighted(0.3, time.clone()), prop::option::weighted(0.3, time.clone()));
    let (captured, seen) = (times(), times());
    let scope = (
        prop::sample::select(vec!["a", "b", "nowhere"]),
        prop::option::of(time.clone()),
        prop::option::of(time),
        prop::option::weighted(0.3, 0i64..42),
    );
    let except = prop::collection::vec(scope, 0..3);
    let parts = (cameras, captured, seen, some(0.3, 60), track, some(0.5, 100), except);
    parts.prop_map(|(cameras, (from, to), (seen_from, seen_to), ids, track, exclude, except)| {
        // Numbers from 240 on name pictures that do not exist.
        let id = |n: usize| {
            let (cam, t, crop) = (["a", "b", "c", "d"][n / 80], (n % 80) / 2, (n % 2) as u8);
            sighting_id(&camera(cam), crate::support::track(1_700_000_000_000_000 + t as i64), crop)
        };
        let scope = |(c, from, to, t): (&str, Option<i64>, Option<i64>, Option<i64>)| Scope {
            from: from.map(at),
            to: to.map(at),
            track: t.map(|t| crate::support::track(1_700_000_000_000_000 + t)),
            ..Scope::camera(camera(c))
        };
        Filter {
            cameras: cameras.map(|c| c.into_iter().map(camera).collect()),
            from: from.map(at),
            to: to.map(at),
            seen_from: seen_from.map(at),
            seen_to: seen_to.map(at),
            ids: ids.map(|n| n.into_iter().map(id).collect()),
            track: track.map(|(c, t)| (camera(c), crate::support::track(1_700_000_000_000_000 + t))),
            exclude: exclude.unwrap_or_default().into_iter().map(id).collect(),
            except: except.into_iter().map(scope).collect(),
        }
    })
}

/// Somebody in view from 10:00 to 10:10, whose pictures were all taken in the first seconds, is found
/// by a search of any minute of it.
#[test]
fn a_track_is_found_in_any_minute_of_its_stay() {
    on_each(|store| {
        let minute = |m: f64| at(1_700_000_000_000_000 + (m * 60e6) as i64);
        let born = minute(0.0).as_micros();
        store.upsert(&[point("gate", born, 0, born + 2_000_000, turned(0, 0.0))]).unwrap();
        store.end_track(&camera("gate"), track(born), minute(0.0), minute(10.0), true).unwrap();
        let found = |from: f64, to: f64| {
            let filter =
                Filter { seen_from: Some(minute(from)), seen_to: Some(minute(to)), ..Filter::camera(camera("gate")) };
            store.search(&turned(0, 0.0), 9, &filter).unwrap().len()
        };
        for (from, to, want) in [(5.0, 6.0, 1), (10.0, 11.0, 1), (-1.0, 0.0, 1), (10.1, 11.0, 0), (-2.0, -0.1, 0)] {
            assert_eq!(found(from, to), want, "{from} to {to}");
        }
        assert_eq!(store.estimate(&Filter::camera(camera("elsewhere"))).unwrap(), 0);
        assert_eq!(store.estimate(&Filter::default()).unwrap(), 1);
    });
}

#[test]
fn every_filter_means_the_same_inside_the_search() {
    on_each(|store| {
        let points = population();
        store.upsert(&points).unwrap();
        let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        runner
            .run(&filters(), |filter| {
                let wanted: BTreeSet<Uuid> =
                    points.iter().filter(|p| filter.matches(p.id, &p.payload)).map(|p| p.id).collect();
                let found = store.search(&turned(0, 0.3), 1000, &filter).unwrap();
                prop_assert_eq!(found.len(), wanted.len(), "nothing twice");
                prop_assert_eq!(&found.iter().map(|s| s.id).collect::<BTreeSet<_>>(), &wanted);
                prop_assert!(found.is_sorted_by(|a, b| a.cosine >= b.cosine));
                prop_assert_eq!(&store.ids(&filter).unwrap().into_iter().collect::<BTreeSet<_>>(), &wanted);
                let first = store.scroll(&filter, None, 7).unwrap();
                let second =
                    first.last().map(|last| store.scroll(&filter, Some(*last), 7).unwrap()).unwrap_or_default();
                let paged: Vec<Uuid> = first.into_iter().chain(second).collect();
                prop_assert_eq!(paged, wanted.iter().copied().take(14).collect::<Vec<_>>(), "pages in order");
                prop_assert_eq!(store.count(&filter).unwrap(), wanted.len() as u64);
                let newest = store.newest(&filter, 1000).unwrap();
                prop_assert_eq!(&newest.iter().map(|s| s.id).collect::<BTreeSet<_>>(), &wanted);
                prop_assert!(!filter.matches_nothing() || wanted.is_empty());
                let excluded =
                    |p: &&Point| filter.exclude.contains(&p.id) || filter.except.iter().any(|s| s.holds(&p.payload));
                let excluded = points.iter().filter(excluded).count();
                prop_assert!(!filter.is_unrestricted() || wanted.len() + excluded >= points.len());
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn thousands_are_listed_by_cursor_and_deleted_by_id() {
    on_each(|store| {
        // More than a page of any store, for the list and for the deletion.
        let of = |i: usize| point(["a", "b"][i % 2], i as i64, 0, i as i64, turned(i, 0.2));
        let points: Vec<Point> = (0..12_400).map(of).collect();
        points.chunks(2000).for_each(|chunk| store.upsert(chunk).unwrap());
        let a = Filter::camera(camera("a"));
        let mut wanted: Vec<Uuid> = points.iter().step_by(2).map(|p| p.id).collect();
        wanted.sort_unstable();
        assert_eq!(store.ids(&a).unwrap(), wanted, "in ascending order, each once");
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.scroll(&a, after, 1000).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(*last);
            // Deleting what was listed moves no page.
            assert_eq!(store.delete_ids(&page).unwrap(), [(MODEL.to_owned(), page.len() as u64)].into());
            seen.extend(page);
        }
        assert_eq!(seen, wanted);
        assert_eq!((store.count(&a).unwrap(), store.count(&Filter::default()).unwrap()), (0, 6200));
        assert_eq!(
            store.delete_ids(&[wanted[0], points[1].id]).unwrap(),
            [(MODEL.to_owned(), 1)].into(),
            "unknown: none"
        );
        assert_eq!(store.delete(&Filter::camera(camera("b"))).unwrap(), 6199, "more than a page");
        assert!(store.scroll(&Filter::default(), None, 1).unwrap().is_empty());
        assert!(store.scroll(&Filter::default(), Some(Uuid::max()), 1).unwrap().is_empty());
    });
}
