//! Scope of an erasure: the pictures of one camera, or of one of its tracks, captured in a span of
//! time. Everything that is erased is named by scopes, never by a list of all ids: a scope says as
//! much about pictures that arrive later.

use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, Timestamp, TrackId};

use super::{Filter, Payload};

/// Pictures to erase. An omitted condition restricts nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Id of the camera.
    pub camera: CameraId,
    /// Only this track.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<TrackId>,
    /// Earliest capture time, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Latest capture time, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

impl Scope {
    /// Creates the scope of everything that a camera records.
    pub fn camera(camera: CameraId) -> Self {
        Self { camera, track: None, from: None, to: None }
    }

    /// Creates the scope of one track.
    pub fn track(camera: CameraId, track: TrackId) -> Self {
        Self { track: Some(track), ..Self::camera(camera) }
    }

    /// Returns the filter that matches exactly the stored pictures of this scope.
    pub fn filter(&self) -> Filter {
        let track = self.track.map(|track| (self.camera.clone(), track));
        Filter { cameras: Some(vec![self.camera.clone()]), track, from: self.from, to: self.to, ..Filter::default() }
    }

    /// Whether a picture of this camera, track and capture time belongs to the scope.
    pub fn covers(&self, camera: &CameraId, track: TrackId, captured_at: Timestamp) -> bool {
        self.camera == *camera
            && self.track.is_none_or(|own| own == track)
            && self.from.is_none_or(|from| captured_at >= from)
            && self.to.is_none_or(|to| captured_at <= to)
    }

    /// Whether a stored picture belongs to the scope.
    pub fn holds(&self, payload: &Payload) -> bool {
        self.covers(&payload.camera, payload.track, payload.captured_at)
    }

    /// Whether the scope may hold an earlier picture of this track, whose capture time is not
    /// known: its span of time overlaps that of the track.
    pub fn may_hold_earlier(&self, payload: &Payload) -> bool {
        self.camera == payload.camera
            && self.track.is_none_or(|own| own == payload.track)
            && self.from.is_none_or(|from| payload.last_seen >= from)
            && self.to.is_none_or(|to| payload.first_seen <= to)
    }

    /// Returns the filter that matches the stored pictures of all tracks that
    /// [`Scope::may_hold_earlier`] is true of; `None` when those are the pictures of the scope.
    pub fn earlier_filter(&self) -> Option<Filter> {
        if self.from.is_none() && self.to.is_none() {
            return None;
        }
        let own = self.filter();
        Some(Filter { seen_from: own.from, seen_to: own.to, from: None, to: None, ..own })
    }
}
