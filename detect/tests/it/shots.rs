//! The slots of one track, crop by crop: which crops replace others, join, or wait.

use sightline_core::{BBox, Timestamp};
use sightline_detect::shots::{BestShots, Placement};

use crate::scenes::{Figure, at, paint, person};

/// Offers one figure at a time; returns what is published at that time.
fn offer(shots: &mut BestShots, seconds: f64, figure: Figure) -> Option<(Placement, f32, Timestamp)> {
    let (frame, seen) = paint(seconds, &[figure]);
    shots.offer(&frame, frame.captured_at, seen[0].bbox, seen[0].score, &[]);
    let (placement, c) = shots.publish(at(seconds), false)?;
    Some((placement, c.quality.score, c.captured_at))
}

/// The same standing person, with a detector score that gives the wanted quality.
fn standing(score: f32) -> Figure {
    Figure { score, ..person(250.0, 80.0, 160.0) }
}

#[test]
fn only_clearly_better_crops_replace() {
    let mut shots = BestShots::new(3, 48);
    // The detector's score weighs 0.2 in the geometric mean: 0.5 -> 0.8 is 9.9 % more quality, 0.45
    // -> 0.95 is 16 %.
    let (first, low, _) = offer(&mut shots, 0.0, standing(0.5)).expect("the first crop is published");
    assert_eq!(first, Placement::First);
    assert_eq!(offer(&mut shots, 2.0, standing(0.8)), None);
    let mut shots = BestShots::new(3, 48);
    offer(&mut shots, 0.0, standing(0.45)).expect("the first crop is published");
    let (placement, high, _) = offer(&mut shots, 2.0, standing(0.95)).expect("a clearly better crop");
    assert_eq!(placement, Placement::Replaced(0));
    assert!(high > 1.1 * low);
    assert_eq!(shots.len(), 1);
}

#[test]
fn during_the_pause_the_best_crop_waits_for_its_turn() {
    let mut shots = BestShots::new(3, 48);
    offer(&mut shots, 0.0, standing(0.3)).expect("the first crop is published");
    for (t, score) in [(0.2, 0.7), (0.4, 0.95), (0.6, 0.8), (0.8, 0.3)] {
        assert_eq!(offer(&mut shots, t, standing(score)), None);
    }
    let (placement, _, captured) = offer(&mut shots, 1.0, standing(0.3)).expect("the pause is over");
    assert_eq!((placement, captured), (Placement::Replaced(0), at(0.4)));
    // At the end of a track no crop is left waiting.
    let mut shots = BestShots::new(3, 48);
    offer(&mut shots, 0.0, standing(0.3)).expect("the first crop is published");
    assert_eq!(offer(&mut shots, 0.2, standing(0.95)), None);
    let (placement, last) = shots.publish(at(0.4), true).expect("what waited");
    assert_eq!((placement, last.captured_at), (Placement::Replaced(0), at(0.2)));
    assert!(shots.publish(at(9.0), true).is_none());
}

#[test]
fn views_join_by_appearance_at_once_and_by_movement_later() {
    let mut other = standing(0.8);
    other.top = [40, 160, 60];
    other.bottom = [220, 220, 60];
    let moved = Figure { bbox: BBox { x0: 400.0, x1: 464.0, ..other.bbox }, ..other };
    let mut shots = BestShots::new(3, 48);
    offer(&mut shots, 0.0, standing(0.8)).expect("the first crop is published");
    // A very different appearance, though only just after the interval.
    assert_eq!(offer(&mut shots, 1.0, other).map(|p| p.0), Some(Placement::Joined(1)));
    // The same appearance at another place: not within a second and a half, then yes.
    assert_eq!(offer(&mut shots, 2.2, moved), None);
    assert_eq!(offer(&mut shots, 2.6, moved).map(|p| p.0), Some(Placement::Joined(2)));
    // All slots are taken, and no crop is clearly better.
    assert_eq!(offer(&mut shots, 9.0, Figure { top: [60, 60, 200], ..moved }), None);
    assert_eq!(shots.len(), 3);
}

#[test]
fn a_poor_view_does_not_join() {
    let mut shots = BestShots::new(3, 48);
    offer(&mut shots, 0.0, standing(0.9)).expect("the first crop is published");
    let poor = Figure { top: [40, 160, 60], bottom: [220, 220, 60], texture: 2, ..standing(0.5) };
    assert_eq!(offer(&mut shots, 3.0, poor), None);
    assert!(!shots.is_empty());
}
