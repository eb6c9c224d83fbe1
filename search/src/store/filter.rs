//! Filter: the pictures that a request is about. It is evaluated inside the vector search, never
//! after it: a filter applied to the nearest hundred loses every true hit behind them.

use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

use super::{Payload, Record, Scope};

/// Conditions that must all hold; an omitted condition restricts nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Any of these cameras. An empty list matches nothing.
    pub cameras: Option<Vec<CameraId>>,
    /// Earliest capture time of the picture, inclusive.
    pub from: Option<Timestamp>,
    /// Latest capture time of the picture, inclusive.
    pub to: Option<Timestamp>,
    /// The track was in view at or after this time: its last frame is not earlier. With
    /// `seen_to` it overlaps the time asked for, wherever in it its pictures were taken.
    pub seen_from: Option<Timestamp>,
    /// The track was in view at or before this time: its first frame is not later.
    pub seen_to: Option<Timestamp>,
    /// Any of these pictures. An empty list matches nothing.
    pub ids: Option<Vec<SightingId>>,
    /// Pictures of this track. Track ids are unique within their camera.
    pub track: Option<(CameraId, TrackId)>,
    /// Excluded pictures.
    pub exclude: Vec<SightingId>,
    /// Excluded scopes: those whose erasure is not finished.
    pub except: Vec<Scope>,
}

impl Filter {
    /// Creates a filter for the pictures of one camera.
    pub fn camera(camera: CameraId) -> Self {
        Self { cameras: Some(vec![camera]), ..Self::default() }
    }

    /// Creates a filter for the pictures of one track.
    pub fn track(camera: CameraId, track: TrackId) -> Self {
        Self { track: Some((camera, track)), ..Self::default() }
    }

    /// Creates a filter for these pictures.
    pub fn ids(ids: Vec<SightingId>) -> Self {
        Self { ids: Some(ids), ..Self::default() }
    }

    /// Whether a picture matches: the reference definition for every store.
    pub fn matches(&self, id: SightingId, payload: &Payload) -> bool {
        self.cameras.as_ref().is_none_or(|c| c.contains(&payload.camera))
            && self.from.is_none_or(|t| payload.captured_at >= t)
            && self.to.is_none_or(|t| payload.captured_at <= t)
            && self.seen_from.is_none_or(|t| payload.last_seen >= t)
            && self.seen_to.is_none_or(|t| payload.first_seen <= t)
            && self.ids.as_ref().is_none_or(|i| i.contains(&id))
            && self.track.as_ref().is_none_or(|(c, t)| payload.camera == *c && payload.track == *t)
            && !self.exclude.contains(&id)
            && !self.except.iter().any(|scope| scope.holds(payload))
    }

    /// Whether no picture can match.
    pub fn matches_nothing(&self) -> bool {
        self.cameras.as_ref().is_some_and(Vec::is_empty)
            || self.ids.as_ref().is_some_and(Vec::is_empty)
            || matches!((self.from, self.to), (Some(from), Some(to)) if from > to)
    }

    /// Whether every picture matches, except those excluded by id or scope.
    pub fn is_unrestricted(&self) -> bool {
        self.cameras.is_none()
            && [self.from, self.to, self.seen_from, self.seen_to].iter().all(Option::is_none)
            && self.ids.is_none()
            && self.track.is_none()
    }

    /// Returns the filter for the page after `page`, which [`super::VectorStore::newest`] returned
    /// for this filter; `None` when the page was empty and nothing can follow.
    pub fn after(&self, page: &[Record]) -> Option<Self> {
        let last = page.last()?.payload.captured_at;
        // Pictures with the same capture time may lie on both sides of the page's edge; those
        // already returned are excluded by id.
        let mut next = Self { to: Some(last), ..self.clone() };
        next.exclude.extend(page.iter().filter(|r| r.payload.captured_at == last).map(|r| r.id));
        Some(next)
    }
}
