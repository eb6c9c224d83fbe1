//! Extractors that reject with our own errors: malformed JSON, an unknown field or an invalid path
//! segment is answered with `{code, message, request_id}`.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::desk::Gate;
use crate::error::{Error, is_body_timeout};

/// JSON body of a request.
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Gate> for ApiJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, gate: &Gate) -> Result<Self, Error> {
        match Json::<T>::from_request(request, gate).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Error::UnsupportedMediaType),
            Err(r) if is_body_timeout(&r) => Err(Error::BodyTimeout),
            Err(r) if r.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Error::BodyTooLarge(gate.max_body_bytes())),
            Err(r) => Err(Error::Invalid(plain(&r.body_text()))),
        }
    }
}

/// Query string of a request.
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Gate> for ApiQuery<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        match Query::<T>::from_request_parts(parts, gate).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(r) => Err(Error::Invalid(plain(&r.body_text()))),
        }
    }
}

/// Path parameters of a request.
pub struct ApiPath<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Gate> for ApiPath<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Error> {
        match Path::<T>::from_request_parts(parts, gate).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(r) => Err(Error::Invalid(plain(&r.body_text()))),
        }
    }
}

/// Strips the preamble with Rust types from a message of the framework.
fn plain(text: &str) -> String {
    let known = [
        ("Failed to parse the request body as JSON: ", "malformed JSON: "),
        ("Failed to deserialize the JSON body into the target type: ", "the request body is not valid: "),
        ("Failed to deserialize query string: ", "the query string is not valid: "),
    ];
    for (theirs, ours) in known {
        if let Some(rest) = text.strip_prefix(theirs) {
            return format!("{ours}{rest}");
        }
    }
    text.to_owned()
}
