//! Tokens: listed, created and revoked, each change recorded with who made it.
//!
//! The last token that may administer the server cannot be revoked here, so that nobody locks
//! everybody out by mistake. `sightline token revoke` on the machine itself can, and a restart
//! prints a new one.

use std::collections::BTreeSet;

use sightline_core::CameraId;

use super::{Admin, Desk};
use crate::error::Error;
use crate::state::{NewToken, State as Database, StateError, TokenRow};

impl Desk<Admin> {
    /// Returns every token ever created, without the secrets, oldest first.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, Error> {
        Ok(self.app.state().run(Database::tokens).await?)
    }

    /// Creates a token, and returns it with its secret, which nobody can look up later.
    ///
    /// # Errors
    /// [`Error::UnknownCamera`] when it is limited to a camera that does not exist, or when the
    /// state database cannot be written.
    pub async fn create_token(&self, new: NewToken) -> Result<(TokenRow, String), Error> {
        if let Some(wanted) = &new.cameras {
            let known: BTreeSet<CameraId> = self.app.known_cameras().await?.into_iter().map(|c| c.spec.id).collect();
            if let Some(unknown) = wanted.difference(&known).next() {
                return Err(Error::UnknownCamera(unknown.to_string()));
            }
        }
        let who = self.caller.signature();
        Ok(self.app.state().run(move |s| s.create_token_for(&who, &new)).await?)
    }

    /// Revokes a token, the caller's own and that of the server's start included. It stops working
    /// at once.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no such token works, [`Error::Conflict`] for the last one that may
    /// administer the server, or when the state database cannot be written.
    pub async fn revoke_token(&self, id: String) -> Result<(), Error> {
        let (who, revoked) = (self.caller.signature(), id.clone());
        match self.app.state().run(move |s| s.revoke_token_for(&who, &revoked)).await {
            Err(StateError::NoToken) => Err(Error::NotFound(format!("there is no token {id:?} that still works"))),
            Err(StateError::LastAdmin) => Err(Error::Conflict(format!(
                "{id:?} is the last token that may administer this server: create another one first, or revoke it on \
                 the machine itself with `sightline token revoke`"
            ))),
            done => Ok(done?),
        }
    }
}
