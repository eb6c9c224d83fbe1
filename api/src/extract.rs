//! Extractors whose rejections are our own errors: malformed JSON, an unknown field or a bad path segment answers with
//! `{code, message, request_id}` like everything else.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::auth::Caller;
use crate::error::Error;

/// A JSON body.
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for ApiJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self, Error> {
        match Json::<T>::from_request(request, app).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Error::UnsupportedMediaType),
            Err(r) if r.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Error::BodyTooLarge(app.server().max_body_bytes))
            }
            Err(r) => Err(Error::Invalid(plain(&r.body_text()))),
        }
    }
}

/// The query string.
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for ApiQuery<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        match Query::<T>::from_request_parts(parts, app).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(r) => Err(Error::Invalid(plain(&r.body_text()))),
        }
    }
}

/// Segments of the path.
pub struct ApiPath<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for ApiPath<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        match Path::<T>::from_request_parts(parts, app).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(r) => Err(Error::Invalid(plain(&r.body_text()))),
        }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Error> {
        // Only a route outside the authenticating layer gets here without a caller: a fault of ours, refused.
        parts.extensions.get::<Self>().cloned().ok_or(Error::Unauthorized("this route knows no caller"))
    }
}

/// The framework's message without its preamble, which speaks of Rust types.
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
