//! Decodes the head's outputs to boxes. Generalised focal loss (Li et al., 2020) gives each cell a
//! score per class and, for each edge of the box, a distribution over its distance from the cell's
//! centre; the distance is the mean of the distribution.

use sightline_core::BBox;

use super::layers::{CLASSES, DISTANCE_BINS, STRIDES};
use crate::Detection;
use crate::conv::Map;

/// Channel of the class `person`.
const PERSON: usize = 0;

/// Largest number of cells that are decoded further, best first: far more than there are people in
/// a picture, and a bound on the work of [`suppress_overlaps`] whatever the network returns.
const MAX_CELLS: usize = 1000;

/// The persons with a score of at least `threshold`, in canvas pixels, best first. `outputs` are
/// the maps of [`STRIDES`].
pub fn decode(outputs: &[Map], threshold: f32) -> Vec<Detection> {
    let least = (threshold / (1.0 - threshold)).ln();
    let mut found = Vec::new();
    for (map, stride) in outputs.iter().zip(STRIDES) {
        for y in 0..map.height() {
            for (x, cell) in map.row(y).chunks_exact(map.channels()).enumerate() {
                if cell[PERSON] >= least {
                    let score = 1.0 / (1.0 + (-cell[PERSON]).exp());
                    found.push(Detection { bbox: cell_box(&cell[CLASSES..], x, y, stride as f32), score });
                }
            }
        }
    }
    sort(&mut found);
    found.truncate(MAX_CELLS);
    found
}

fn cell_box(logits: &[f32], x: usize, y: usize, stride: f32) -> BBox {
    let (cx, cy) = ((x as f32 + 0.5) * stride, (y as f32 + 0.5) * stride);
    let [left, top, right, bottom] =
        std::array::from_fn(|edge| expected(&logits[edge * DISTANCE_BINS..][..DISTANCE_BINS]) * stride);
    BBox { x0: cx - left, y0: cy - top, x1: cx + right, y1: cy + bottom }
}

/// Mean of the softmax distribution over the bins 0, 1, ... with these logits.
fn expected(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for (bin, l) in logits.iter().enumerate() {
        let e = (l - most).exp();
        sum += e;
        weighted += e * bin as f32;
    }
    weighted / sum
}

/// Non-maximum suppression: removes every box that overlaps a better remaining one by more than
/// `iou`. Returns the rest, best first.
pub fn suppress_overlaps(mut detections: Vec<Detection>, iou: f32) -> Vec<Detection> {
    sort(&mut detections);
    let mut kept: Vec<Detection> = Vec::new();
    for d in detections {
        if kept.iter().all(|k| k.bbox.iou(d.bbox) <= iou) {
            kept.push(d);
        }
    }
    kept
}

/// Sorts best first; equal scores keep their order, so that results are reproducible.
fn sort(detections: &mut [Detection]) {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn detections() -> impl Strategy<Value = Vec<Detection>> {
        let one = (0f32..200.0, 0f32..200.0, 1f32..80.0, 1f32..80.0, 0f32..1.0)
            .prop_map(|(x, y, w, h, score)| Detection { bbox: BBox { x0: x, y0: y, x1: x + w, y1: y + h }, score });
        prop::collection::vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn suppression_keeps_a_subset_without_overlaps_that_explains_the_rest(all in detections(), iou in 0.05f32..0.95) {
            let kept = suppress_overlaps(all.clone(), iou);
            prop_assert!(kept.windows(2).all(|w| w[0].score >= w[1].score));
            for (i, k) in kept.iter().enumerate() {
                prop_assert!(all.contains(k));
                prop_assert!(kept[..i].iter().all(|o| o.bbox.iou(k.bbox) <= iou));
            }
            for d in &all {
                let explained = kept.iter().any(|k| k == d || (k.score >= d.score && k.bbox.iou(d.bbox) > iou));
                prop_assert!(explained, "{d:?} was removed without a better one over it");
            }
            prop_assert_eq!(suppress_overlaps(kept.clone(), iou), kept);
        }

        #[test]
        fn distances_are_means_of_bins(logits in prop::collection::vec(-30f32..30.0, DISTANCE_BINS)) {
            let d = expected(&logits);
            prop_assert!((-1e-4..=10.0001).contains(&d));
        }
    }

    #[test]
    fn a_cell_becomes_a_box_around_its_centre() {
        let mut maps = [Map::new(4, 4, 128), Map::new(2, 2, 128), Map::new(1, 1, 128)];
        for m in &mut maps {
            for y in 0..m.height() {
                m.row_mut(y).fill(-20.0);
            }
        }
        let cell = maps[1].pixel_mut(1, 0);
        cell[PERSON] = 2.0;
        for (edge, bin) in [1, 2, 3, 4].into_iter().enumerate() {
            cell[CLASSES + edge * DISTANCE_BINS + bin] = 20.0;
        }
        // Another class is no person.
        maps[0].pixel_mut(3, 3)[PERSON + 1] = 9.0;
        let found = decode(&maps, 0.35);
        assert_eq!(found.len(), 1);
        assert!((found[0].score - 0.880_797).abs() < 1e-5);
        let b = found[0].bbox;
        for (got, want) in [(b.x0, -8.0), (b.y0, -8.0), (b.x1, 56.0), (b.y1, 88.0)] {
            assert!((got - want).abs() < 1e-4, "{b:?}");
        }
        assert!(decode(&maps, 0.9).is_empty());
    }
}
