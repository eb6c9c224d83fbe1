//! Overlap of two boxes. The tracker has its own measure besides
//! [`BBox::iou`](sightline_core::BBox::iou): the reference counts pixels inclusively (a box from 3
//! to 5 is 3 wide), so boxes less than a pixel apart overlap.

/// Intersection over union of two boxes `[x0, y0, x1, y1]` with inclusive pixel ends, as the
/// reference counts.
pub fn iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let w = a[2].min(b[2]) - a[0].max(b[0]) + 1.0;
    let h = a[3].min(b[3]) - a[1].max(b[1]) + 1.0;
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let area = |c: [f64; 4]| (c[2] - c[0] + 1.0) * (c[3] - c[1] + 1.0);
    let common = w * h;
    common / (area(a) + area(b) - common)
}

/// [`iou`] after both boxes grew on every side by `share` of their width or height (buffered IoU,
/// Yang et al., WACV 2023): at a low frame rate a walking person's boxes may not overlap at all.
pub fn iou_buffered(a: [f64; 4], b: [f64; 4], share: f64) -> f64 {
    let grow = |c: [f64; 4]| {
        let (dx, dy) = ((c[2] - c[0]) * share, (c[3] - c[1]) * share);
        [c[0] - dx, c[1] - dy, c[2] + dx, c[3] + dy]
    };
    iou(grow(a), grow(b))
}

/// Matching cost fused with the detector's score: `1 - IoU x score`.
pub fn fuse(iou: f64, score: f64) -> f64 {
    1.0 - iou * score
}

/// A track as duplicate removal sees it.
#[derive(Clone, Copy, Debug)]
pub struct Aged {
    /// Box `[x0, y0, x1, y1]`.
    pub tlbr: [f64; 4],
    /// Time from the first to the last sighting (not to the present).
    pub age: f64,
}

/// Finds duplicates among tracked and lost tracks: of two whose IoU distance is below 0.15 the
/// younger is dropped, the tracked one when both have the same age. Returns for each list which
/// entries to drop.
pub fn duplicates(tracked: &[Aged], lost: &[Aged]) -> (Vec<bool>, Vec<bool>) {
    let mut drop = (vec![false; tracked.len()], vec![false; lost.len()]);
    for (p, t) in tracked.iter().enumerate() {
        for (q, l) in lost.iter().enumerate() {
            if 1.0 - iou(t.tlbr, l.tlbr) < 0.15 {
                if t.age > l.age {
                    drop.1[q] = true;
                } else {
                    drop.0[p] = true;
                }
            }
        }
    }
    drop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_counted_inclusively() {
        assert_eq!(iou([0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]), 1.0);
        assert_eq!(iou([0.0, 0.0, 9.0, 9.0], [9.0, 0.0, 18.0, 9.0]), 10.0 / 190.0);
        assert_eq!(iou([0.0, 0.0, 9.0, 9.0], [10.0, 0.0, 18.0, 9.0]), 0.0);
        assert_eq!(iou([3.0; 4], [3.0; 4]), 1.0);
    }

    #[test]
    fn buffered_boxes_meet_where_plain_ones_do_not() {
        let (a, b) = ([0.0, 0.0, 20.0, 60.0], [30.0, 0.0, 50.0, 60.0]);
        assert_eq!(iou(a, b), 0.0);
        assert!(iou_buffered(a, b, 0.5) > 0.1);
        assert_eq!(iou_buffered(a, b, 0.0), iou(a, b));
    }

    #[test]
    fn the_older_of_two_duplicates_stays() {
        let b = [0.0, 0.0, 40.0, 100.0];
        let aged = |age| [Aged { tlbr: b, age }];
        assert_eq!(duplicates(&aged(5.0), &aged(4.0)), (vec![false], vec![true]));
        assert_eq!(duplicates(&aged(4.0), &aged(5.0)), (vec![true], vec![false]));
        assert_eq!(duplicates(&aged(4.0), &aged(4.0)), (vec![true], vec![false]));
    }
}
