//! Pauses between attempts that go on for ever: doubled up to a bound, and jittered, so that a hundred processes do not
//! come back to a broker in the same moment.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The next pause of a row of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first`, doubled at every attempt, to `last`.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// For brokers and servers: 0.1 to 10 seconds.
    pub fn server() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// How long to wait now: half to all of the current step.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.last);
        // The only source of chance in the standard library: keys of its hash tables.
        let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        step.mul_f64(0.5 + 0.5 * chance)
    }

    /// An attempt has worked.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let pauses: Vec<_> = (0..10).map(|_| backoff.pause().as_secs_f64()).collect();
        assert!((0.05..=0.1).contains(&pauses[0]) && (0.1..=0.2).contains(&pauses[1]), "{pauses:?}");
        assert!(pauses[5..].iter().all(|p| (0.5..=1.0).contains(p)), "{pauses:?}");
        assert!(pauses[5..].windows(2).any(|two| two[0] != two[1]), "{pauses:?}");
        backoff.reset();
        assert!(backoff.pause().as_secs_f64() <= 0.1);
    }
}
