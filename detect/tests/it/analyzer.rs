//! The analyzer: which crops and spans are published, when, and that a replay repeats them.

use std::collections::{BTreeMap, BTreeSet};

use sightline_core::config::ShotsConfig;
use sightline_core::{BBox, CameraEvent, Crop, Timestamp, TrackEnd};
use sightline_detect::CameraAnalyzer;

use crate::scenes::{Figure, SIZE, at, config, paint, person};

fn analyzer_with(shots: &ShotsConfig) -> CameraAnalyzer {
    CameraAnalyzer::new("gate".parse().expect("a valid id"), "test", &config().0, shots)
}

fn analyzer() -> CameraAnalyzer {
    analyzer_with(&config().1)
}

/// Runs a scene at five frames a second; returns each event with the time of its frame.
fn run(a: &mut CameraAnalyzer, seconds: f64, scene: impl Fn(f64) -> Vec<Figure>) -> Vec<(f64, CameraEvent)> {
    let mut events = Vec::new();
    for k in 0..(seconds * 5.0) as u32 {
        let t = f64::from(k) / 5.0;
        let (frame, detections) = paint(t, &scene(t));
        events.extend(a.process(&frame, &detections).into_iter().map(|e| (t, e)));
    }
    events
}

fn crops(events: &[(f64, CameraEvent)]) -> Vec<(f64, &Crop)> {
    events.iter().filter_map(|(t, e)| if let CameraEvent::Crop(c) = e { Some((*t, c)) } else { None }).collect()
}

fn spans(events: &[(f64, CameraEvent)]) -> Vec<(f64, &TrackEnd)> {
    events.iter().filter_map(|(t, e)| if let CameraEvent::TrackEnd(s) = e { Some((*t, s)) } else { None }).collect()
}

/// Two people walk in opposite directions and cross, a third one stands.
fn street(t: f64) -> Vec<Figure> {
    let mut other = person(520.0 - 60.0 * t as f32, 130.0, 150.0);
    other.top = [30, 150, 60];
    vec![person(300.0, 40.0, 90.0), person(20.0 + 60.0 * t as f32, 120.0, 160.0), other]
}

#[test]
fn the_first_good_crop_comes_as_soon_as_the_track_is_confirmed() {
    let mut a = analyzer();
    let events = run(&mut a, 1.0, |_| vec![person(200.0, 80.0, 160.0)]);
    let all = crops(&events);
    assert_eq!(all.len(), 1);
    let (t, crop) = all[0];
    assert_eq!((t, crop.crop_no, crop.captured_at), (0.2, 0, at(0.2)));
    assert_eq!((crop.track.born, crop.track.ordinal), (at(0.0), 0));
    assert_eq!(crop.frame_size, SIZE);
    assert_eq!(crop.bbox, BBox { x0: 200.0, y0: 80.0, x1: 264.0, y1: 240.0 });
    assert!(crop.quality.score > 0.6 && crop.quality.completeness == 1.0, "{:?}", crop.quality);
    // The picture is the box and 5 % on every side.
    let picture = image::load_from_memory(&crop.jpeg).expect("a JPEG").to_rgb8();
    assert_eq!(picture.dimensions(), (268 - 196, 248 - 72));
    let shirt = picture.get_pixel(36, 40);
    assert!(shirt[0] > 90 && shirt[0] > shirt[1] + 40, "{shirt:?}");
    let live = a.active_tracks();
    assert_eq!((live.len(), live[0].track, live[0].crops, live[0].last_seen), (1, crop.track, 1, at(0.8)));
}

#[test]
fn a_replay_gives_the_same_events() {
    let play = || {
        let mut a = analyzer();
        let mut events = run(&mut a, 8.0, street);
        events.extend(a.finish().into_iter().map(|e| (8.0, e)));
        events
    };
    let first = play();
    assert_eq!(first, play());
    assert!(crops(&first).len() >= 3);
    let seqs: Vec<u64> = first
        .iter()
        .map(|(_, e)| match e {
            CameraEvent::Crop(c) => c.origin.seq,
            CameraEvent::TrackEnd(s) => s.origin.seq,
            CameraEvent::Progress(_) | CameraEvent::Report(_) => panic!("the analyzer tells of tracks alone"),
        })
        .collect();
    assert_eq!(seqs, (0..first.len() as u64).collect::<Vec<_>>());
    // Three people, three tracks, each born in the first frame under its own ordinal, each with its
    // own colours.
    let tracks: BTreeSet<_> = crops(&first).iter().map(|c| c.1.track).collect();
    assert_eq!(
        tracks.iter().map(|t| (t.born, t.ordinal)).collect::<Vec<_>>(),
        [(at(0.0), 0), (at(0.0), 1), (at(0.0), 2)]
    );
    let ends: Vec<_> = spans(&first).into_iter().filter(|s| s.1.ended).map(|s| s.1.track).collect();
    assert_eq!(ends.len(), 3);
}

#[test]
fn few_crops_a_track_and_not_too_often() {
    let mut a = analyzer();
    let events = run(&mut a, 8.0, street);
    let mut by_track: BTreeMap<_, Vec<(f64, &Crop)>> = BTreeMap::new();
    for (t, c) in crops(&events) {
        by_track.entry(c.track).or_default().push((t, c));
    }
    for (track, all) in &by_track {
        assert_eq!(all[0].1.crop_no, 0, "{track}");
        assert!(all.iter().all(|c| c.1.crop_no < 3));
        assert!(all.windows(2).all(|w| w[1].0 - w[0].0 >= 1.0 - 1e-9), "{track}: {:?}", all.iter().map(|c| c.0));
        // Only a clearly better crop replaces another one.
        let mut best = BTreeMap::new();
        for (_, c) in all {
            if let Some(before) = best.insert(c.crop_no, c.quality.score) {
                assert!(c.quality.score > 1.15 * before, "{track}: {before} then {}", c.quality.score);
            }
        }
    }
    // A walking person gets several views, one who stands still only one.
    let mut views: Vec<usize> =
        by_track.values().map(|all| all.iter().map(|c| c.1.crop_no).collect::<BTreeSet<_>>().len()).collect();
    views.sort_unstable();
    assert_eq!((views[0], views.len()), (1, 3));
    assert!(views[2] > 1, "{views:?}");
}

#[test]
fn a_better_crop_replaces_the_first_under_the_same_id() {
    // Cut off by the frame's left edge and blurred at first, then whole and sharp at nearly the
    // same place.
    let scene = |t: f64| {
        let mut p = person(if t < 1.0 { -10.0 } else { 14.0 }, 100.0, 160.0);
        p.texture = if t < 1.0 { 4 } else { 40 };
        vec![p]
    };
    let events = run(&mut analyzer(), 4.0, scene);
    let all = crops(&events);
    assert_eq!(all.iter().map(|c| c.1.crop_no).collect::<Vec<_>>(), [0, 0]);
    let (first, second) = (all[0].1, all[1].1);
    assert_eq!(first.id(), second.id());
    assert!(second.quality.score > 1.15 * first.quality.score);
    assert!(first.quality.completeness < second.quality.completeness);
    assert!(first.quality.sharpness < second.quality.sharpness);
    // It came when the interval since the first crop was over, not later.
    assert!((all[1].0 - 1.2).abs() < 1e-9, "published at {}", all[1].0);
}

#[test]
fn another_side_of_a_person_joins_and_slots_are_limited() {
    // The person changes colours every two seconds; only two crops are wanted.
    let scene = |t: f64| {
        let mut p = person(250.0, 80.0, 180.0);
        p.top = [[170, 40, 40], [40, 160, 60], [60, 60, 200], [220, 220, 60]][(t / 2.0) as usize % 4];
        p.bottom = p.top;
        vec![p]
    };
    let shots = ShotsConfig { per_track: 2, ..config().1 };
    let events = run(&mut analyzer_with(&shots), 8.0, scene);
    let numbers: BTreeSet<u8> = crops(&events).iter().map(|c| c.1.crop_no).collect();
    assert_eq!(numbers, BTreeSet::from([0, 1]));
    let one = ShotsConfig { per_track: 1, ..config().1 };
    let events = run(&mut analyzer_with(&one), 8.0, scene);
    assert!(crops(&events).iter().all(|c| c.1.crop_no == 0));
}

#[test]
fn small_or_hidden_people_are_tracked_but_not_published() {
    let mut a = analyzer();
    let sliver = Figure { bbox: BBox { x0: 400.0, y0: 50.0, x1: 418.0, y1: 250.0 }, ..person(0.0, 0.0, 1.0) };
    let mut events = run(&mut a, 3.0, |_| vec![person(100.0, 100.0, 44.0), sliver]);
    assert_eq!(a.active_tracks().len(), 2);
    events.extend(a.finish().into_iter().map(|e| (3.0, e)));
    assert_eq!(events, []);
    assert!(a.active_tracks().is_empty());
}

#[test]
fn the_waiting_crop_is_published_when_the_track_ends() {
    // Sharp only from the third frame on, and gone before the interval after the first crop is
    // over.
    let mut a = analyzer();
    let scene = |t: f64| vec![Figure { texture: if t < 0.3 { 3 } else { 40 }, ..person(250.0, 80.0, 160.0) }];
    let events = run(&mut a, 0.8, scene);
    assert_eq!(crops(&events).len(), 1);
    let end = a.finish();
    let [CameraEvent::Crop(crop), CameraEvent::TrackEnd(span)] = &end[..] else { panic!("{end:?}") };
    assert_eq!((crop.crop_no, crop.captured_at, crop.last_seen), (0, at(0.4), at(0.6)));
    assert!(span.ended && span.track == crop.track && crop.quality.score > crops(&events)[0].1.quality.score);
}

#[test]
fn low_scores_keep_the_track_but_give_no_picture() {
    // Whole and sharp from the second second on, but with a low detector score: somebody stands
    // half behind something.
    let scene = |t: f64| {
        let mut p = person(250.0, 80.0, 180.0);
        if t >= 1.0 {
            (p.score, p.top) = (0.4, [40, 160, 60]);
        } else {
            p.texture = 2;
        }
        vec![p]
    };
    let mut a = analyzer();
    let events = run(&mut a, 5.0, scene);
    assert_eq!(crops(&events).iter().map(|c| c.0).collect::<Vec<_>>(), [0.2]);
    let live = a.active_tracks();
    assert_eq!((live[0].score, live[0].last_seen), (0.4, at(4.8)));
}

#[test]
fn spans_come_while_a_person_stands_and_at_the_end() {
    let mut a = analyzer();
    let there = |t: f64| if t < 25.1 { vec![person(250.0, 80.0, 180.0)] } else { vec![] };
    let events = run(&mut a, 40.0, there);
    let all = spans(&events);
    let told: Vec<(f64, Timestamp, bool)> = all.iter().map(|(t, s)| (*t, s.last_seen, s.ended)).collect();
    // Every ten seconds so far, and for good three seconds after the last sighting.
    assert_eq!(told, [(10.0, at(10.0), false), (20.0, at(20.0), false), (28.2, at(25.0), true)]);
    assert!(all.iter().all(|s| s.1.first_seen == at(0.0)));
    assert!(a.finish().is_empty());
}

#[test]
fn a_clock_that_jumps_ends_the_tracks_and_small_jitter_does_not() {
    let mut a = analyzer();
    let scene = [person(250.0, 80.0, 180.0)];
    let mut play = |t: f64| {
        let (frame, detections) = paint(t, &scene);
        a.process(&frame, &detections)
    };
    for t in [100.0, 100.2, 100.4, 100.3, 100.6] {
        // Only the first crop, at the second frame.
        assert_eq!(
            play(t).iter().map(|e| matches!(e, CameraEvent::Crop(_))).collect::<Vec<_>>(),
            vec![true; usize::from(t == 100.2)]
        );
    }
    let events = play(40.0);
    assert!(matches!(&events[..], [CameraEvent::TrackEnd(s)] if s.ended && s.last_seen == at(100.6)), "{events:?}");
    play(40.2);
    // After a minute without frames the person counts as another one.
    let events = play(100.2);
    assert!(matches!(&events[..], [CameraEvent::TrackEnd(s)] if s.ended && s.last_seen == at(40.2)), "{events:?}");
    let live = play(100.4);
    assert!(matches!(&live[..], [CameraEvent::Crop(c)] if c.track.born == at(100.2)), "{live:?}");
}

#[test]
fn a_late_time_stamp_does_not_turn_time_back() {
    let mut a = analyzer();
    for t in [0.0, 0.4, 0.2] {
        let (frame, detections) = paint(t, &[person(250.0, 80.0, 180.0)]);
        a.process(&frame, &detections);
    }
    assert_eq!(a.active_tracks()[0].last_seen, at(0.4));
}

#[test]
fn a_covered_person_shows_less() {
    let alone = run(&mut analyzer(), 1.0, |_| vec![person(200.0, 80.0, 160.0)]);
    let pair = run(&mut analyzer(), 1.0, |_| vec![person(200.0, 80.0, 160.0), person(235.0, 90.0, 160.0)]);
    let (alone, pair) = (crops(&alone), crops(&pair));
    assert_eq!((alone.len(), pair.len()), (1, 2));
    assert_eq!(alone[0].1.quality.completeness, 1.0);
    // The person in front, whose feet are lower, loses less quality.
    let (behind, front) = (pair[0].1.quality.completeness, pair[1].1.quality.completeness);
    assert!(behind < front && front < 1.0, "{behind} {front}");
}

#[test]
fn unusable_detections_do_no_harm() {
    let mut a = analyzer();
    for k in 0..5 {
        let (frame, mut detections) = paint(f64::from(k) / 5.0, &[person(250.0, 80.0, 180.0)]);
        for bbox in
            [[f32::NAN; 4], [0.0; 4], [10.0, 10.0, -5.0, 60.0], [-1e30, 0.0, 1e30, 100.0], [900.0, 20.0, 960.0, 200.0]]
        {
            detections.push(sightline_detect::Detection { bbox: bbox.into(), score: 0.9 });
        }
        a.process(&frame, &detections);
    }
    assert!(a.active_tracks().iter().any(|t| t.crops == 1 && t.bbox.height() == 180.0));
}
