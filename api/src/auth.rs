//! Authentication by bearer token, with a role, a camera scope and a rate limit for each token.
//!
//! Authentication is a layer around every protected route, so that a new route cannot forget it;
//! handlers check roles with [`Caller::require`]. Without required tokens (loopback only, which the
//! configuration checks) every caller is an administrator. The `Host` header must then name the
//! loopback, or a foreign web page could reach this server through a DNS name that resolves to
//! 127.0.0.1.

use std::collections::BTreeSet;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use sightline_core::CameraId;
use subtle::ConstantTimeEq as _;

use crate::app::App;
use crate::error::Error;
use crate::state::{Role, hash_token};

/// Authenticated caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Public id of the token.
    pub id: String,
    /// Name of the token.
    pub name: String,
    /// Role of the token.
    pub role: Role,
    /// Cameras that the token may see; `None`: all.
    pub cameras: Option<BTreeSet<CameraId>>,
}

impl Caller {
    /// Refuses a caller whose role is below `role`.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn require(&self, role: Role) -> Result<(), Error> {
        if self.role >= role {
            Ok(())
        } else {
            Err(Error::Forbidden(format!("this needs the role {role}; the token has the role {}", self.role)))
        }
    }

    /// Refuses a caller whose token is limited to certain cameras; for requests that concern all
    /// cameras.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn require_all_cameras(&self) -> Result<(), Error> {
        match self.cameras {
            None => Ok(()),
            Some(_) => Err(Error::Forbidden("this needs a token that is not limited to certain cameras".into())),
        }
    }

    /// Whether the caller may see this camera.
    pub fn sees(&self, camera: &CameraId) -> bool {
        self.cameras.as_ref().is_none_or(|c| c.contains(camera))
    }

    /// Name of the caller in the audit trail.
    pub fn signature(&self) -> String {
        format!("{} ({})", self.name, self.id)
    }
}

/// Authentication layer: identifies the caller, counts the request against the token's rate limit
/// and adds the [`Caller`] to the request.
///
/// # Errors
/// [`Error::Unauthorized`], [`Error::RateLimited`], or [`Error::Unavailable`] when the tokens
/// cannot be read.
pub async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, Error> {
    let caller = identify(&app, request.headers()).await?;
    app.rate().take(&caller.id, Instant::now()).map_err(|wait| {
        metrics::counter!("sightline_api_rate_limited_total").increment(1);
        Error::RateLimited { retry_after_s: wait.as_secs_f64().ceil() as u64 }
    })?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

async fn identify(app: &App, headers: &HeaderMap) -> Result<Caller, Error> {
    let header = headers.get(header::AUTHORIZATION);
    let Some(header) = header else {
        return if app.server().require_tokens {
            Err(Error::Unauthorized("send the header Authorization: Bearer TOKEN"))
        } else if host_is_loopback(headers) {
            Ok(Caller { id: "-".into(), name: "anyone".into(), role: Role::Admin, cameras: None })
        } else {
            Err(Error::Unauthorized("without a token only requests to localhost are answered"))
        };
    };
    let secret = header
        .to_str()
        .ok()
        .and_then(|h| h.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, secret)| secret.trim())
        .ok_or(Error::Unauthorized("the header Authorization must read: Bearer TOKEN"))?;
    let hash = hash_token(secret);
    if app.start_token().is_some_and(|t| bool::from(t.ct_eq(&hash))) {
        return Ok(Caller { id: "start".into(), name: "start".into(), role: Role::Admin, cameras: None });
    }
    match app.state().run(move |s| s.token_by_hash(&hash)).await? {
        Some(t) => Ok(Caller { id: t.id, name: t.name, role: t.role, cameras: t.cameras }),
        None => Err(Error::Unauthorized("the token is unknown, revoked or expired")),
    }
}

fn host_is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    // The port follows the last colon, unless that colon is inside the brackets of an IPv6 address.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_counts_as_local() {
        let local =
            |host: &str| host_is_loopback(&HeaderMap::from_iter([(header::HOST, host.parse().expect("valid header"))]));
        for host in ["localhost", "LOCALHOST:8780", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "[::1]"] {
            assert!(local(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:80", "10.0.0.1", "127.0.0.1.evil.example", "[2001::1]:80"]
        {
            assert!(!local(host), "{host}");
        }
    }

    #[test]
    fn roles_include_the_lower_ones() {
        let caller = |role| Caller { id: "x".into(), name: "x".into(), role, cameras: None };
        assert!(caller(Role::Admin).require(Role::Operator).is_ok());
        assert!(caller(Role::Operator).require(Role::Operator).is_ok());
        let refused = caller(Role::Viewer).require(Role::Operator).expect_err("too low").to_string();
        assert!(refused.contains("operator") && refused.contains("viewer"), "{refused}");
    }
}
