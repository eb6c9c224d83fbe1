//! `/v1/sightings`: a stored picture with its metadata, the other pictures of its track, and the
//! JPEG.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use sightline_core::{BBox, CameraId, SightingId, Timestamp, TrackId};
use sightline_search::{CropHash, Record};
use utoipa::{IntoParams, ToSchema};

use crate::desk::{Desk, Viewer};
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiPath, ApiQuery};

/// Picture of the same track.
#[derive(Debug, Serialize, ToSchema)]
pub struct Neighbour {
    /// Id of the picture.
    #[schema(value_type = uuid::Uuid)]
    pub sighting_id: SightingId,
    /// Capture time of the picture.
    #[schema(value_type = String, format = DateTime)]
    pub captured_at: Timestamp,
    /// Path of its JPEG.
    pub thumbnail: String,
}

/// Stored picture with its metadata.
#[derive(Debug, Serialize, ToSchema)]
pub struct SightingView {
    /// Id of the picture.
    #[schema(value_type = uuid::Uuid)]
    pub sighting_id: SightingId,
    /// Id of the camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// Id of the track.
    #[schema(value_type = String)]
    pub track_id: TrackId,
    /// Capture time of the track's first frame.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// Capture time of the track's last frame so far.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// Capture time of the picture.
    #[schema(value_type = String, format = DateTime)]
    pub captured_at: Timestamp,
    /// Bounding box `[x0, y0, x1, y1]` of the person in the frame, in source pixels.
    #[serde(rename = "box")]
    #[schema(rename = "box", value_type = [f32; 4])]
    pub bbox: BBox,
    /// Quality of the picture of the person, 0 to 1.
    pub quality: f32,
    /// Path of the picture's JPEG.
    pub thumbnail: String,
    /// All pictures of the same track in order of time, including this one.
    pub track: Vec<Neighbour>,
}

/// Returns the path of a picture's JPEG.
pub(crate) fn thumbnail_path(id: SightingId, crop: Option<CropHash>) -> String {
    let path = format!("/v1/sightings/{id}/thumbnail.jpg");
    crop.map_or(path.clone(), |crop| format!("{path}?crop={crop}"))
}

/// Which picture of a sighting is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PictureParams {
    /// Hash of the picture, as in the `thumbnail` of an answer; without it, the present picture.
    #[param(value_type = Option<String>)]
    pub crop: Option<CropHash>,
}

/// Returns the metadata of a picture and the other pictures of its track.
#[utoipa::path(get, path = "/v1/sightings/{id}", tag = "sightings",
    params(("id" = uuid::Uuid, Path, description = "sighting_id of a search result")),
    responses((status = 200, body = SightingView), (status = 404, body = ErrorBody)))]
pub async fn sighting(desk: Desk<Viewer>, ApiPath(id): ApiPath<SightingId>) -> Result<Json<SightingView>, Error> {
    let (Record { payload: s, .. }, track) = desk.sighting(id).await?;
    let neighbour = |r: Record| Neighbour {
        sighting_id: r.id,
        captured_at: r.payload.captured_at,
        thumbnail: thumbnail_path(r.id, r.payload.crop),
    };
    Ok(Json(SightingView {
        sighting_id: id,
        camera: s.camera,
        track_id: s.track,
        first_seen: s.first_seen,
        last_seen: s.last_seen,
        captured_at: s.captured_at,
        bbox: s.bbox,
        quality: s.quality.score,
        thumbnail: thumbnail_path(id, s.crop),
        track: track.into_iter().map(neighbour).collect(),
    }))
}

/// Returns the picture as JPEG.
#[utoipa::path(get, path = "/v1/sightings/{id}/thumbnail.jpg", tag = "sightings",
    params(("id" = uuid::Uuid, Path, description = "sighting_id of a search result"), PictureParams),
    responses((status = 200, body = Vec<u8>, content_type = "image/jpeg"),
              (status = 404, body = ErrorBody, description = "no such sighting, or its picture was replaced over an hour ago")))]
pub async fn thumbnail(
    desk: Desk<Viewer>,
    ApiPath(id): ApiPath<SightingId>,
    ApiQuery(params): ApiQuery<PictureParams>,
) -> Result<Response, Error> {
    let jpeg = desk.picture(id, params.crop).await?;
    // A copy in a browser's cache would outlive an erasure.
    Ok(([(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "no-store")], jpeg).into_response())
}
