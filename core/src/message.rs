//! The messages between stages: crops and track ends from camera nodes, sightings from the
//! embedder.
//!
//! Every message carries its schema version, producer, a per-camera sequence number and a trace id.
//! A reader can tell what it reads, from whom, and what is missing, and can follow one crop through
//! every log.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::sighting_id;
use crate::{BBox, CameraId, CameraState, SightingId, Timestamp, TrackId};

/// Version of the message layout below. 2: [`NodeReport`] was added.
pub const SCHEMA_VERSION: u16 = 2;

/// Origin of a message, and its place in the camera's sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// [`SCHEMA_VERSION`] of the producer.
    pub schema: u16,
    /// Name of the producing process, for example `ingest@host`.
    pub producer: String,
    /// Per-camera sequence number of the message, from 0 at each start of the camera.
    pub seq: u64,
    /// Follows one crop through every stage's log.
    pub trace: Uuid,
}

impl Origin {
    /// A new origin with a fresh trace id.
    pub fn new(producer: impl Into<String>, seq: u64) -> Self {
        Self { schema: SCHEMA_VERSION, producer: producer.into(), seq, trace: Uuid::new_v4() }
    }

    /// An origin whose trace id follows from the crop and the sequence number, so that a replay of
    /// the same footage repeats the messages to the last bit.
    pub fn of_crop(producer: impl Into<String>, seq: u64, crop: SightingId) -> Self {
        let trace = Uuid::new_v5(&crop, &seq.to_le_bytes());
        Self { schema: SCHEMA_VERSION, producer: producer.into(), seq, trace }
    }

    /// As [`Origin::of_crop`], for a message about a camera as a whole.
    pub fn of_camera(producer: impl Into<String>, seq: u64, camera: &CameraId) -> Self {
        Self::of_crop(producer, seq, Uuid::new_v5(&Uuid::NAMESPACE_OID, camera.as_str().as_bytes()))
    }
}

/// Quality of a crop: how well it shows its person. Every part lies in 0..=1; larger is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CropQuality {
    /// The weighted total, by which crops of one track are compared.
    pub score: f32,
    /// Detector score.
    pub detector: f32,
    /// Pixel height relative to the height at which more pixels stop helping.
    pub size: f32,
    /// Local contrast (variance of the Laplacian), saturating.
    pub sharpness: f32,
    /// Not cut off by the frame's edge, not covered by another person's box, plausible aspect.
    pub completeness: f32,
}

/// One picture of one tracked person.
#[derive(Clone, Debug, PartialEq)]
pub struct Crop {
    /// Schema, producer, sequence, trace.
    pub origin: Origin,
    /// The camera.
    pub camera: CameraId,
    /// The track.
    pub track: TrackId,
    /// Slot of the crop in its track: 0, 1 or 2. A better crop for a slot replaces the earlier one
    /// under the same id.
    pub crop_no: u8,
    /// Capture time of this picture.
    pub captured_at: Timestamp,
    /// Capture time of the last frame in which the track was seen, when this crop was published.
    pub last_seen: Timestamp,
    /// Where the person is, in source pixels.
    pub bbox: BBox,
    /// Width and height of the source frame in pixels.
    pub frame_size: (u32, u32),
    /// How well it shows the person.
    pub quality: CropQuality,
    /// The picture, JPEG.
    pub jpeg: Bytes,
}

impl Crop {
    /// Point id of this crop.
    pub fn id(&self) -> SightingId {
        sighting_id(&self.camera, self.track, self.crop_no)
    }
}

/// The time span of a track that has at least one crop. It is sent about every ten seconds of
/// footage while the track lives, so that the index knows of a person who stands still, and once
/// more at its end; the last one counts.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackEnd {
    /// Schema, producer, sequence, trace.
    pub origin: Origin,
    /// The camera.
    pub camera: CameraId,
    /// The track.
    pub track: TrackId,
    /// Capture time of the first frame of the track.
    pub first_seen: Timestamp,
    /// Capture time of the last frame in which the track was seen so far.
    pub last_seen: Timestamp,
    /// Whether the track has ended: no more crops will come, and the span is final.
    pub ended: bool,
}

/// Patch features of one picture after the vision encoder's final norm, CLS first: `rows` x
/// `width`, row-major, f16.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchFeatures {
    /// 1 + number of patches.
    pub rows: u32,
    /// Width of the vision encoder (`architecture.vision_width` of the model folder's config.json).
    pub width: u32,
    /// `rows * width` IEEE half-precision values, little-endian.
    pub data: Bytes,
}

/// A crop with its features: what the index stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// The picture and what is known of it.
    pub crop: Crop,
    /// Id (hash) of the model that made the features.
    pub model_id: String,
    /// L2-normalised global feature, f32.
    pub feature: Vec<f32>,
    /// What the decoder needs to re-rank this picture.
    pub patches: PatchFeatures,
}

impl Sighting {
    /// Point id: that of the crop.
    pub fn id(&self) -> SightingId {
        self.crop.id()
    }
}

/// How far a camera's footage has been analysed: a watermark. It follows the crops of that footage
/// in order, so when it reaches the index, everything before it is searchable.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Schema, producer, sequence, trace.
    pub origin: Origin,
    /// The camera.
    pub camera: CameraId,
    /// Number of the camera's connection, from 0 at process start: distinguishes footage before and
    /// after a reconnect.
    pub connection: u64,
    /// Capture time of the newest analysed frame.
    pub analysed_through: Timestamp,
    /// Whether the footage has ended (files): no more will come from this connection.
    pub ended: bool,
}

/// State and counts of a camera on its node, drops included, sent every few seconds and at every
/// change of state. It travels with the footage, so that every reader of the index knows of every
/// camera.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Schema, producer (the node), sequence, trace.
    pub origin: Origin,
    /// The camera.
    pub camera: CameraId,
    /// When the node wrote this, by its clock.
    pub at: Timestamp,
    /// State of the camera.
    pub state: CameraState,
    /// Reason of the state, if there is one.
    pub reason: Option<String>,
    /// When the camera entered this state.
    pub since: Timestamp,
    /// Number of the current (or last) connection, from 0.
    pub connection: u64,
    /// Frames decoded since the node started.
    pub frames_decoded: u64,
    /// Frames analysed.
    pub frames_analysed: u64,
    /// Frames that should have been analysed and were dropped.
    pub frames_dropped: u64,
    /// Pictures published.
    pub crops: u64,
    /// Pictures dropped because the embedder or the broker is too slow, or the outbox is full.
    pub crops_dropped: u64,
    /// Seconds until the next attempt, while [`CameraState::Retrying`].
    pub retry_in_s: Option<f64>,
    /// Bytes that wait for the broker on the node's disk, over all cameras of the node.
    pub spooled_bytes: u64,
}

impl NodeReport {
    /// A report on a camera that the node does not run: `failed`, with the reason.
    pub fn refused(origin: Origin, camera: CameraId, reason: String, since: Timestamp) -> Self {
        Self {
            origin,
            camera,
            at: Timestamp::now(),
            state: CameraState::Failed,
            reason: Some(reason),
            since,
            connection: 0,
            frames_decoded: 0,
            frames_analysed: 0,
            frames_dropped: 0,
            crops: 0,
            crops_dropped: 0,
            retry_in_s: None,
            spooled_bytes: 0,
        }
    }

    /// A report on a camera that no node can run at present: `refused`, with the reason.
    pub fn unplaced(origin: Origin, camera: CameraId, reason: String, since: Timestamp) -> Self {
        Self { state: CameraState::Refused, ..Self::refused(origin, camera, reason, since) }
    }
}

/// What a camera node sends to the embedder, in order per camera.
#[derive(Clone, Debug, PartialEq)]
pub enum CameraEvent {
    /// A picture to embed.
    Crop(Crop),
    /// The time span of a track, final or so far.
    TrackEnd(TrackEnd),
    /// Footage analysed so far.
    Progress(Progress),
    /// State and counts of the camera.
    Report(NodeReport),
}

impl CameraEvent {
    /// The camera it is about.
    pub fn camera(&self) -> &CameraId {
        match self {
            Self::Crop(c) => &c.camera,
            Self::TrackEnd(e) => &e.camera,
            Self::Progress(p) => &p.camera,
            Self::Report(r) => &r.camera,
        }
    }
}

/// What the embedder sends to the index, in the order of the [`CameraEvent`]s.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexEvent {
    /// A picture with its features, to store.
    Sighting(Box<Sighting>),
    /// The time span of a track to store, final or so far.
    TrackEnd(TrackEnd),
    /// The watermark of the camera: every event before it has been passed on.
    Progress(Progress),
    /// State and counts of the camera on its node.
    Report(NodeReport),
}

impl IndexEvent {
    /// The camera it is about.
    pub fn camera(&self) -> &CameraId {
        match self {
            Self::Sighting(s) => &s.crop.camera,
            Self::TrackEnd(e) => &e.camera,
            Self::Progress(p) => &p.camera,
            Self::Report(r) => &r.camera,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_of_a_replay_repeat() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(Origin::of_crop("p", 3, a), Origin::of_crop("p", 3, a));
        assert_ne!(Origin::of_crop("p", 3, a).trace, Origin::of_crop("p", 4, a).trace);
        assert_ne!(Origin::of_crop("p", 3, a).trace, Origin::of_crop("p", 3, b).trace);
    }

    #[test]
    fn crop_id_ignores_what_may_change_between_deliveries() {
        let crop = Crop {
            origin: Origin::new("test", 0),
            camera: "gate".parse().expect("valid"),
            track: TrackId { born: Timestamp::from_micros(1), ordinal: 0 },
            crop_no: 1,
            captured_at: Timestamp::from_micros(2),
            last_seen: Timestamp::from_micros(2),
            bbox: BBox::default(),
            frame_size: (640, 480),
            quality: CropQuality::default(),
            jpeg: Bytes::new(),
        };
        let again = Crop { origin: Origin::new("other", 9), captured_at: Timestamp::from_micros(3), ..crop.clone() };
        assert_eq!(crop.id(), again.id());
        assert_ne!(crop.id(), Crop { crop_no: 2, ..crop.clone() }.id());
    }
}
