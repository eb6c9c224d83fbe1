//! Payload of a picture beside its vector, and the forms in which points are returned.

use serde::{Deserialize, Serialize};
use sightline_core::message::Sighting;
use sightline_core::{BBox, CameraId, CropQuality, SightingId, Timestamp, TrackId};
use uuid::Uuid;

use crate::picture::{CropHash, PictureKey};

/// Metadata of one picture, stored as JSON. Times are whole microseconds since the Unix epoch, so
/// that the store can compare them (exactly up to 2^53 us, the year 2255).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    /// Id of the camera.
    pub camera: CameraId,
    /// Id of the track, unique within its camera.
    pub track: TrackId,
    /// Slot of the picture in its track, from 0.
    pub crop_no: u8,
    /// Capture time of the picture.
    #[serde(with = "micros")]
    pub captured_at: Timestamp,
    /// Capture time of the first frame of the track.
    #[serde(with = "micros")]
    pub first_seen: Timestamp,
    /// Capture time of the last frame in which the track was seen, as far as known.
    #[serde(with = "micros")]
    pub last_seen: Timestamp,
    /// Whether the track has ended.
    pub ended: bool,
    /// Bounding box of the person, in source pixels.
    pub bbox: BBox,
    /// Width and height of the source frame in pixels.
    pub frame_size: (u32, u32),
    /// Quality of the picture of the person.
    pub quality: CropQuality,
    /// Id of the model that computed the vector.
    pub model_id: String,
    /// Trace id of the crop, as in every stage's log.
    pub trace: Uuid,
    /// Hash of the JPEG; `None` for a picture that an earlier version stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<CropHash>,
}

impl Payload {
    /// Widens the track's time span to include `first..=last`, and keeps that the track has ended,
    /// so that redelivered or late messages never narrow it.
    pub fn widen(&mut self, first: Timestamp, last: Timestamp, ended: bool) {
        self.first_seen = self.first_seen.min(first);
        self.last_seen = self.last_seen.max(last);
        self.ended |= ended;
    }
}

/// A picture with its vector, to be stored under an id of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Id of the sighting.
    pub id: SightingId,
    /// Global feature, f32, as wide as the store, of any length but zero: the store normalises it.
    pub vector: Vec<f32>,
    /// Metadata of the picture.
    pub payload: Payload,
}

impl Point {
    /// Returns the key of the picture in the gallery.
    pub fn key(&self) -> PictureKey {
        PictureKey { id: self.id, crop: self.payload.crop }
    }
}

impl From<&Sighting> for Point {
    /// The track's span starts at its birth, which its id contains, and ends at the last frame
    /// known so far.
    fn from(s: &Sighting) -> Self {
        let crop = &s.crop;
        let payload = Payload {
            camera: crop.camera.clone(),
            track: crop.track,
            crop_no: crop.crop_no,
            captured_at: crop.captured_at,
            first_seen: crop.track.born.min(crop.captured_at),
            last_seen: crop.last_seen.max(crop.captured_at),
            ended: false,
            bbox: crop.bbox,
            frame_size: crop.frame_size,
            quality: crop.quality,
            model_id: s.model_id.clone(),
            trace: crop.origin.trace,
            crop: Some(CropHash::of(&crop.jpeg)),
        };
        Self { id: s.id(), vector: s.feature.clone(), payload }
    }
}

/// A stored picture without its vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Id of the sighting.
    pub id: SightingId,
    /// Metadata of the picture.
    pub payload: Payload,
}

impl Record {
    /// Returns the key of the picture in the gallery.
    pub fn key(&self) -> PictureKey {
        PictureKey { id: self.id, crop: self.payload.crop }
    }
}

/// A picture found by a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Id of the sighting.
    pub id: SightingId,
    /// Cosine to the query, -1..=1.
    pub cosine: f32,
    /// Metadata of the picture.
    pub payload: Payload,
}

impl Scored {
    /// Returns the key of the picture in the gallery.
    pub fn key(&self) -> PictureKey {
        PictureKey { id: self.id, crop: self.payload.crop }
    }
}

/// Number and time span of a camera's stored pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraExtent {
    /// Id of the camera.
    pub camera: CameraId,
    /// Number of stored pictures.
    pub points: u64,
    /// Capture time of the oldest picture.
    pub first: Timestamp,
    /// Capture time of the newest picture.
    pub last: Timestamp,
}

/// Serializes times as integers.
mod micros {
    use serde::{Deserialize, Deserializer, Serializer};
    use sightline_core::Timestamp;

    pub fn serialize<S: Serializer>(t: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(t.as_micros())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(d).map(Timestamp::from_micros)
    }
}

/// Returns the payload span of a track that was also seen from `first` to `last`, and those of
/// `points` (all pictures of the track) whose payload differs from it; `None` without a picture.
pub(super) fn widened(
    points: &[Record],
    first: Timestamp,
    last: Timestamp,
    ended: bool,
) -> Option<(Payload, Vec<SightingId>)> {
    let mut span = points.first()?.payload.clone();
    for r in points {
        span.widen(r.payload.first_seen, r.payload.last_seen, r.payload.ended);
    }
    span.widen(first, last, ended);
    let span_of = |p: &Payload| (p.first_seen, p.last_seen, p.ended);
    let stale = points.iter().filter(|r| span_of(&r.payload) != span_of(&span)).map(|r| r.id).collect();
    Some((span, stale))
}

/// Returns the smallest id behind `after`; `None` when there is none. Without `after`, the smallest
/// id of all.
pub(super) fn next_id(after: Option<SightingId>) -> Option<SightingId> {
    after.map_or(Some(Uuid::nil()), |id| id.as_u128().checked_add(1).map(Uuid::from_u128))
}
