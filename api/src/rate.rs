//! Rate limiter: one token bucket per access token, refilled with `server.rate_per_minute` requests
//! per minute and limited to bursts of the same size.
//!
//! The current time is a parameter, so that tests need not wait.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Number of buckets above which full ones are removed.
const PRUNE_ABOVE: usize = 1024;

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// Token buckets by key.
pub struct RateLimiter {
    capacity: f64,
    per_second: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl RateLimiter {
    /// Creates a limiter of `per_minute` requests per minute (at least 1) and as many at once.
    pub fn new(per_minute: u32) -> Self {
        let capacity = f64::from(per_minute.max(1));
        Self { capacity, per_second: capacity / 60.0, buckets: Mutex::default() }
    }

    /// Takes one request from the bucket of `key`.
    ///
    /// # Errors
    /// The waiting time until the next request is allowed.
    pub fn take(&self, key: &str, now: Instant) -> Result<(), Duration> {
        // A panic cannot leave the map half-changed, so a poisoned lock is still consistent.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() > PRUNE_ABOVE {
            buckets.retain(|_, b| self.refilled(*b, now) < self.capacity);
        }
        let full = Bucket { left: self.capacity, at: now };
        let bucket = buckets.entry(key.to_owned()).or_insert(full);
        let left = self.refilled(*bucket, now);
        *bucket = Bucket { left: if left >= 1.0 { left - 1.0 } else { left }, at: now };
        if left >= 1.0 { Ok(()) } else { Err(Duration::from_secs_f64((1.0 - left) / self.per_second)) }
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
    fn full_buckets_are_forgotten() {
        let limiter = RateLimiter::new(60);
        let start = Instant::now();
        for i in 0..=PRUNE_ABOVE {
            assert!(limiter.take(&i.to_string(), start).is_ok());
        }
        assert!(limiter.take("new", start + Duration::from_secs(5)).is_ok());
        assert_eq!(limiter.buckets.lock().expect("sound").len(), 1);
    }
}
