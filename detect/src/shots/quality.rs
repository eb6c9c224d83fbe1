//! Quality: how well a crop shows its person. All parts are in 0..=1, so that they can be weighted
//! against each other.

use image::GrayImage;
use image::imageops::{FilterType, resize};
use sightline_core::message::CropQuality;
use sightline_core::{BBox, RgbImage};

/// Height in source pixels at which more pixels stop helping the embedder.
const FULL_HEIGHT: f32 = 256.0;
/// Height to which crops are scaled before their sharpness is measured, so that a near and a far
/// person compare: enlargement blurs a small crop, as it does for the embedder.
const SHARPNESS_HEIGHT: u32 = 128;
/// Variance of the Laplacian at which a crop counts as half sharp.
const HALF_SHARP: f32 = 400.0;
/// Factor of the completeness for every edge of the frame that the box touches.
const CUT: f32 = 0.6;
/// Weights of the geometric mean: completeness, size, detector, sharpness. They sum to 1.
const WEIGHTS: [f32; 4] = [0.35, 0.25, 0.2, 0.2];

/// The weighted geometric mean: a crop that fails in one respect is not saved by the others.
fn whole(completeness: f32, size: f32, detector: f32, sharpness: f32) -> f32 {
    [completeness, size, detector, sharpness].iter().zip(WEIGHTS).map(|(v, w)| v.clamp(0.0, 1.0).powf(w)).product()
}

/// The quality of the person at `bbox`, given the `sharpness` of the pixels under the box (`None`
/// assumes the best: an upper bound that reads no pixels).
pub fn assess(bbox: BBox, detector: f32, others: &[BBox], frame_size: (u32, u32), sharp: Option<f32>) -> CropQuality {
    let (size, complete) = (size(bbox), completeness(bbox, others, frame_size));
    let sharpness = sharp.unwrap_or(1.0);
    CropQuality {
        score: whole(complete, size, detector, sharpness),
        detector: detector.clamp(0.0, 1.0),
        size,
        sharpness,
        completeness: complete,
    }
}

/// Height relative to the height at which more pixels stop helping.
pub fn size(bbox: BBox) -> f32 {
    (bbox.height() / FULL_HEIGHT).min(1.0)
}

/// Completeness: not cut off by the frame's edge, not covered by another person, and upright like a
/// person.
pub fn completeness(bbox: BBox, others: &[BBox], (width, height): (u32, u32)) -> f32 {
    let (w, h) = (width as f32, height as f32);
    // Detectors seldom draw the box of a cut-off person exactly to the edge.
    let (mx, my) = (1.0 + 0.004 * w, 1.0 + 0.004 * h);
    let cuts = [bbox.x0 < mx, bbox.y0 < my, bbox.x1 > w - mx, bbox.y1 > h - my].iter().filter(|c| **c).count();
    let mut value = CUT.powi(cuts as i32);
    for o in others {
        let covered = bbox.intersection(*o) / bbox.area().max(1.0);
        // The person whose feet are lower in the picture is nearer and covers the other; a person
        // behind still puts a second person into the crop.
        value *= 1.0 - covered.min(1.0) * if o.y1 >= bbox.y1 { 1.0 } else { 0.5 };
    }
    value * upright(bbox.width() / bbox.height().max(1.0))
}

/// Plausibility of width / height: 1 for people who stand or walk, less for slivers and for wide
/// boxes.
fn upright(aspect: f32) -> f32 {
    if aspect < 0.25 { ((aspect - 0.1) / 0.15).max(0.0) } else { (1.0 - (aspect - 0.65).max(0.0)).max(0.3) }
}

/// Local contrast: variance of the 4-neighbour Laplacian of the brightness at a fixed scale,
/// saturating. 0 for an image too small to have an inside.
pub fn sharpness(crop: &RgbImage) -> f32 {
    let luma: Vec<u8> = crop
        .data()
        .chunks_exact(3)
        .map(|p| ((77 * u32::from(p[0]) + 150 * u32::from(p[1]) + 29 * u32::from(p[2])) >> 8) as u8)
        .collect();
    let Some(grey) = GrayImage::from_raw(crop.width(), crop.height(), luma) else { return 0.0 };
    if crop.width() < 3 || crop.height() < 3 {
        return 0.0;
    }
    let width = (crop.width() * SHARPNESS_HEIGHT / crop.height()).clamp(8, 2 * SHARPNESS_HEIGHT);
    let grey = resize(&grey, width, SHARPNESS_HEIGHT, FilterType::Triangle);
    let (w, px) = (width as usize, grey.as_raw());
    let (mut sum, mut squares, mut n) = (0i64, 0i64, 0i64);
    for y in 1..SHARPNESS_HEIGHT as usize - 1 {
        for x in 1..w - 1 {
            let at = |i: usize| i64::from(px[i]);
            let i = y * w + x;
            let laplacian = at(i - 1) + at(i + 1) + at(i - w) + at(i + w) - 4 * at(i);
            sum += laplacian;
            squares += laplacian * laplacian;
            n += 1;
        }
    }
    let mean = sum as f32 / n as f32;
    let variance = (squares as f32 / n as f32 - mean * mean).max(0.0);
    variance / (variance + HALF_SHARP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: (u32, u32) = (640, 480);

    fn at(x0: f32, y0: f32, w: f32, h: f32) -> BBox {
        BBox { x0, y0, x1: x0 + w, y1: y0 + h }
    }

    fn stripes(w: u32, h: u32, period: u32, contrast: u8) -> RgbImage {
        let px = |i: u32| if ((i % w) / period).is_multiple_of(2) { 128 - contrast } else { 128 + contrast };
        RgbImage::new(w, h, (0..w * h).flat_map(|i| [px(i); 3]).collect::<Vec<u8>>()).expect("3 bytes a pixel")
    }

    #[test]
    fn a_whole_person_beats_a_cut_or_covered_one() {
        let whole = completeness(at(200.0, 100.0, 80.0, 200.0), &[], FRAME);
        assert_eq!(whole, 1.0);
        assert!(completeness(at(0.0, 100.0, 80.0, 200.0), &[], FRAME) < 0.7);
        assert!(completeness(at(0.0, 280.0, 80.0, 200.0), &[], FRAME) < 0.4);
        let front = completeness(at(200.0, 100.0, 80.0, 200.0), &[at(240.0, 120.0, 80.0, 200.0)], FRAME);
        let behind = completeness(at(200.0, 100.0, 80.0, 200.0), &[at(240.0, 80.0, 80.0, 200.0)], FRAME);
        assert!(front < behind && behind < whole, "{front} {behind}");
        assert!(completeness(at(200.0, 100.0, 18.0, 200.0), &[], FRAME) < 0.1);
        assert!(completeness(at(100.0, 100.0, 300.0, 200.0), &[], FRAME) < 0.5);
    }

    #[test]
    fn blur_and_smallness_cost_sharpness() {
        let (fine, soft) = (sharpness(&stripes(64, 128, 2, 60)), sharpness(&stripes(64, 128, 2, 5)));
        assert!(fine > 0.8 && soft < 0.4, "{fine} {soft}");
        assert_eq!(sharpness(&stripes(64, 128, 64, 60)), 0.0);
        assert!(sharpness(&stripes(20, 40, 2, 60)) < fine);
        assert_eq!(sharpness(&stripes(2, 2, 1, 60)), 0.0);
    }

    proptest! {
        #[test]
        fn everything_stays_in_its_range_and_the_bound_is_one(
            x in -50f32..700.0, y in -50f32..500.0, w in 0f32..400.0, h in 0f32..500.0, s in 0f32..=1.0, d in 0f32..=1.0,
        ) {
            let others = [at(300.0, 200.0, 60.0, 150.0)];
            let q = assess(at(x, y, w, h), d, &others, FRAME, Some(s));
            for part in [q.score, q.detector, q.size, q.sharpness, q.completeness] {
                prop_assert!((0.0..=1.0).contains(&part), "{:?}", q);
            }
            prop_assert!(assess(at(x, y, w, h), d, &others, FRAME, None).score >= q.score);
        }
    }
}
