//! Waiting times between connection attempts: doubled from the first to the last, with jitter, for ever.
//!
//! Jitter keeps a rack of cameras, gone with one switch, from coming back in one rush.

use std::time::Duration;

use rand::Rng;

/// Exponential back-off.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits from `first` up to `last`.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, attempt: 0 }
    }

    /// The next waiting time: between half of and all of `min(first x 2^attempt, last)`.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let whole = self.first.saturating_mul(2u32.saturating_pow(self.attempt)).min(self.last);
        self.attempt = self.attempt.saturating_add(1);
        whole.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// The connection held: the next waiting time is the first again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn doubles_up_to_the_last_and_never_ends() {
        let mut b = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        for attempt in 0..10_000u32 {
            let whole = if attempt < 7 { 0.5 * f64::from(1 << attempt) } else { 60.0 };
            let got = b.next(&mut rng).as_secs_f64();
            assert!((whole * 0.499..=whole * 1.001).contains(&got), "attempt {attempt}: {got}");
        }
        b.reset();
        assert!(b.next(&mut rng) <= Duration::from_millis(500));
    }
}
