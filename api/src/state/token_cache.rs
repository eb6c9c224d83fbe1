//! Valid tokens that were looked up a moment ago, so that the pictures of a page cost one look-up
//! in the database and not one each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sightline_core::Timestamp;

use super::TokenRow;

/// How long a valid token is not looked up again. It bounds how long a token works after another
/// process has revoked it; this process forgets it at once.
pub(super) const CACHED: Duration = Duration::from_secs(1);

/// Largest number of cached tokens; more are looked up each time.
const CACHE_SIZE: usize = 4096;

/// Valid tokens that were looked up a moment ago.
#[derive(Default)]
pub(super) struct TokenCache {
    tokens: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    by_hash: HashMap<[u8; 32], (Instant, TokenRow)>,
    /// Counts the revocations, so that a look-up from before one is not cached behind it.
    generation: u64,
}

impl TokenCache {
    pub fn get(&self, hash: &[u8; 32]) -> Option<TokenRow> {
        let cached = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, row) = cached.by_hash.get(hash)?;
        let valid = at.elapsed() < CACHED && row.expires_at.is_none_or(|t| t > Timestamp::now());
        valid.then(|| row.clone())
    }

    pub fn generation(&self) -> u64 {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    pub fn put(&self, hash: &[u8; 32], row: &TokenRow, generation: u64) {
        let mut cached = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.generation != generation {
            return;
        }
        if cached.by_hash.len() >= CACHE_SIZE {
            cached.by_hash.retain(|_, (at, _)| at.elapsed() < CACHED);
        }
        if cached.by_hash.len() < CACHE_SIZE {
            cached.by_hash.insert(*hash, (Instant::now(), row.clone()));
        }
    }

    pub fn clear(&self) {
        let mut cached = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        cached.by_hash.clear();
        cached.generation += 1;
    }
}
