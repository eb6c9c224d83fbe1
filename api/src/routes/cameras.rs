//! `/v1/cameras`: list, add and remove cameras at run time. A removal erases the camera's people
//! unless the request keeps them.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, CameraUrl, Timestamp};
use utoipa::{IntoParams, ToSchema};

use crate::cameras::CameraView;
use crate::desk::{Admin, Desk, Removal, Viewer};
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery};
use crate::state::Role;

/// Cameras that the token may see.
#[derive(Debug, Serialize, ToSchema)]
pub struct CameraList {
    /// Cameras, ordered by id.
    pub cameras: Vec<CameraView>,
    /// Role of the calling token, so that a page offers only what the token permits.
    pub role: Role,
}

/// Camera to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCamera {
    /// Immutable id: 1 to 64 of `a-z 0-9 - _`.
    #[schema(value_type = String)]
    pub id: CameraId,
    /// Address: `rtsp://`, `http(s)://`, `file:...`, `v4l2:///dev/...` or `videotestsrc://`.
    #[schema(value_type = String)]
    pub url: CameraUrl,
    /// Analysed frames per second; overrides `ingest.fps`.
    pub fps: Option<f64>,
    /// Files only: capture time of the first frame; default: the file's modification time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub start_time: Option<Timestamp>,
    /// Files only: start again at the end.
    #[serde(default, rename = "loop")]
    pub looped: bool,
    /// Files only: play at recording speed (default), or with `false` as fast as the machine can.
    #[serde(default = "yes")]
    pub realtime: bool,
    /// Separate roles only: name of the camera node that is to run it; by default the nodes share
    /// the cameras by their capacities.
    pub node: Option<String>,
}

fn yes() -> bool {
    true
}

/// Options of a removal.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveParams {
    /// Keep the people that the camera recorded searchable; by default they are erased.
    #[serde(default)]
    pub keep: bool,
}

/// Lists every camera that the token may see, with its state and the reason for it.
#[utoipa::path(get, path = "/v1/cameras", tag = "cameras", responses((status = 200, body = CameraList)))]
pub async fn list(desk: Desk<Viewer>) -> Result<Json<CameraList>, Error> {
    Ok(Json(CameraList { cameras: desk.cameras().await?, role: desk.role() }))
}

/// Returns one camera.
#[utoipa::path(get, path = "/v1/cameras/{id}", tag = "cameras", params(("id" = String, Path)),
    responses((status = 200, body = CameraView), (status = 404, body = ErrorBody)))]
pub async fn get(desk: Desk<Viewer>, ApiPath(id): ApiPath<CameraId>) -> Result<Json<CameraView>, Error> {
    Ok(Json(desk.camera(&id).await?))
}

/// Adds and starts a camera. The server remembers it across restarts.
#[utoipa::path(post, path = "/v1/cameras", tag = "cameras", request_body = NewCamera,
    responses((status = 201, body = CameraView), (status = 409, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn add(desk: Desk<Admin>, ApiJson(new): ApiJson<NewCamera>) -> Result<(StatusCode, Json<CameraView>), Error> {
    let camera = CameraConfig {
        id: new.id,
        url: new.url,
        fps: new.fps,
        start_time: new.start_time,
        looped: new.looped,
        realtime: new.realtime,
        node: new.node,
    };
    Ok((StatusCode::CREATED, Json(desk.add_camera(camera).await?)))
}

/// Stops a camera and erases everybody it recorded, or keeps them searchable with `keep=true`. An
/// erasure is a job: the answer comes at once, nobody of the camera is found any more from then on,
/// and other cameras can be added and removed meanwhile.
#[utoipa::path(delete, path = "/v1/cameras/{id}", tag = "cameras", params(("id" = String, Path), RemoveParams),
    responses((status = 200, body = Removal, description = "removed, its people are kept"),
              (status = 202, body = Removal, description = "its people are being erased; follow `erasure`"),
              (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn remove(
    desk: Desk<Admin>,
    ApiPath(id): ApiPath<CameraId>,
    ApiQuery(params): ApiQuery<RemoveParams>,
) -> Result<(StatusCode, Json<Removal>), Error> {
    let removal = desk.remove_camera(id, params.keep).await?;
    let status = if removal.kept { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(removal)))
}
