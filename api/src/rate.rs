//! Rate limiter: one token bucket for each key (access token, client address), refilled with a
//! number of requests a minute and limited to bursts of the same size.
//!
//! Memory is bounded, whoever calls: buckets live in two generations of at most `GENERATION`. A
//! full generation becomes the old one, and the old one, with the buckets that nobody used for so
//! long, is dropped. The worst that a flood of new keys does is to refill a bucket.
//!
//! The current time is a parameter, so that tests need not wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest number of buckets of one generation: some 4 MB for addresses.
const GENERATION: usize = 32_768;

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

struct Buckets<K> {
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

/// Token buckets by key.
pub struct RateLimiter<K> {
    capacity: f64,
    per_second: f64,
    buckets: Mutex<Buckets<K>>,
}

impl<K: Hash + Eq> RateLimiter<K> {
    /// Creates a limiter of `per_minute` requests per minute (at least 1) and as many at once.
    pub fn new(per_minute: u32) -> Self {
        let capacity = f64::from(per_minute.max(1));
        let buckets = Buckets { young: HashMap::new(), old: HashMap::new() };
        Self { capacity, per_second: capacity / 60.0, buckets: Mutex::new(buckets) }
    }

    /// Takes one request from the bucket of `key`.
    ///
    /// # Errors
    /// The waiting time until the next request is allowed.
    pub fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        // A panic cannot leave the maps half-changed, so a poisoned lock is still consistent.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let known = buckets.young.get(&key).or_else(|| buckets.old.get(&key)).copied();
        let left = known.map_or(self.capacity, |bucket| self.refilled(bucket, now));
        if buckets.young.len() >= GENERATION && !buckets.young.contains_key(&key) {
            buckets.old = std::mem::take(&mut buckets.young);
        }
        let allowed = left >= 1.0;
        buckets.young.insert(key, Bucket { left: if allowed { left - 1.0 } else { left }, at: now });
        if allowed { Ok(()) } else { Err(Duration::from_secs_f64((1.0 - left) / self.per_second)) }
    }

    fn refilled(&self, b: Bucket, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(b.at).as_secs_f64();
        (b.left + seconds * self.per_second).min(self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_then_the_rate_holds() {
        let limiter = RateLimiter::new(60);
        let start = Instant::now();
        assert!((0..60).all(|_| limiter.take("a", start).is_ok()));
        let wait = limiter.take("a", start).expect_err("empty");
        assert!((0.9..=1.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(limiter.take("b", start).is_ok(), "keys do not share a bucket");
        assert!(limiter.take("a", start + Duration::from_millis(1100)).is_ok());
        assert!(limiter.take("a", start + Duration::from_millis(1100)).is_err());
    }

    #[test]
    fn refused_requests_cost_nothing() {
        let limiter = RateLimiter::new(1);
        let start = Instant::now();
        assert!(limiter.take("a", start).is_ok());
        for s in 1..59 {
            assert!(limiter.take("a", start + Duration::from_secs(s)).is_err());
        }
        assert!(limiter.take("a", start + Duration::from_millis(60_100)).is_ok());
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_keeps_who_is_limited() {
        let limiter = RateLimiter::new(1);
        let start = Instant::now();
        assert!(limiter.take(u32::MAX, start).is_ok());
        for key in 0..3 * GENERATION as u32 {
            assert!(limiter.take(key, start).is_ok());
            if key % 10_000 == 0 {
                assert!(limiter.take(u32::MAX, start).is_err(), "whoever goes on asking stays limited");
            }
        }
        let buckets = limiter.buckets.lock().expect("sound");
        assert!(buckets.young.len() + buckets.old.len() <= 2 * GENERATION);
    }
}
