//! `/v1/erasures`: erase people by camera, by camera and time, or by sighting, and follow the job.
//! The limits that need no look-up are checked here; everything else is the [`Desk`]'s.

use axum::Json;
use axum::http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, SightingId, Timestamp};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::desk::{Admin, Desk, ErasureOrder, ErasureTarget, ErasureView};
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery};

/// Largest number of sightings in one request.
const MAX_SIGHTINGS: usize = 1000;

/// Largest number of characters of a purpose.
const MAX_PURPOSE: usize = 1000;

/// Largest and default number of jobs in a list.
const MAX_LIST: usize = 1000;
const LIST: usize = 100;

/// Erasure to start: either of a camera, in a span of capture times or without, or of sightings.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewErasure {
    /// Camera whose people are erased. The camera goes on; `DELETE /v1/cameras/{id}` removes it.
    #[schema(value_type = Option<String>)]
    pub camera: Option<CameraId>,
    /// With `camera`: earliest capture time, inclusive.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// With `camera`: latest capture time, inclusive; by default and at most the present.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Sightings to erase, with all pictures of their tracks: 1 to 1000.
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    pub sightings: Option<Vec<SightingId>>,
    /// Purpose, for the audit trail.
    #[schema(max_length = 1000)]
    pub purpose: Option<String>,
}

/// Page of erasure jobs; there are no further ones.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureList {
    /// Jobs, newest first.
    pub erasures: Vec<ErasureView>,
}

/// Options of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Largest number of jobs.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
}

fn path(id: Uuid) -> String {
    format!("/v1/erasures/{id}")
}

/// Starts an erasure. The answer comes at once, with the job; from then on nothing of it is found,
/// and the job's receipt says when everything is deleted.
#[utoipa::path(post, path = "/v1/erasures", tag = "erasures", request_body = NewErasure,
    responses((status = 202, body = ErasureView, headers(("location" = String, description = "path of the job"))),
              (status = 404, body = ErrorBody, description = "none of the sightings is there")))]
pub async fn start(
    desk: Desk<Admin>,
    ApiJson(new): ApiJson<NewErasure>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<ErasureView>), Error> {
    let job = desk.start_erasure(validate(new)?).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, path(job.id))], Json(job)))
}

/// Validates everything that needs no look-up.
fn validate(new: NewErasure) -> Result<ErasureOrder, Error> {
    if new.purpose.as_ref().is_some_and(|p| p.chars().count() > MAX_PURPOSE) {
        return Err(Error::Invalid(format!("purpose has more than {MAX_PURPOSE} characters")));
    }
    let target = match (new.camera, new.sightings) {
        (Some(camera), None) => ErasureTarget::Camera { camera, from: new.from, to: new.to },
        (None, Some(ids)) => {
            if new.from.is_some() || new.to.is_some() {
                return Err(Error::Invalid("from and to belong to camera, not to sightings".into()));
            }
            if !(1..=MAX_SIGHTINGS).contains(&ids.len()) {
                return Err(Error::Invalid(format!("sightings: name 1 to {MAX_SIGHTINGS} of them")));
            }
            ErasureTarget::Sightings(ids)
        }
        _ => return Err(Error::Invalid("name either a camera or sightings".into())),
    };
    Ok(ErasureOrder { target, purpose: new.purpose })
}

/// Returns an erasure job, with its receipt when it is done.
#[utoipa::path(get, path = "/v1/erasures/{id}", tag = "erasures", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = ErasureView), (status = 404, body = ErrorBody)))]
pub async fn get(desk: Desk<Admin>, ApiPath(id): ApiPath<Uuid>) -> Result<Json<ErasureView>, Error> {
    Ok(Json(desk.erasure(id).await?))
}

/// Lists the erasure jobs, newest first.
#[utoipa::path(get, path = "/v1/erasures", tag = "erasures", params(ListParams),
    responses((status = 200, body = ErasureList)))]
pub async fn list(desk: Desk<Admin>, ApiQuery(params): ApiQuery<ListParams>) -> Result<Json<ErasureList>, Error> {
    let limit = params.limit.unwrap_or(LIST);
    if !(1..=MAX_LIST).contains(&limit) {
        return Err(Error::Invalid(format!("limit {limit} is out of range: 1 to {MAX_LIST}")));
    }
    Ok(Json(ErasureList { erasures: desk.erasures(limit).await? }))
}
