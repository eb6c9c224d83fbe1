//! Access tokens: 256 random bits, of which only the SHA-256 is stored. A token has a role and may
//! be limited to certain cameras.
//!
//! A plain hash suffices here, unlike for passwords: nobody can guess 256 random bits, however
//! cheap the hash is.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Row, params};
use sha2::{Digest, Sha256};
use sightline_core::{CameraId, Timestamp};

use super::{Role, State, StateError};

/// Shortest interval between two updates of `last_used_at`, in microseconds; the column informs
/// people and is not used for accounting.
const LAST_USED_INTERVAL_US: i64 = 60_000_000;

/// Id of the token of a server's start, which works until the server ends or the token is revoked.
pub const START_TOKEN_ID: &str = "start";

/// Properties of a token to create.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Name of the person or program that uses it.
    pub name: String,
    /// What it permits.
    pub role: Role,
    /// Cameras that it may see; `None`: all.
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Expiry time; `None`: valid until revoked.
    pub expires_at: Option<Timestamp>,
}

impl TokenRow {
    /// Whether the token works at this moment.
    pub fn works(&self) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > Timestamp::now())
    }
}

/// Stored token, without the secret.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRow {
    /// Public id, 8 hex digits or [`START_TOKEN_ID`], used in lists and in the audit trail.
    pub id: String,
    /// See [`NewToken::name`].
    pub name: String,
    /// See [`NewToken::role`].
    pub role: Role,
    /// See [`NewToken::cameras`].
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Time at which it was created.
    pub created_at: Timestamp,
    /// See [`NewToken::expires_at`].
    pub expires_at: Option<Timestamp>,
    /// Time of the last use, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Time at which it was revoked; `None`: it works until it expires.
    pub revoked_at: Option<Timestamp>,
}

/// Returns the SHA-256 of a token's text, which is stored and looked up.
pub fn hash_token(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl State {
    /// Returns the token with this secret's hash if it was valid a moment ago, without asking the
    /// database.
    pub fn cached_token(&self, hash: &[u8; 32]) -> Option<TokenRow> {
        self.inner.tokens.get(hash)
    }

    /// Returns the token with this secret's hash unless it is revoked or expired, and updates its
    /// time of last use. It does not wait for writers.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>, StateError> {
        let now = Timestamp::now().as_micros();
        let generation = self.inner.tokens.generation();
        let row = self.read(|c| {
            c.prepare_cached(
                "SELECT id, name, role, cameras, created_at, expires_at, last_used_at, revoked_at FROM tokens
                 WHERE hash = ?1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?2)",
            )?
            .query_row(params![hash.as_slice(), now], |r| Ok(read(r)))
            .optional()?
            .transpose()
        })?;
        let Some(row) = row else { return Ok(None) };
        if row.last_used_at.is_none_or(|t| t.as_micros() + LAST_USED_INTERVAL_US < now) {
            // The time informs people; it is worth neither waiting nor a refused request.
            let used =
                self.try_with(|c| c.execute("UPDATE tokens SET last_used_at = ?2 WHERE id = ?1", params![row.id, now]));
            if let Some(Err(error)) = used {
                tracing::debug!(%error, "the time of a token's last use was not stored");
            }
        }
        self.inner.tokens.put(hash, &row, generation);
        Ok(Some(row))
    }

    /// Returns every token ever created, oldest first.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn tokens(&self) -> Result<Vec<TokenRow>, StateError> {
        self.read(|c| {
            let mut statement = c.prepare(
                "SELECT id, name, role, cameras, created_at, expires_at, last_used_at, revoked_at FROM tokens
                 ORDER BY created_at, id",
            )?;
            let rows = statement.query_map([], |r| Ok(read(r)))?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().collect()
        })
    }
}

pub(super) fn corrupt(why: String) -> StateError {
    StateError::Corrupt { what: "token", why }
}

fn read(r: &Row<'_>) -> Result<TokenRow, StateError> {
    let cameras: Option<String> = r.get(3)?;
    let time =
        |i| -> rusqlite::Result<Option<Timestamp>> { Ok(r.get::<_, Option<i64>>(i)?.map(Timestamp::from_micros)) };
    Ok(TokenRow {
        id: r.get(0)?,
        name: r.get(1)?,
        role: r.get::<_, String>(2)?.parse().map_err(corrupt)?,
        cameras: cameras.map(|c| serde_json::from_str(&c)).transpose().map_err(|e| corrupt(e.to_string()))?,
        created_at: Timestamp::from_micros(r.get(4)?),
        expires_at: time(5)?,
        last_used_at: time(6)?,
        revoked_at: time(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::token_cache::CACHED;

    fn new(name: &str) -> NewToken {
        NewToken { name: name.into(), role: Role::Operator, cameras: None, expires_at: None }
    }

    #[test]
    fn the_secret_is_not_in_the_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let (row, secret) = state.create_token(&new("desk")).expect("made");
        assert_eq!(state.token_by_hash(&hash_token(&secret)).expect("read").map(|t| t.id), Some(row.id));
        drop(state);
        for entry in std::fs::read_dir(dir.path()).expect("there") {
            let bytes = std::fs::read(entry.expect("entry").path()).expect("readable");
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()));
        }
    }

    #[test]
    fn revoked_and_expired_tokens_do_not_work() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let (row, secret) = state.create_token(&new("desk")).expect("made");
        assert!(state.revoke_token(&row.id).expect("revoked"));
        assert!(!state.revoke_token(&row.id).expect("nothing left to revoke"));
        assert_eq!(state.token_by_hash(&hash_token(&secret)).expect("read"), None);
        let past = NewToken { expires_at: Some(Timestamp::from_micros(1)), ..new("old") };
        let (_, secret) = state.create_token(&past).expect("made");
        assert_eq!(state.token_by_hash(&hash_token(&secret)).expect("read"), None);
        assert_eq!(state.tokens().expect("listed").len(), 2);
    }

    #[test]
    fn scope_and_role_come_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let cameras: BTreeSet<CameraId> = ["a", "b"].iter().map(|c| c.parse().expect("valid")).collect();
        let (_, secret) = state
            .create_token(&NewToken { cameras: Some(cameras.clone()), role: Role::Viewer, ..new("gate") })
            .expect("made");
        let row = state.token_by_hash(&hash_token(&secret)).expect("read").expect("works");
        assert_eq!((row.role, row.cameras), (Role::Viewer, Some(cameras)));
    }

    #[test]
    fn a_look_up_waits_for_no_writer() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let (_, secret) = state.create_token(&new("desk")).expect("made");
        let (good, bad) = (hash_token(&secret), hash_token("wrong"));
        // On the writing connection each of these would wait for ever.
        let found = state.with(|_| Ok((state.token_by_hash(&good)?.is_some(), state.token_by_hash(&bad)?.is_some())));
        assert_eq!(found.expect("read"), (true, false));
        assert!(state.cached_token(&good).is_some() && state.cached_token(&bad).is_none());
        std::thread::sleep(CACHED);
        assert!(state.cached_token(&good).is_none(), "looked up again after a second");
    }

    #[test]
    fn the_start_token_is_replaced_and_revoked() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let works = |secret: &str| {
            let hash = hash_token(secret);
            state.cached_token(&hash).is_some() || state.token_by_hash(&hash).expect("read").is_some()
        };
        state.set_start_token("first").expect("stored");
        assert!(works("first"));
        state.set_start_token("second").expect("stored");
        assert!(!works("first") && works("second"));
        assert!(state.revoke_token(START_TOKEN_ID).expect("revoked"));
        assert!(!works("second"), "at once, cached or not");
        state.set_start_token("third").expect("stored");
        assert!(works("third"), "the next start has its own");
        assert_eq!(state.tokens().expect("listed").len(), 1);
    }
}
