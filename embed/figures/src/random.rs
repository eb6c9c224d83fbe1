//! Random choices: one generator per identity and purpose, and the few draws everything is made of.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Separates these streams from those of other programs that mix the same small numbers.
const SALT: u64 = 0x5157;

/// Random stream `(seed, a, b)`, independent of every other: one SplitMix64 step per part (Steele,
/// Lea and Flood 2014).
///
/// The seed is mixed before `a` is added. With a plain `seed ^ a`, two seeds would hold the same
/// identities in another order, and persons of the training seed would leak into the test seed.
pub fn stream(seed: u64, a: u64, b: u64) -> StdRng {
    let mut state = seed;
    for part in [SALT, a, b] {
        state = (state ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        state ^= state >> 31;
    }
    StdRng::seed_from_u64(state)
}

/// One element of `from`, each equally likely.
pub(crate) fn pick<'a, T: ?Sized>(rng: &mut impl Rng, from: &[&'a T]) -> &'a T {
    from[rng.random_range(0..from.len())]
}

/// True with probability `p`.
pub(crate) fn chance(rng: &mut impl Rng, p: f32) -> bool {
    rng.random::<f32>() < p
}

/// Uniform in `lo..hi`.
pub(crate) fn between(rng: &mut impl Rng, lo: f32, hi: f32) -> f32 {
    lo + (hi - lo) * rng.random::<f32>()
}

/// Index drawn with probability proportional to its weight; the weights need not sum to 1.
pub(crate) fn weighted(rng: &mut impl Rng, weights: &[f32]) -> usize {
    let mut at = rng.random::<f32>() * weights.iter().sum::<f32>();
    for (index, weight) in weights.iter().enumerate() {
        at -= weight;
        if at <= 0.0 {
            return index;
        }
    }
    weights.len() - 1
}
