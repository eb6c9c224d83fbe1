//! Exponential back-off: the pauses between retries double up to a bound, and the retries never
//! end.
//!
//! Pauses are jittered, so that a rack of cameras behind one switch, or a hundred processes that
//! lost one broker, do not all reconnect at the same moment.

use std::time::Duration;

use rand::Rng;

/// The state of the back-off: how many retries there were since the last success.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    attempt: u32,
}

impl Backoff {
    /// Pauses of `first`, doubled at every attempt, up to `last`.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, attempt: 0 }
    }

    /// Back-off for brokers and servers: 0.1 to 10 seconds.
    pub fn server() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// The next pause: between half of and all of `min(first * 2^attempt, last)`.
    pub fn pause(&mut self) -> Duration {
        self.pause_with_rng(&mut rand::rng())
    }

    /// As [`Backoff::pause`], with the random generator given.
    pub fn pause_with_rng(&mut self, rng: &mut impl Rng) -> Duration {
        let whole = self.first.saturating_mul(2u32.saturating_pow(self.attempt)).min(self.last);
        self.attempt = self.attempt.saturating_add(1);
        whole.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// Call after a success: the next pause is the first again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn pauses_double_up_to_the_last_and_never_end() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        for attempt in 0..10_000u32 {
            let whole = if attempt < 7 { 0.5 * f64::from(1 << attempt) } else { 60.0 };
            let got = backoff.pause_with_rng(&mut rng).as_secs_f64();
            assert!((whole * 0.499..=whole * 1.001).contains(&got), "attempt {attempt}: {got}");
        }
        backoff.reset();
        assert!(backoff.pause_with_rng(&mut rng) <= Duration::from_millis(500));
    }

    #[test]
    fn pauses_differ() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..10).map(|_| backoff.pause()).collect();
        assert!(pauses.windows(2).any(|two| two[0] != two[1]), "{pauses:?}");
    }
}
