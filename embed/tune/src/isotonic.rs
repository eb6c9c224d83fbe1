//! Isotonic regression: the non-decreasing curve nearest to the labels, by the
//! pool-adjacent-violators algorithm.

/// Pairs with neighbouring evidence that share one probability.
#[derive(Clone, Copy)]
struct Block {
    /// Lowest evidence of the block; `to` is the highest.
    from: f32,
    to: f32,
    /// Weighted number of matches.
    matches: f64,
    /// Number of pairs, plus the weight of the prior.
    weight: f64,
}

impl Block {
    fn value(&self) -> f64 {
        self.matches / self.weight
    }
}

/// Pools neighbouring blocks until their values rise strictly.
fn pool(blocks: impl Iterator<Item = Block>) -> Vec<Block> {
    let mut pooled: Vec<Block> = Vec::new();
    for mut block in blocks {
        while let Some(last) = pooled.last().filter(|last| last.value() >= block.value()) {
            block.from = last.from;
            block.matches += last.matches;
            block.weight += last.weight;
            pooled.pop();
        }
        pooled.push(block);
    }
    pooled
}

/// Knots (evidence, probability) of the rising curve through `pairs` of (evidence, label): flat
/// over each pooled block, a straight line from one to the next. Each block is pulled towards the
/// overall share of matches with the weight of one pair, so that a block of few pairs claims no
/// certainty. `None` if fewer than two blocks are left, since the evidence is then uninformative.
pub(super) fn isotonic(pairs: &[(f32, bool)]) -> Option<Vec<[f32; 2]>> {
    let mut sorted: Vec<(f32, bool)> = pairs.iter().copied().filter(|p| p.0.is_finite()).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let share = sorted.iter().filter(|p| p.1).count() as f64 / sorted.len().max(1) as f64;
    // Pairs with the same evidence form one block, whatever their labels.
    let equal = sorted.chunk_by(|a, b| a.0 == b.0).map(|same| Block {
        from: same[0].0,
        to: same[0].0,
        matches: same.iter().filter(|p| p.1).count() as f64,
        weight: same.len() as f64,
    });
    let drawn = pool(equal).into_iter().map(|b| Block { matches: b.matches + share, weight: b.weight + 1.0, ..b });
    let blocks = pool(drawn);
    if blocks.len() < 2 {
        return None;
    }
    let mut knots: Vec<[f32; 2]> = Vec::with_capacity(2 * blocks.len());
    for block in &blocks {
        let probability = block.value().clamp(0.0, 1.0) as f32;
        knots.push([block.from, probability]);
        if block.to > block.from {
            knots.push([block.to, probability]);
        }
    }
    Some(knots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rising_labels_keep_their_shares() {
        // 0 of 9, 3 of 9, 9 of 9.
        let pairs: Vec<(f32, bool)> = (0..27).map(|i| ((i / 9) as f32, i >= 18 || (9..12).contains(&i))).collect();
        let knots = isotonic(&pairs).expect("three levels");
        let share = 12.0 / 27.0;
        for (knot, (x, matches)) in knots.iter().zip([(0.0, 0.0), (1.0, 3.0), (2.0, 9.0)]) {
            assert!((knot[0] - x).abs() < 1e-6 && (f64::from(knot[1]) - (matches + share) / 10.0).abs() < 1e-6);
        }
    }

    #[test]
    fn falling_labels_are_one_level_and_tell_nothing() {
        let pairs: Vec<(f32, bool)> = (0..20).map(|i| (i as f32, i < 10)).collect();
        assert_eq!(isotonic(&pairs), None);
        assert_eq!(isotonic(&[]), None);
    }

    proptest! {
        #[test]
        fn knots_rise(pairs in proptest::collection::vec((-5f32..5.0, any::<bool>()), 0..200)) {
            if let Some(knots) = isotonic(&pairs) {
                prop_assert!(knots.windows(2).all(|k| k[0][0] < k[1][0] && k[0][1] <= k[1][1]));
                prop_assert!(knots.iter().all(|k| (0.0..=1.0).contains(&k[1])));
            }
        }
    }
}
