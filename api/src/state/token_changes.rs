//! Creation and revocation of tokens. What is changed through the API is recorded in the audit
//! trail in the same transaction; the commands on the machine record by themselves.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use rusqlite::{Connection, params};
use serde_json::json;
use sightline_core::Timestamp;

use super::tokens::corrupt;
use super::{AuditEntry, NewToken, START_TOKEN_ID, State, StateError, TokenRow, hash_token};

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
        let (row, secret) = generate(new)?;
        self.with(|c| insert(c, &row, &secret))?;
        Ok((row, secret))
    }

    /// Creates a token for `who`, and records it.
    ///
    /// # Errors
    /// When the database fails; no token is created then.
    pub fn create_token_for(&self, who: &str, new: &NewToken) -> Result<(TokenRow, String), StateError> {
        let (row, secret) = generate(new)?;
        let detail = json!({
            "token": row.id, "name": row.name, "role": row.role, "cameras": row.cameras, "expires_at": row.expires_at,
        });
        let entry = AuditEntry { who: who.to_owned(), action: "token.create", purpose: None, detail };
        self.inner.append(&[entry], |tx| insert(tx, &row, &secret))?;
        Ok((row, secret))
    }

    /// Makes `secret` the administrator token of this start of the server, in place of that of the
    /// start before. Like any other token it can be listed and revoked.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set_start_token(&self, secret: &str) -> Result<(), StateError> {
        let hash = hash_token(secret);
        self.with(|c| {
            c.execute(
                "INSERT OR REPLACE INTO tokens (id, name, hash, role, created_at) VALUES (?1, ?1, ?2, 'admin', ?3)",
                params![START_TOKEN_ID, hash.as_slice(), Timestamp::now().as_micros()],
            )?;
            Ok(())
        })?;
        self.inner.tokens.clear();
        Ok(())
    }

    /// Revokes the token with this id; returns `false` when there is no valid one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn revoke_token(&self, id: &str) -> Result<bool, StateError> {
        let revoked = self.with(|c| revoke(c, id));
        self.inner.tokens.clear();
        revoked
    }

    /// Revokes the token with this id for `who`, and records it.
    ///
    /// # Errors
    /// [`StateError::NoToken`] when no such token works, [`StateError::LastAdmin`] when nobody
    /// could administer the server afterwards, or when the database fails. Nothing has changed
    /// then.
    pub fn revoke_token_for(&self, who: &str, id: &str) -> Result<(), StateError> {
        let detail = json!({ "token": id });
        let entry = AuditEntry { who: who.to_owned(), action: "token.revoke", purpose: None, detail };
        let revoked = self.inner.append(&[entry], |tx| {
            if !revoke(tx, id)? {
                return Err(StateError::NoToken);
            }
            let admins: i64 = tx.query_row(
                "SELECT count(*) FROM tokens WHERE role = 'admin' AND cameras IS NULL AND revoked_at IS NULL
                    AND (expires_at IS NULL OR expires_at > ?1)",
                [Timestamp::now().as_micros()],
                |r| r.get(0),
            )?;
            if admins == 0 { Err(StateError::LastAdmin) } else { Ok(()) }
        });
        self.inner.tokens.clear();
        revoked.map(drop)
    }
}

/// Makes a token with a new secret.
fn generate(new: &NewToken) -> Result<(TokenRow, String), StateError> {
    let secret = new_secret()?;
    let row = TokenRow {
        id: hash_token(&secret)[..4].iter().map(|b| format!("{b:02x}")).collect(),
        name: new.name.clone(),
        role: new.role,
        cameras: new.cameras.clone(),
        created_at: Timestamp::now(),
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    Ok((row, secret))
}

fn insert(c: &Connection, row: &TokenRow, secret: &str) -> Result<(), StateError> {
    let cameras = row.cameras.as_ref().map(serde_json::to_string).transpose().map_err(|e| corrupt(e.to_string()))?;
    c.execute(
        "INSERT INTO tokens (id, name, hash, role, cameras, created_at, expires_at) VALUES (?,?,?,?,?,?,?)",
        params![
            row.id,
            row.name,
            hash_token(secret).as_slice(),
            row.role.as_str(),
            cameras,
            row.created_at.as_micros(),
            row.expires_at.map(Timestamp::as_micros)
        ],
    )?;
    Ok(())
}

/// Revokes a token that works; `false` when there is none.
fn revoke(c: &Connection, id: &str) -> Result<bool, StateError> {
    let sql = "UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL
                  AND (expires_at IS NULL OR expires_at > ?2)";
    Ok(c.execute(sql, params![id, Timestamp::now().as_micros()])? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Role;

    fn new(name: &str) -> NewToken {
        NewToken { name: name.into(), role: Role::Operator, cameras: None, expires_at: None }
    }

    #[test]
    fn the_last_token_of_an_administrator_stays() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let admin = |cameras, expires_at| {
            let new = NewToken { role: Role::Admin, cameras, expires_at, ..new("admin") };
            state.create_token(&new).expect("made").0.id
        };
        state.set_start_token("printed").expect("made");
        let (own, other) = (admin(None, None), state.create_token(&new("desk")).expect("made").0.id);
        // Neither of them could administer the server.
        admin(Some(["a".parse().expect("valid")].into()), None);
        let expired = admin(None, Some(Timestamp::from_micros(1)));
        state.revoke_token_for("desk (ab12)", START_TOKEN_ID).expect("revoked: another one works");
        let seq = state.audit(None, 1).expect("read")[0].seq;
        assert!(matches!(state.revoke_token_for("desk (ab12)", &own), Err(StateError::LastAdmin)));
        for id in ["nobody", START_TOKEN_ID, &expired] {
            assert!(matches!(state.revoke_token_for("desk (ab12)", id), Err(StateError::NoToken)), "{id}");
        }
        let newest = state.audit(None, 1).expect("read").remove(0);
        assert_eq!((newest.seq, newest.action.as_str()), (seq, "token.revoke"), "what was refused is not recorded");
        let works = |id: &str| state.tokens().expect("read").into_iter().any(|t| t.id == id && t.works());
        assert!(works(&own) && works(&other));
        state.revoke_token_for("desk (ab12)", &other).expect("revoked");
        let (next, _) =
            state.create_token_for("desk (ab12)", &NewToken { role: Role::Admin, ..new("next") }).expect("made");
        state.revoke_token_for("next", &own).expect("revoked");
        assert!(works(&next.id) && !works(&own) && state.verify_audit().expect("walked").intact);
    }
}
