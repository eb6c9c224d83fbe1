//! Ranks of the matching pictures: Rank-1/5/10 and mean average precision over a whole gallery, and
//! their bootstrap intervals over persons.

use std::cmp::Ordering;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::{interval, numbered};

/// Rank-1, Rank-5, Rank-10 and mean average precision, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Ranks {
    pub rank1: f64,
    pub rank5: f64,
    pub rank10: f64,
    pub map: f64,
}

/// Bootstrap intervals (the middle 95 %) of the fields of [`Ranks`] over persons, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct RankIntervals {
    pub rank1: [f64; 2],
    pub rank5: [f64; 2],
    pub rank10: [f64; 2],
    pub map: [f64; 2],
}

/// Search result of one text: how high it ranked its person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextRank {
    /// Rank of the first hit, counted from 0; `usize::MAX` without a hit.
    pub first: usize,
    /// Mean precision at each hit, 0 to 1.
    pub precision: f64,
}

/// Maps a score so that `total_cmp` sorts NaN last and treats both zeros as equal.
fn rankable(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 }
}

/// Orders two images by descending score.
pub(super) fn by_falling_score(row: &[f32], a: usize, b: usize) -> Ordering {
    rankable(row[b]).total_cmp(&rankable(row[a]))
}

/// Images by descending score; equal scores keep their order, and NaN comes last.
pub fn order(row: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| by_falling_score(row, a, b));
    order
}

/// Ranks of `scores` (texts x images). A hit is an image of the text's identity. Rank-k is the
/// share of texts with a hit among the first k images; mAP is the mean over texts of the mean
/// precision at each hit. Equal scores keep the order of the images.
pub fn ranks(scores: &[Vec<f32>], text_ids: &[u32], image_ids: &[u32]) -> Ranks {
    Ranks::of(&text_ranks(|text| order(&scores[text]), text_ids, image_ids))
}

/// The rank of each text; `order` returns the images of a text from first to last.
pub fn text_ranks(order: impl Fn(usize) -> Vec<usize> + Sync, text_ids: &[u32], image_ids: &[u32]) -> Vec<TextRank> {
    let one = |(text, id): (usize, &u32)| {
        let (mut hits, mut sum, mut first) = (0usize, 0f64, usize::MAX);
        for (rank, &image) in order(text).iter().enumerate() {
            if image_ids[image] == *id {
                hits += 1;
                sum += hits as f64 / (rank + 1) as f64;
                first = first.min(rank);
            }
        }
        TextRank { first, precision: sum / hits.max(1) as f64 }
    };
    text_ids.par_iter().enumerate().map(one).collect()
}

/// The rank of each text by `scores` (texts x images).
pub fn text_ranks_by(scores: &[Vec<f32>], text_ids: &[u32], image_ids: &[u32]) -> Vec<TextRank> {
    text_ranks(|text| order(&scores[text]), text_ids, image_ids)
}

/// Contribution of a text to Rank-1, Rank-5, Rank-10 and mAP, each 0 to 1.
fn contribution(text: &TextRank) -> [f64; 4] {
    let within = |k| f64::from(u8::from(text.first < k));
    [within(1), within(5), within(10), text.precision]
}

impl Ranks {
    /// Averages over all `texts`; every field is 0 without texts.
    pub fn of(texts: &[TextRank]) -> Self {
        let mut sums = [0.0; 4];
        for text in texts {
            sums.iter_mut().zip(contribution(text)).for_each(|(sum, contribution)| *sum += contribution);
        }
        let [rank1, rank5, rank10, map] = sums.map(|sum| 100.0 * sum / texts.len().max(1) as f64);
        Self { rank1, rank5, rank10, map }
    }
}

impl RankIntervals {
    /// Bootstrap intervals that resample the searched persons (`text_ids`), each with all of their
    /// texts; the gallery stays the same. `None` for fewer than two persons.
    pub fn of(texts: &[TextRank], text_ids: &[u32]) -> Option<Self> {
        let (persons, count) = numbered(text_ids.iter().copied());
        let mean = |which: usize| {
            interval(count, |times: &[u32]| {
                let (mut sum, mut all) = (0.0, 0.0);
                for (text, person) in texts.iter().zip(&persons) {
                    let times = f64::from(times[*person]);
                    sum += times * contribution(text)[which];
                    all += times;
                }
                Some(100.0 * sum / all)
            })
        };
        Some(Self { rank1: mean(0)?, rank5: mean(1)?, rank10: mean(2)?, map: mean(3)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Distinct scores, so that no tie makes the order a matter of chance; identities of texts and
    /// images.
    fn case() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<u32>, Vec<u32>)> {
        (1usize..8, 1usize..24).prop_flat_map(|(texts, images)| {
            let all: Vec<u32> = (0..(texts * images) as u32).collect();
            let ids = |n| proptest::collection::vec(0u32..5, n);
            (Just(all).prop_shuffle(), ids(texts), ids(images)).prop_map(move |(order, t, v)| {
                let rows = order.chunks(images).map(|row| row.iter().map(|x| *x as f32 / 100.0 - 1.0).collect());
                (rows.collect(), t, v)
            })
        })
    }

    fn same(a: Ranks, b: Ranks) -> bool {
        let near = |x: f64, y: f64| (x - y).abs() < 1e-9;
        near(a.rank1, b.rank1) && near(a.rank5, b.rank5) && near(a.rank10, b.rank10) && near(a.map, b.map)
    }

    #[test]
    fn what_is_no_number_is_ranked_last_and_stops_nothing() {
        // There are enough values for a sort to notice an inconsistent order.
        let row: Vec<f32> = (0..300).map(|i| if i % 3 == 0 { f32::NAN } else { ((i * 7919) % 300) as f32 }).collect();
        let sorted = order(&row);
        assert!(sorted[..200].windows(2).all(|two| row[two[0]] >= row[two[1]]), "{sorted:?}");
        assert!(sorted[200..].iter().all(|image| row[*image].is_nan()));
        assert_eq!(order(&[-0.0, 0.0, f32::NAN, -f32::NAN, f32::NEG_INFINITY]), [0, 1, 2, 3, 4], "equal ones");
        let found = ranks(std::slice::from_ref(&row), &[7], &vec![7; row.len()]);
        assert_eq!((found.rank1, found.map), (100.0, 100.0));
    }

    /// Half of the persons are found by all of their texts, the others by none: resampling single
    /// texts would give an interval half as wide.
    #[test]
    fn texts_of_a_person_are_drawn_together() {
        let found = |text: usize| if (text / 4).is_multiple_of(2) { 0 } else { usize::MAX };
        let texts: Vec<TextRank> = (0..400).map(|text| TextRank { first: found(text), precision: 0.5 }).collect();
        let ids: Vec<u32> = (0..400).map(|text| text / 4).collect();
        let by_person = RankIntervals::of(&texts, &ids).expect("100 persons");
        let by_text = RankIntervals::of(&texts, &(0..400).collect::<Vec<_>>()).expect("400 of them");
        let width = |[low, high]: [f64; 2]| high - low;
        assert!((1.7..2.4).contains(&(width(by_person.rank1) / width(by_text.rank1))), "{by_person:?} {by_text:?}");
        assert!(by_person.rank1[0] < 50.0 && 50.0 < by_person.rank1[1] && by_person.map == [50.0, 50.0]);
        assert_eq!(RankIntervals::of(&texts, &vec![7; 400]), None, "one person");
    }

    proptest! {
        #[test]
        fn only_the_order_of_scores_counts((scores, texts, images) in case(), gain in 0.5f32..3.0, lift in -2f32..2.0) {
            let before = ranks(&scores, &texts, &images);
            let mapped: Vec<Vec<f32>> =
                scores.iter().map(|row| row.iter().map(|s| (gain * s).exp() + lift).collect()).collect();
            prop_assert!(same(before, ranks(&mapped, &texts, &images)));
        }

        #[test]
        fn the_order_of_images_and_texts_does_not_count((scores, texts, images) in case(), turn in 0usize..24) {
            let before = ranks(&scores, &texts, &images);
            let turned = |row: &Vec<f32>| { let mut r = row.clone(); r.rotate_left(turn % images.len()); r };
            let mut rows: Vec<Vec<f32>> = scores.iter().map(turned).collect();
            let (mut t, mut v) = (texts.clone(), images.clone());
            v.rotate_left(turn % images.len());
            rows.reverse();
            t.reverse();
            prop_assert!(same(before, ranks(&rows, &t, &v)));
        }

        #[test]
        fn ranks_grow_with_k_and_are_per_cent((scores, texts, images) in case()) {
            let r = ranks(&scores, &texts, &images);
            prop_assert!(0.0 <= r.rank1 && r.rank1 <= r.rank5 && r.rank5 <= r.rank10 && r.rank10 <= 100.0);
            prop_assert!((0.0..=100.0).contains(&r.map));
        }

        #[test]
        fn a_perfect_ranking_is_perfect(images in proptest::collection::vec(0u32..5, 1..24)) {
            let texts = images.clone();
            let score = |t: &u32| images.iter().map(|v| f32::from(u8::from(v == t))).collect();
            let r = ranks(&texts.iter().map(score).collect::<Vec<_>>(), &texts, &images);
            prop_assert_eq!((r.rank1, r.rank10), (100.0, 100.0));
            prop_assert!((r.map - 100.0).abs() < 1e-9);
        }
    }
}
