//! `/v1/tokens`: list, create and revoke access tokens. A secret is in the answer to its creation
//! and nowhere else.

use std::collections::BTreeSet;

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, Timestamp};
use utoipa::ToSchema;

use crate::desk::{Admin, Desk};
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiJson, ApiPath};
use crate::state::{NewToken, Role, TokenRow};

/// Largest number of characters of a token's name.
const MAX_NAME: usize = 100;

/// Access token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenView {
    /// Public id, as in the audit trail; `start` is the token that the server printed at its start.
    pub id: String,
    /// Name of the person or program that uses it.
    pub name: String,
    /// What it permits.
    pub role: Role,
    /// Cameras that it may see; `null`: all.
    #[schema(value_type = Option<Vec<String>>)]
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Whether it works: it is neither revoked nor expired.
    pub works: bool,
    /// Time of its creation.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time from which it does not work any more; `null`: it works until it is revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Time of its last use, to the minute.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// Time of its revocation.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
}

impl From<TokenRow> for TokenView {
    fn from(row: TokenRow) -> Self {
        Self {
            works: row.works(),
            id: row.id,
            name: row.name,
            role: row.role,
            cameras: row.cameras,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// Answer to a list of access tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenList {
    /// Every token ever created, oldest first.
    pub tokens: Vec<TokenView>,
}

/// Token to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// Name of the person or program that will use it.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// What it is to permit.
    pub role: Role,
    /// Limits it to these cameras; without it, all.
    #[schema(value_type = Option<Vec<String>>)]
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Time from which it does not work any more; without it, it works until it is revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// Created token.
#[derive(Serialize, ToSchema)]
pub struct CreatedToken {
    /// The token as lists show it.
    #[serde(flatten)]
    pub token: TokenView,
    /// The secret, to be sent as `Authorization: Bearer SECRET`. This answer alone has it.
    pub secret: String,
}

/// Lists every token ever created, without the secrets.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses((status = 200, body = TokenList)))]
pub async fn list(desk: Desk<Admin>) -> Result<Json<TokenList>, Error> {
    Ok(Json(TokenList { tokens: desk.tokens().await?.into_iter().map(TokenView::from).collect() }))
}

/// Creates a token. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenBody,
    responses((status = 201, body = CreatedToken)))]
pub async fn create(
    desk: Desk<Admin>,
    ApiJson(body): ApiJson<TokenBody>,
) -> Result<(StatusCode, Json<CreatedToken>), Error> {
    let (token, secret) = desk.create_token(validate(body)?).await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { token: token.into(), secret })))
}

/// Validates everything that needs no look-up.
fn validate(body: TokenBody) -> Result<NewToken, Error> {
    let name = body.name.trim().to_owned();
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err(Error::Invalid(format!("name: say in 1 to {MAX_NAME} characters who uses the token")));
    }
    if body.cameras.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(Error::Invalid("cameras is empty: name at least one, or leave it out for all".into()));
    }
    if let Some(at) = body.expires_at
        && at <= Timestamp::now()
    {
        return Err(Error::Invalid(format!("expires_at {at} is not in the future")));
    }
    Ok(NewToken { name, role: body.role, cameras: body.cameras, expires_at: body.expires_at })
}

/// Revokes a token; it stops working at once. The last token that may administer the server is
/// kept.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204, description = "revoked"),
              (status = 404, body = ErrorBody, description = "no such token works"),
              (status = 409, body = ErrorBody, description = "no other token may administer the server")))]
pub async fn revoke(desk: Desk<Admin>, ApiPath(id): ApiPath<String>) -> Result<StatusCode, Error> {
    desk.revoke_token(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
