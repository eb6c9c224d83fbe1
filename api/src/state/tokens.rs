//! Access tokens: 256 random bits, of which only the SHA-256 is stored. A token has a role and may
//! be limited to certain cameras.
//!
//! A plain hash suffices here, unlike for passwords: nobody can guess 256 random bits, however
//! cheap the hash is.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sightline_core::{CameraId, Timestamp};
use utoipa::ToSchema;

use super::{State, StateError};

/// Shortest interval between two updates of `last_used_at`, in microseconds; the column informs
/// people and is not used for accounting.
const LAST_USED_INTERVAL_US: i64 = 60_000_000;

/// Role of a token. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees the state of cameras, and sightings whose id it was given.
    Viewer,
    /// Searches for people.
    Operator,
    /// Adds and removes cameras, reads the audit trail and the metrics.
    Admin,
}

impl Role {
    /// Returns the role's name, as used in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            _ => Err(format!("{s:?} is not a role: use admin, operator or viewer")),
        }
    }
}

/// Properties of a token to create.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Name of the person or program that uses it.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Cameras that it may see; `None`: all.
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Expiry time; `None`: valid until revoked.
    pub expires_at: Option<Timestamp>,
}

/// Stored token, without the secret.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRow {
    /// Public id, 8 hex digits, used in lists and in the audit trail.
    pub id: String,
    /// See [`NewToken::name`].
    pub name: String,
    /// See [`NewToken::role`].
    pub role: Role,
    /// See [`NewToken::cameras`].
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Creation time.
    pub created_at: Timestamp,
    /// See [`NewToken::expires_at`].
    pub expires_at: Option<Timestamp>,
    /// Time of the last use, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Revocation time.
    pub revoked_at: Option<Timestamp>,
}

/// Returns the SHA-256 of a token's text, which is stored and looked up.
pub fn hash_token(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Generates a secret of 256 bits from the operating system's random source, URL-safe.
///
/// # Errors
/// When the operating system provides no random bytes.
pub fn new_secret() -> Result<String, StateError> {
    let mut bytes = [0u8; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|e| StateError::Corrupt { what: "randomness", why: e.to_string() })?;
    Ok(format!("slt_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

impl State {
    /// Creates a token; the secret is returned only here.
    ///
    /// # Errors
    /// When the database fails.
    pub fn create_token(&self, new: &NewToken) -> Result<(TokenRow, String), StateError> {
        let secret = new_secret()?;
        let hash = hash_token(&secret);
        let id: String = hash[..4].iter().map(|b| format!("{b:02x}")).collect();
        let cameras =
            new.cameras.as_ref().map(serde_json::to_string).transpose().map_err(|e| corrupt(e.to_string()))?;
        let created_at = Timestamp::now();
        self.with(|c| {
            c.execute(
                "INSERT INTO tokens (id, name, hash, role, cameras, created_at, expires_at) VALUES (?,?,?,?,?,?,?)",
                params![
                    id,
                    new.name,
                    hash.as_slice(),
                    new.role.as_str(),
                    cameras,
                    created_at.as_micros(),
                    new.expires_at.map(Timestamp::as_micros)
                ],
            )?;
            Ok(())
        })?;
        let row = TokenRow {
            id,
            name: new.name.clone(),
            role: new.role,
            cameras: new.cameras.clone(),
            created_at,
            expires_at: new.expires_at,
            last_used_at: None,
            revoked_at: None,
        };
        Ok((row, secret))
    }

    /// Returns the token with this secret's hash unless it is revoked or expired, and updates its
    /// time of last use.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>, StateError> {
        let now = Timestamp::now().as_micros();
        self.with(|c| {
            let row = c
                .prepare(
                    "SELECT id, name, role, cameras, created_at, expires_at, last_used_at, revoked_at FROM tokens
                     WHERE hash = ?1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?2)",
                )?
                .query_row(params![hash.as_slice(), now], |r| Ok(read(r)))
                .optional()?
                .transpose()?;
            if let Some(row) = &row
                && row.last_used_at.is_none_or(|t| t.as_micros() + LAST_USED_INTERVAL_US < now)
            {
                c.execute("UPDATE tokens SET last_used_at = ?2 WHERE id = ?1", params![row.id, now])?;
            }
            Ok(row)
        })
    }

    /// Returns every token ever created, oldest first.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn tokens(&self) -> Result<Vec<TokenRow>, StateError> {
        self.with(|c| {
            let mut statement = c.prepare(
                "SELECT id, name, role, cameras, created_at, expires_at, last_used_at, revoked_at FROM tokens
                 ORDER BY created_at, id",
            )?;
            let rows = statement.query_map([], |r| Ok(read(r)))?.collect::<Result<Vec<_>, _>>()?;
            rows.into_iter().collect()
        })
    }

    /// Revokes the token with this id; returns `false` when there is no valid one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn revoke_token(&self, id: &str) -> Result<bool, StateError> {
        self.with(|c| {
            let now = Timestamp::now().as_micros();
            let n =
                c.execute("UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL", params![id, now])?;
            Ok(n > 0)
        })
    }
}

fn corrupt(why: String) -> StateError {
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
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
