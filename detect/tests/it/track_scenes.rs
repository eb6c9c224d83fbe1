//! The tracker with the service's rules: a few frames a second, at uneven intervals.

use proptest::prelude::*;
use sightline_detect::track::{ByteTrack, NOMINAL_HZ, Observation, Stage, TrackRules};

use crate::scenes::config;

/// Five frames a second, in nominal frames.
const STEP: f64 = NOMINAL_HZ / 5.0;

fn service() -> ByteTrack {
    ByteTrack::new(TrackRules::service(&config().0))
}

/// The published tracker, which ignores time, with the same lifetime in updates.
fn published() -> ByteTrack {
    ByteTrack::new(TrackRules::published(0.5, 0.8, 15.0))
}

/// A person of 48 x 120 pixels with the centre of the feet at `x`.
fn walker(x: f64, score: f64) -> Observation {
    Observation { tlbr: [x - 24.0, 100.0, x + 24.0, 220.0], score }
}

/// Ids of the confirmed tracks seen in the last update, with the centre of their boxes.
fn shown(t: &ByteTrack) -> Vec<(u64, f64)> {
    t.tracked().iter().filter(|t| t.confirmed).map(|t| (t.id, (t.tlbr()[0] + t.tlbr()[2]) / 2.0)).collect()
}

#[test]
fn a_person_behind_a_pillar_keeps_the_track() {
    let mut t = service();
    for k in 0..40 {
        let hidden = (15..22).contains(&k);
        let seen = if hidden { vec![] } else { vec![walker(60.0 + 18.0 * f64::from(k), 0.8)] };
        t.update(STEP, &seen);
        match k {
            0 => assert!(shown(&t).is_empty()),
            _ if hidden => assert!(shown(&t).is_empty() && t.lost().len() == 1),
            _ => assert_eq!(shown(&t).iter().map(|s| s.0).collect::<Vec<_>>(), [1], "frame {k}"),
        }
    }
}

#[test]
fn people_who_cross_keep_their_tracks() {
    let mut t = service();
    for k in 0..30 {
        let (a, b) = (100.0 + 15.0 * f64::from(k), 560.0 - 16.0 * f64::from(k));
        // Where they overlap, the detector finds only one of them.
        let seen = if (a - b).abs() < 12.0 { vec![walker(a, 0.8)] } else { vec![walker(b, 0.75), walker(a, 0.8)] };
        t.update(STEP, &seen);
        if k > 0 && seen.len() == 2 {
            let mut ids = shown(&t);
            ids.sort_by(|p, q| p.1.total_cmp(&q.1));
            let right_to_left = ids.iter().map(|i| i.0).collect::<Vec<_>>();
            assert_eq!(right_to_left, if a < b { [2, 1] } else { [1, 2] }, "frame {k}");
        }
    }
    assert_eq!(shown(&t).len(), 2);
}

#[test]
fn false_positives_of_one_frame_are_never_confirmed() {
    let mut t = service();
    for k in 0..60 {
        let mut seen = vec![walker(300.0, 0.8)];
        if k % 3 == 0 {
            seen.push(walker(40.0 + f64::from(k * 97 % 500), 0.95));
            seen.last_mut().expect("just pushed").tlbr[1] -= 200.0;
            seen.last_mut().expect("just pushed").tlbr[3] -= 150.0;
        }
        t.update(STEP, &seen);
        assert!(shown(&t).iter().all(|s| s.0 == 1), "frame {k}: {:?}", shown(&t));
        assert_eq!(shown(&t).len(), usize::from(k > 0));
    }
    // The same in the very first frame, which the published tracker trusts.
    let (mut s, mut p) = (service(), published());
    s.update(STEP, &[walker(300.0, 0.9)]);
    p.update(1.0, &[walker(300.0, 0.9)]);
    assert_eq!((shown(&s).len(), shown(&p).len()), (0, 1));
}

#[test]
fn low_scores_keep_a_track_but_start_none() {
    let mut t = service();
    for k in 0..20 {
        let u =
            t.update(STEP, &[walker(100.0 + 6.0 * f64::from(k), if k < 5 { 0.8 } else { 0.3 }), walker(500.0, 0.3)]);
        assert_eq!(u.born.len(), usize::from(k == 0));
        if k > 5 {
            assert_eq!(u.matches.iter().map(|m| m.stage).collect::<Vec<_>>(), [Stage::Low]);
        }
    }
    assert_eq!(shown(&t).len(), 1);
}

#[test]
fn uneven_frame_times_are_counted_as_they_are() {
    // 100 px/s past a camera that delivers between 2 and 20 frames a second.
    let gaps = [0.2, 0.05, 0.05, 0.4, 0.1, 0.5, 0.05, 0.3, 0.05, 0.05, 0.5, 0.2];
    let run = |mut t: ByteTrack, real: bool| {
        let (mut time, mut ids, mut off) = (0.0, std::collections::BTreeSet::new(), 0.0);
        for (k, gap) in gaps.iter().cycle().take(60).enumerate() {
            time += gap;
            let x = 60.0 + 100.0 * time;
            t.update(if real { gap * NOMINAL_HZ } else { STEP }, &[walker(x, 0.8)]);
            ids.extend(shown(&t).iter().map(|s| s.0));
            if k > 10 {
                off = shown(&t).iter().map(|s| (s.1 - x).abs()).fold(off, f64::max);
            }
        }
        (ids.len(), off)
    };
    let (ids, off) = run(service(), true);
    let (_, off_uniform) = run(service(), false);
    assert_eq!(ids, 1);
    assert!(off < 3.0 && off < off_uniform / 2.0, "off by {off} px, with equal steps by {off_uniform} px");
}

#[test]
fn a_brisk_walker_at_five_frames_a_second_gets_a_track() {
    // 0.7 widths a frame from the first one on: too fast for the published stages, not for the
    // last-observation pass.
    let run = |mut t: ByteTrack, dt: f64| {
        let mut seen = Vec::new();
        for k in 0..12 {
            t.update(dt, &[walker(50.0 + 34.0 * f64::from(k), 0.8)]);
            seen.extend(shown(&t).iter().map(|s| s.0).filter(|_| k > 0));
        }
        seen
    };
    assert!(run(published(), 1.0).is_empty());
    assert_eq!(run(service(), STEP), [1; 11]);
}

#[test]
fn the_second_sighting_teaches_the_velocity() {
    let speed = |mut t: ByteTrack, dt: f64| {
        (0..2).for_each(|_| drop(t.update(dt, &[])));
        (0..2).for_each(|k| drop(t.update(dt, &[walker(100.0 + 12.0 * f64::from(k), 0.9)])));
        assert_eq!(shown(&t).len(), 1);
        t.tracked()[0].kalman.mean()[4] * dt
    };
    // The published tracker does not predict a track that was seen once, so the second sighting
    // only moves it.
    assert_eq!(speed(published(), 1.0), 0.0);
    let learned = speed(service(), STEP);
    assert!((8.0..=12.0).contains(&learned), "{learned} px a frame instead of 12");
}

#[test]
fn a_person_who_stops_out_of_sight_is_found_where_last_seen() {
    let mut t = service();
    (0..8).for_each(|k| drop(t.update(STEP, &[walker(60.0 + 20.0 * f64::from(k), 0.8)])));
    // The filter moves on for a second; the person did not.
    (0..4).for_each(|_| drop(t.update(STEP, &[])));
    let u = t.update(STEP, &[walker(204.0, 0.8)]);
    assert_eq!(u.matches.iter().map(|m| (m.stage, m.track)).collect::<Vec<_>>(), [(Stage::LastObservation, 1)]);
}

#[test]
fn after_a_long_gap_nobody_is_matched() {
    let mut t = service();
    (0..5).for_each(|_| drop(t.update(STEP, &[walker(300.0, 0.8)])));
    assert_eq!(shown(&t)[0].0, 1);
    let u = t.update(60.0 * NOMINAL_HZ, &[walker(300.0, 0.8)]);
    assert_eq!((u.removed, u.matches.len(), u.born.len()), (vec![1], 0, 1));
    // Within the lifetime the same place is the same person.
    t.update(STEP, &[walker(300.0, 0.8)]);
    let u = t.update(2.0 * NOMINAL_HZ, &[walker(300.0, 0.8)]);
    assert_eq!(u.matches.iter().map(|m| m.track).collect::<Vec<_>>(), [2]);
}

fn observations() -> impl Strategy<Value = Vec<Observation>> {
    let odd = prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(0.0), -5.0..5.0f64];
    let one =
        (0.0..600.0f64, 0.0..400.0f64, 0.1..150.0f64, 0.1..300.0f64, 0.0..=1.0f64, prop::option::weighted(0.05, odd))
            .prop_map(|(x, y, w, h, score, odd)| {
                let tlbr = [x, y, odd.unwrap_or(x + w), y + h];
                Observation { tlbr, score }
            });
    prop::collection::vec(one, 0..12)
}

proptest! {
    #[test]
    fn whatever_comes_ids_are_unique_and_nothing_is_used_twice(
        frames in prop::collection::vec((0.0..40.0f64, observations()), 1..60),
    ) {
        let mut t = service();
        let mut born = std::collections::HashSet::new();
        for (dt, seen) in frames {
            let u = t.update(dt, &seen);
            for (id, _) in &u.born {
                prop_assert!(born.insert(*id), "track {id} was born twice");
            }
            let mut used: Vec<usize> = u.matches.iter().map(|m| m.observation).chain(u.born.iter().map(|b| b.1)).collect();
            let n = used.len();
            used.sort_unstable();
            used.dedup();
            prop_assert_eq!(used.len(), n);
            prop_assert!(used.iter().all(|&i| seen[i].is_usable()));
            let mut live: Vec<u64> = t.tracked().iter().chain(t.lost()).map(|t| t.id).collect();
            let n = live.len();
            live.sort_unstable();
            live.dedup();
            prop_assert_eq!(live.len(), n);
            prop_assert!(live.iter().all(|id| born.contains(id)));
            for track in t.tracked().iter().chain(t.lost()) {
                prop_assert!(track.tlbr().iter().all(|v| v.is_finite()));
                prop_assert!(t.now() - track.last <= 3.0 * NOMINAL_HZ + 1e-6);
            }
        }
    }
}
