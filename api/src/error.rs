//! The error type of the API: every variant has one documented status and one stable code, and
//! every body is `{code, message, request_id}`. An error is never answered with an empty list.
//!
//! The outermost layer of [`crate::server`], which knows the request id, writes the body; until
//! then the response carries a [`Problem`] as an extension. So rejections of the framework (wrong
//! method, body too large, malformed JSON) and panics have the same form as our own errors.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sightline_search::{EncodeError, EraseError, GalleryError, IndexError, SearchError, StoreError};
use utoipa::ToSchema;

use crate::state::StateError;

/// An error of the caller or of the service. The first line of each variant gives its status and
/// code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400 `invalid_request`: malformed JSON, an unknown field, or a value of the wrong type or out
    /// of range.
    #[error("{0}")]
    Invalid(String),
    /// 400 `empty_query`: the query contains nothing to search for.
    #[error("the query has no word to search for: describe the person, for example \"a person in a red jacket\"")]
    EmptyQuery,
    /// 400 `query_too_long`: the query has more characters than accepted.
    #[error("the query has {chars} characters; at most {max} are accepted (the model reads the first 72 words)")]
    QueryTooLong {
        /// Characters of the query.
        chars: usize,
        /// Characters accepted.
        max: usize,
    },
    /// 400 `unknown_camera`: a filter names a camera that does not exist or that the token may not
    /// see.
    #[error("unknown camera {0:?}")]
    UnknownCamera(String),
    /// 400 `invalid_image`: the example picture cannot be decoded.
    #[error("the example image cannot be used: {0}")]
    InvalidImage(String),
    /// 400 `invalid_cursor`: the cursor is unknown, expired, or belongs to another caller.
    #[error("the cursor is not valid for this search: {0}")]
    InvalidCursor(String),
    /// 401 `unauthorized`: the token is missing, unknown, revoked or expired.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// 403 `forbidden`: the token is valid but does not permit this request.
    #[error("{0}")]
    Forbidden(String),
    /// 404 `not_found`: the route, sighting or camera does not exist, or the token may not see it.
    #[error("{0}")]
    NotFound(String),
    /// 405 `method_not_allowed`: the route exists, but not with this method.
    #[error("this route does not answer {0}")]
    MethodNotAllowed(String),
    /// 409 `conflict`: the camera exists already, there is no capacity for one more, or the token
    /// is the last one of an administrator.
    #[error("{0}")]
    Conflict(String),
    /// 413 `body_too_large`: the request body exceeds `server.max_body_bytes`.
    #[error("the request body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// 415 `unsupported_media_type`: the body is not declared as JSON.
    #[error("send JSON with the header Content-Type: application/json")]
    UnsupportedMediaType,
    /// 429 `rate_limited`: too many requests with this token; `Retry-After` gives the waiting time.
    #[error("too many requests with this token; try again in {retry_after_s} s")]
    RateLimited {
        /// Whole seconds until the next request is allowed.
        retry_after_s: u64,
    },
    /// 503 `busy`: too many searches run already; `Retry-After` gives the waiting time.
    #[error("too many searches run at the moment; try again in {retry_after_s} s")]
    Busy {
        /// Whole seconds after which a search may be tried again.
        retry_after_s: u64,
    },
    /// 429 `rate_limited`: too many requests from this address; `Retry-After` gives the waiting
    /// time.
    #[error("too many requests from this address; try again in {retry_after_s} s")]
    AddressLimited {
        /// Whole seconds until the next request is allowed.
        retry_after_s: u64,
    },
    /// 400 `token_in_query`: proxies and logs keep addresses, and a token in one of them is known.
    #[error(
        "a token does not belong into the address's query: send the header Authorization: Bearer TOKEN, or open the \
         page with #token=TOKEN. Revoke this one; it may stand in logs now"
    )]
    TokenInQuery,
    /// 408 `body_timeout`: the request body did not arrive within `server.body_seconds`.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// 503 `overloaded`: `server.max_requests` requests are at work; `Retry-After` gives the waiting
    /// time.
    #[error("too many requests are at work; try again in a second")]
    Overloaded,
    /// 500 `internal`: a fault of the service; the log has the details under the request id.
    #[error("an internal error; the log has the details under this request id")]
    Internal(String),
    /// 501 `not_supported`: this process cannot do that at all, whatever its state.
    #[error("{0}")]
    NotSupported(&'static str),
    /// 503 `unavailable`: a part that this request needs is down; the message names it.
    #[error("{part} is not available: {why}")]
    Unavailable {
        /// Part that is down.
        part: &'static str,
        /// Reason, as far as known.
        why: String,
    },
}

impl Error {
    /// Returns the HTTP status of the variant.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_)
            | Self::EmptyQuery
            | Self::QueryTooLong { .. }
            | Self::UnknownCamera(_)
            | Self::InvalidImage(_)
            | Self::InvalidCursor(_)
            | Self::TokenInQuery => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited { .. } | Self::AddressLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Busy { .. } | Self::Unavailable { .. } | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the stable code that programs may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_request",
            Self::EmptyQuery => "empty_query",
            Self::QueryTooLong { .. } => "query_too_long",
            Self::UnknownCamera(_) => "unknown_camera",
            Self::InvalidImage(_) => "invalid_image",
            Self::InvalidCursor(_) => "invalid_cursor",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::Conflict(_) => "conflict",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited { .. } | Self::AddressLimited { .. } => "rate_limited",
            Self::TokenInQuery => "token_in_query",
            Self::BodyTimeout => "body_timeout",
            Self::Overloaded => "overloaded",
            Self::Busy { .. } => "busy",
            Self::Internal(_) => "internal",
            Self::NotSupported(_) => "not_supported",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

/// Body of every answer with a status from 400 on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// Stable code, for programs.
    pub code: String,
    /// Message for people: what is wrong and how to correct it.
    pub message: String,
    /// Id of this request, as in the log and in the header `x-request-id`.
    pub request_id: String,
}

/// Code and message of an error on its way to the layer that writes the body.
#[derive(Clone, Debug)]
pub struct Problem {
    /// See [`ErrorBody::code`].
    pub code: &'static str,
    /// See [`ErrorBody::message`].
    pub message: String,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if let Self::Internal(details) = &self {
            tracing::error!(%details, "internal error");
        }
        let mut response = self.status().into_response();
        match &self {
            Self::Unauthorized(_) => {
                let value = HeaderValue::from_static("Bearer realm=\"sightline\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
            }
            Self::RateLimited { retry_after_s }
            | Self::AddressLimited { retry_after_s }
            | Self::Busy { retry_after_s } => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            Self::Overloaded => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(Problem { code: self.code(), message: self.to_string() });
        response
    }
}

/// Whether an error comes from the time-out of a request's body.
pub(crate) fn is_body_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |e| e.source());
    causes.any(|e| e.is::<tower_http::timeout::TimeoutError>())
}

impl From<StateError> for Error {
    fn from(e: StateError) -> Self {
        Self::Unavailable { part: "the state database", why: e.to_string() }
    }
}

impl From<SearchError> for Error {
    fn from(e: SearchError) -> Self {
        match e {
            SearchError::Encode(EncodeError::EmptyQuery) => Self::EmptyQuery,
            SearchError::UnknownCursor => Self::InvalidCursor(e.to_string()),
            e if e.is_bad_request() => Self::Invalid(e.to_string()),
            SearchError::Encode(e) => Self::Unavailable { part: "the model", why: e.to_string() },
            SearchError::Store(e) => store_error(&e),
            SearchError::Gallery(e) => gallery_error(&e),
            e => Self::Internal(e.to_string()),
        }
    }
}

impl From<IndexError> for Error {
    fn from(e: IndexError) -> Self {
        match e {
            IndexError::Store(e) | IndexError::Erase(EraseError::Store(e)) => store_error(&e),
            IndexError::Gallery(e) | IndexError::Erase(EraseError::Gallery(e)) => gallery_error(&e),
            IndexError::Erase(e) => Self::Unavailable { part: "the erasure", why: e.to_string() },
            IndexError::Broken(why) => Self::Internal(why),
        }
    }
}

fn store_error(e: &StoreError) -> Error {
    Error::Unavailable { part: "the vector store", why: e.to_string() }
}

fn gallery_error(e: &GalleryError) -> Error {
    Error::Unavailable { part: "the gallery", why: e.to_string() }
}
