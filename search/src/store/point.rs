//! What is stored of one picture beside its vector, and in which forms it comes back.

use serde::{Deserialize, Serialize};
use sightline_core::message::Sighting;
use sightline_core::{BBox, CameraId, CropQuality, SightingId, Timestamp, TrackId};
use uuid::Uuid;

/// What is known of one picture. Stored as JSON; times as whole microseconds since the Unix epoch, so that the store
/// can compare them (its comparisons are exact up to 2^53 us, the year 2255).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    /// The camera.
    pub camera: CameraId,
    /// The track, unique within its camera.
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
    /// The track is over.
    pub ended: bool,
    /// Where the person is, in source pixels.
    pub bbox: BBox,
    /// Width and height of the source frame in pixels.
    pub frame_size: (u32, u32),
    /// How well the picture shows the person.
    pub quality: CropQuality,
    /// Model that made the vector.
    pub model_id: String,
    /// Trace id of the crop, to be found in every stage's log.
    pub trace: Uuid,
}

impl Payload {
    /// Widens the time span of the track to include `first..=last`, and keeps that it has ended: redelivered or late
    /// news never take anything back.
    pub fn widen(&mut self, first: Timestamp, last: Timestamp, ended: bool) {
        self.first_seen = self.first_seen.min(first);
        self.last_seen = self.last_seen.max(last);
        self.ended |= ended;
    }
}

/// One picture to store.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The sighting.
    pub id: SightingId,
    /// Global feature, f32, as wide as the store; any length but zero, the store normalises it.
    pub vector: Vec<f32>,
    /// What is known of it.
    pub payload: Payload,
}

impl From<&Sighting> for Point {
    /// The track's span starts at its birth, which its id carries, and reaches to the last frame known so far.
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
        };
        Self { id: s.id(), vector: s.feature.clone(), payload }
    }
}

/// One stored picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The sighting.
    pub id: SightingId,
    /// What is known of it.
    pub payload: Payload,
}

/// One picture found, with how near it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The sighting.
    pub id: SightingId,
    /// Cosine to the query, -1..=1.
    pub cosine: f32,
    /// What is known of it.
    pub payload: Payload,
}

/// What the store holds of one camera.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraExtent {
    /// The camera.
    pub camera: CameraId,
    /// Pictures stored.
    pub points: u64,
    /// Capture time of the oldest picture.
    pub first: Timestamp,
    /// Capture time of the newest picture.
    pub last: Timestamp,
}

/// Times as integers, whatever their form elsewhere.
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

/// What a track's pictures say when it was seen from `first` to `last` too, and those of `points`, all of them the track's, that
/// do not say so yet; none without a picture.
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
    let said = |p: &Payload| (p.first_seen, p.last_seen, p.ended);
    let stale = points.iter().filter(|r| said(&r.payload) != said(&span)).map(|r| r.id).collect();
    Some((span, stale))
}
