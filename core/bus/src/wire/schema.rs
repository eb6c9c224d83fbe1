//! The protobuf messages of the bus. `core/bus/proto/sightline.proto` shows them to programs in other
//! languages.
//!
//! Tags are permanent: a field that is no longer used keeps its number, and the number is never
//! reused.

use bytes::Bytes;

/// The content of every record of every topic.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    /// [`sightline_core::message::SCHEMA_VERSION`] of the writer.
    #[prost(uint32, tag = "1")]
    pub schema: u32,
    /// Name of the process that created the message.
    #[prost(string, tag = "2")]
    pub producer: String,
    /// Number of the message in its camera's sequence.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// Trace id: 16 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub trace: Bytes,
    /// Id of the camera; also the key of the record.
    #[prost(string, tag = "5")]
    pub camera: String,
    /// The message.
    #[prost(oneof = "Payload", tags = "10, 11, 12, 13, 14")]
    pub payload: Option<Payload>,
}

/// The kinds of messages.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Payload {
    /// A picture to embed.
    #[prost(message, tag = "10")]
    Crop(Crop),
    /// The time span of a track.
    #[prost(message, tag = "11")]
    TrackEnd(TrackEnd),
    /// Footage analysed so far.
    #[prost(message, tag = "12")]
    Progress(Progress),
    /// A picture with its features.
    #[prost(message, tag = "13")]
    Sighting(Sighting),
    /// State and counts of a camera on its node. From schema 2.
    #[prost(message, tag = "14")]
    Report(Report),
}

/// A track: birth time in microseconds since 1970 (UTC) and ordinal in that frame.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Track {
    /// Birth.
    #[prost(sint64, tag = "1")]
    pub born: i64,
    /// Ordinal.
    #[prost(uint32, tag = "2")]
    pub ordinal: u32,
}

/// See [`sightline_core::message::Crop`]; times in microseconds since 1970 (UTC), boxes in source pixels.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Crop {
    /// Its track.
    #[prost(message, optional, tag = "1")]
    pub track: Option<Track>,
    /// Slot in the track.
    #[prost(uint32, tag = "2")]
    pub crop_no: u32,
    /// Capture time.
    #[prost(sint64, tag = "3")]
    pub captured_at: i64,
    /// Last frame of the track so far.
    #[prost(sint64, tag = "4")]
    pub last_seen: i64,
    /// x0, y0, x1, y1.
    #[prost(float, repeated, tag = "5")]
    pub bbox: Vec<f32>,
    /// Width of the frame.
    #[prost(uint32, tag = "6")]
    pub frame_width: u32,
    /// Height of the frame.
    #[prost(uint32, tag = "7")]
    pub frame_height: u32,
    /// Score, detector, size, sharpness, completeness, each in 0..=1.
    #[prost(float, repeated, tag = "8")]
    pub quality: Vec<f32>,
    /// The picture.
    #[prost(bytes = "bytes", tag = "9")]
    pub jpeg: Bytes,
}

/// See [`sightline_core::message::TrackEnd`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TrackEnd {
    /// The track.
    #[prost(message, optional, tag = "1")]
    pub track: Option<Track>,
    /// First frame.
    #[prost(sint64, tag = "2")]
    pub first_seen: i64,
    /// Last frame so far.
    #[prost(sint64, tag = "3")]
    pub last_seen: i64,
    /// The track is over.
    #[prost(bool, tag = "4")]
    pub ended: bool,
}

/// See [`sightline_core::message::Progress`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Progress {
    /// Connection of the camera.
    #[prost(uint64, tag = "1")]
    pub connection: u64,
    /// Newest analysed frame.
    #[prost(sint64, tag = "2")]
    pub analysed_through: i64,
    /// The footage has ended.
    #[prost(bool, tag = "3")]
    pub ended: bool,
}

/// See [`sightline_core::message::NodeReport`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// When it was written.
    #[prost(sint64, tag = "1")]
    pub at: i64,
    /// State of the camera.
    #[prost(enumeration = "State", tag = "2")]
    pub state: i32,
    /// Why.
    #[prost(string, optional, tag = "3")]
    pub reason: Option<String>,
    /// Since when.
    #[prost(sint64, tag = "4")]
    pub since: i64,
    /// Connection of the camera.
    #[prost(uint64, tag = "5")]
    pub connection: u64,
    /// Frames decoded.
    #[prost(uint64, tag = "6")]
    pub frames_decoded: u64,
    /// Frames analysed.
    #[prost(uint64, tag = "7")]
    pub frames_analysed: u64,
    /// Frames dropped.
    #[prost(uint64, tag = "8")]
    pub frames_dropped: u64,
    /// Pictures published.
    #[prost(uint64, tag = "9")]
    pub crops: u64,
    /// Pictures dropped.
    #[prost(uint64, tag = "10")]
    pub crops_dropped: u64,
    /// Seconds until the next attempt.
    #[prost(double, optional, tag = "11")]
    pub retry_in_s: Option<f64>,
    /// Bytes waiting on the node's disk.
    #[prost(uint64, tag = "12")]
    pub spooled_bytes: u64,
}

/// See [`sightline_core::camera::CameraState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum State {
    /// Never written: a missing field must not read as a state.
    Unknown = 0,
    /// No frame yet.
    Connecting = 1,
    /// Frames arrive.
    Decoding = 2,
    /// Waiting for the next attempt.
    Retrying = 3,
    /// No attempt will help.
    Failed = 4,
    /// The footage is over.
    Ended = 5,
}

/// See [`sightline_core::message::Sighting`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sighting {
    /// The picture.
    #[prost(message, optional, tag = "1")]
    pub crop: Option<Crop>,
    /// Id of the model.
    #[prost(string, tag = "2")]
    pub model_id: String,
    /// Global feature of length 1.
    #[prost(float, repeated, tag = "3")]
    pub feature: Vec<f32>,
    /// For re-ranking.
    #[prost(message, optional, tag = "4")]
    pub patches: Option<Patches>,
}

/// Patch features, row by row.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Patches {
    /// 1 + number of patches.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Numbers of a row.
    #[prost(uint32, tag = "2")]
    pub width: u32,
    /// Encoding of `data`.
    #[prost(enumeration = "Coding", tag = "3")]
    pub coding: i32,
    /// f16 little-endian, or one signed byte per number.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// With int8: the factor of each row's bytes, one per row.
    #[prost(float, repeated, tag = "5")]
    pub scales: Vec<f32>,
}

/// Encoding of patch features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Coding {
    /// Half precision, exact.
    F16 = 0,
    /// A signed byte per number and a scale per row: half the bytes.
    Int8 = 1,
}
