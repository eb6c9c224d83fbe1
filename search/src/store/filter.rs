//! Which pictures a question is about. Evaluated inside the vector search, never after it: a filter applied to the
//! nearest hundred loses every true hit that lies behind them.

use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

use super::{Payload, Record};

/// All conditions hold at once; what is left out restricts nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// One of these cameras. An empty list matches nothing.
    pub cameras: Option<Vec<CameraId>>,
    /// Captured at or after.
    pub from: Option<Timestamp>,
    /// Captured at or before.
    pub to: Option<Timestamp>,
    /// One of these pictures. An empty list matches nothing.
    pub ids: Option<Vec<SightingId>>,
    /// Pictures of this track. Tracks are unique within their camera.
    pub track: Option<(CameraId, TrackId)>,
    /// None of these pictures.
    pub exclude: Vec<SightingId>,
}

impl Filter {
    /// Pictures of one camera.
    pub fn camera(camera: CameraId) -> Self {
        Self { cameras: Some(vec![camera]), ..Self::default() }
    }

    /// Pictures of one track.
    pub fn track(camera: CameraId, track: TrackId) -> Self {
        Self { track: Some((camera, track)), ..Self::default() }
    }

    /// These pictures.
    pub fn ids(ids: Vec<SightingId>) -> Self {
        Self { ids: Some(ids), ..Self::default() }
    }

    /// Whether a picture is meant: the definition that every store has to follow.
    pub fn matches(&self, id: SightingId, payload: &Payload) -> bool {
        self.cameras.as_ref().is_none_or(|c| c.contains(&payload.camera))
            && self.from.is_none_or(|t| payload.captured_at >= t)
            && self.to.is_none_or(|t| payload.captured_at <= t)
            && self.ids.as_ref().is_none_or(|i| i.contains(&id))
            && self.track.as_ref().is_none_or(|(c, t)| payload.camera == *c && payload.track == *t)
            && !self.exclude.contains(&id)
    }

    /// Whether no picture at all can match.
    pub fn matches_nothing(&self) -> bool {
        self.cameras.as_ref().is_some_and(Vec::is_empty)
            || self.ids.as_ref().is_some_and(Vec::is_empty)
            || matches!((self.from, self.to), (Some(from), Some(to)) if from > to)
    }

    /// Whether every picture matches, but for those excluded by name.
    pub fn is_unrestricted(&self) -> bool {
        self.cameras.is_none() && self.from.is_none() && self.to.is_none() && self.ids.is_none() && self.track.is_none()
    }

    /// The same filter for the page behind `page`, which came from [`super::VectorStore::newest`] with this filter.
    /// `None` when the page was empty and nothing can follow.
    pub fn after(&self, page: &[Record]) -> Option<Self> {
        let last = page.last()?.payload.captured_at;
        // Pictures of one moment may lie on both sides of the page's edge: those seen are left out by name.
        let mut next = Self { to: Some(last), ..self.clone() };
        next.exclude.extend(page.iter().filter(|r| r.payload.captured_at == last).map(|r| r.id));
        Some(next)
    }
}
