//! Desk: the only way from a route to data.
//!
//! The router's state is a [`Gate`], from which a handler gets nothing but a `Desk<R>`. Extracting
//! one checks that the caller has the role `R`, before the body of the request is read. Its methods
//! are the data that this role may ask for; each puts the caller's cameras into the filter and
//! writes the audit record; a search takes a permit as well. What is erased is hidden by the index,
//! whoever asks. So a route that forgets the role or the scope does not compile:
//!
//! ```
//! use sightline_api::desk::{Desk, Operator, SearchOrder};
//! async fn handler(desk: Desk<Operator>) {
//!     let _ = desk.search(SearchOrder::default()).await;
//! }
//! ```
//!
//! A viewer's desk has no search:
//!
//! ```compile_fail
//! use sightline_api::desk::{Desk, SearchOrder, Viewer};
//! async fn handler(desk: Desk<Viewer>) {
//!     let _ = desk.search(SearchOrder::default()).await;
//! }
//! ```
//!
//! And neither the router's state nor a desk gives away the index, where nothing knows the caller:
//!
//! ```compile_fail
//! use axum::extract::State;
//! use sightline_api::desk::Gate;
//! async fn handler(State(gate): State<Gate>) {
//!     let _ = gate.app().index();
//! }
//! ```
//!
//! ```compile_fail
//! use sightline_api::desk::{Admin, Desk};
//! async fn handler(desk: Desk<Admin>) {
//!     let _ = desk.index();
//! }
//! ```

mod audit;
mod cameras;
mod erasures;
mod health;
mod search;
mod sightings;
mod tokens;

use std::collections::BTreeSet;
use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde_json::Value;
use sightline_search::{Filter, Index};

pub use audit::AuditReading;
pub use cameras::Removal;
pub use erasures::{ErasedView, ErasureOrder, ErasureTarget, ErasureView, ScopeView};
pub use health::{Check, Readiness};
pub(crate) use health::{readiness, render_metrics};
pub use search::{Found, SearchOrder};

use crate::app::App;
use crate::auth::{Caller, identify};
use crate::error::Error;
use crate::state::{AuditEntry, CameraRow, Role};

/// State of the router. Handlers cannot look inside; they extract a [`Desk`].
#[derive(Clone)]
pub struct Gate(App);

impl Gate {
    /// Creates the state of a router.
    pub fn new(app: App) -> Self {
        Self(app)
    }

    /// Largest accepted body, for the extractors.
    pub(crate) fn max_body_bytes(&self) -> usize {
        self.0.server().max_body_bytes
    }
}

/// What a desk demands of its caller.
pub trait Access: Send + Sync + 'static {
    /// Checks the caller.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    fn check(caller: &Caller) -> Result<(), Error>;
}

/// Callers of at least the role viewer: pictures and cameras of their scope.
#[derive(Debug)]
pub struct Viewer;

/// Callers of at least the role operator: searches.
#[derive(Debug)]
pub struct Operator;

/// Administrators whose token is not limited to certain cameras: changes.
#[derive(Debug)]
pub struct Admin;

/// Auditors and administrators for all cameras: the audit trail.
#[derive(Debug)]
pub struct Auditor;

/// Callers of the role metrics and administrators for all cameras.
#[derive(Debug)]
pub struct Metrics;

impl Access for Viewer {
    fn check(caller: &Caller) -> Result<(), Error> {
        caller.require(Role::Viewer)
    }
}

impl Access for Operator {
    fn check(caller: &Caller) -> Result<(), Error> {
        caller.require(Role::Operator)
    }
}

impl Access for Admin {
    fn check(caller: &Caller) -> Result<(), Error> {
        caller.require(Role::Admin)?;
        caller.require_all_cameras()
    }
}

impl Access for Auditor {
    fn check(caller: &Caller) -> Result<(), Error> {
        caller.require(Role::Auditor)?;
        caller.require_all_cameras()
    }
}

impl Access for Metrics {
    fn check(caller: &Caller) -> Result<(), Error> {
        caller.require(Role::Metrics)?;
        caller.require_all_cameras()
    }
}

/// An authorised caller with access to the data of role `R`; see the module.
pub struct Desk<R> {
    app: App,
    caller: Caller,
    role: PhantomData<R>,
}

impl<R: Access> FromRequestParts<Gate> for Desk<R> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        // Only a route outside the authentication layer has no caller; that is a bug, and the
        // request is refused.
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller = caller.ok_or(Error::Unauthorized("this route knows no caller"))?;
        R::check(&caller)?;
        Ok(Self { app: gate.0.clone(), caller, role: PhantomData })
    }
}

/// Access to what strangers may know: whether the server is ready. A caller with a token that works
/// learns more.
pub struct PublicDesk {
    app: App,
    caller: Option<Caller>,
}

impl PublicDesk {
    /// Whether the request has a token that works.
    pub fn knows_caller(&self) -> bool {
        self.caller.is_some()
    }
}

impl FromRequestParts<Gate> for PublicDesk {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        let caller = identify(&gate.0, &parts.headers, &parts.extensions).await.ok();
        Ok(Self { app: gate.0.clone(), caller })
    }
}

/// Cameras that a request is about, and the filter that keeps it there.
struct Scope {
    /// Known cameras, visible to the caller and asked for.
    cameras: Vec<CameraRow>,
    filter: Filter,
}

impl<R: Access> Desk<R> {
    /// Returns the role of the caller's token, for what a page offers.
    pub fn role(&self) -> Role {
        self.caller.role
    }

    fn index(&self) -> Result<&Index, Error> {
        self.app.index()
    }

    /// Returns the scope of a request about `wanted` cameras; `None`: all that the caller may see.
    async fn scope(&self, wanted: Option<&[String]>) -> Result<Scope, Error> {
        let visible = self.app.visible_cameras(&self.caller).await?;
        let cameras = match wanted {
            None => visible,
            Some([]) => {
                return Err(Error::Invalid("cameras is empty: name at least one, or leave it out for all".into()));
            }
            Some(wanted) => {
                let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
                let known: BTreeSet<&str> = visible.iter().map(|r| r.spec.id.as_str()).collect();
                if let Some(unknown) = wanted.difference(&known).next() {
                    return Err(Error::UnknownCamera((*unknown).to_owned()));
                }
                visible.into_iter().filter(|r| wanted.contains(r.spec.id.as_str())).collect()
            }
        };
        let limited = wanted.is_some() || self.caller.cameras.is_some();
        if limited && cameras.is_empty() {
            return Err(Error::Forbidden("this token may not see any camera that is there".into()));
        }
        let filter = Filter {
            cameras: limited.then(|| cameras.iter().map(|r| r.spec.id.clone()).collect()),
            ..Filter::default()
        };
        Ok(Scope { cameras, filter })
    }

    /// Appends a record of the caller to the audit trail; a request that cannot be recorded is not
    /// served.
    async fn record(&self, action: &'static str, purpose: Option<String>, detail: Value) -> Result<i64, Error> {
        let entry = AuditEntry { who: self.caller.signature(), action, purpose, detail };
        Ok(self.app.state().run(move |s| s.record(&entry)).await?)
    }
}

/// Runs a change as a separate task, so that it finishes even when the caller disconnects.
async fn run_to_completion<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(change).await.map_err(|e| Error::Internal(format!("a change broke off: {e}")))?
}
