//! The wire format: the records of the topics `crops` and `sightings`.
//!
//! Every record is one protobuf [`schema::Envelope`]: schema version, producer, sequence number,
//! trace id, camera, and one message. A reader accepts its own version and the one before; a newer
//! one is refused with an error that names it, so that a half-upgraded system says what is wrong
//! instead of losing fields. Unknown fields are ignored. Golden bytes of every version are kept in
//! `core/bus/tests/golden/wire`, for ever.

mod convert;
mod patches;
pub mod schema;

use std::ops::RangeInclusive;

use bytes::Bytes;
use prost::Message;

pub use schema::Coding;

use schema::{Envelope, Payload};
use sightline_core::message::SCHEMA_VERSION;
use sightline_core::{CameraEvent, IndexEvent};

/// Versions that this build reads.
pub const READABLE: RangeInclusive<u16> = if SCHEMA_VERSION > 1 { SCHEMA_VERSION - 1 } else { 1 }..=SCHEMA_VERSION;

/// Largest record in bytes: a little below Kafka's default limit (`message.max.bytes`, 1,048,588),
/// which includes headers and key. A crop of 400 x 200 pixels takes 20 to 60 KB, patch features of
/// the largest model 300 KB.
pub const MAX_BYTES: usize = 1_000_000;

/// Why bytes are not a valid message, or a message cannot be sent. Readers put such records into
/// the dead-letter topic.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum WireError {
    /// Not protobuf.
    #[error("not a Sightline record: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Written by a version that this build does not read.
    #[error("schema version {found}, but this build reads {} to {}: upgrade readers before writers", READABLE.start(), READABLE.end())]
    Schema {
        /// Version of the record.
        found: u32,
    },
    /// A required part is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A part is invalid.
    #[error("{field}: {why}")]
    Invalid {
        /// The part.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The message belongs to another topic.
    #[error("a {found} does not belong into this topic")]
    Misplaced {
        /// Its kind.
        found: &'static str,
    },
    /// The message is too large to be sent.
    #[error("{bytes} bytes, but a record holds {MAX_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Encodes a record of the topic `crops`.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn encode_camera_event(event: &CameraEvent) -> Result<Bytes, WireError> {
    bytes(&match event {
        CameraEvent::Crop(crop) => convert::envelope(&crop.origin, &crop.camera, Payload::Crop(crop.into())),
        CameraEvent::TrackEnd(end) => convert::envelope(&end.origin, &end.camera, Payload::TrackEnd(end.into())),
        CameraEvent::Progress(p) => convert::envelope(&p.origin, &p.camera, Payload::Progress(p.into())),
        CameraEvent::Report(r) => convert::envelope(&r.origin, &r.camera, Payload::Report(r.into())),
    })
}

/// Encodes a record of the topic `sightings`, with patch features in `coding`.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn encode_index_event(event: &IndexEvent, coding: Coding) -> Result<Bytes, WireError> {
    bytes(&match event {
        IndexEvent::Sighting(s) => {
            convert::envelope(&s.crop.origin, &s.crop.camera, Payload::Sighting(convert::sighting(s, coding)))
        }
        IndexEvent::TrackEnd(end) => convert::envelope(&end.origin, &end.camera, Payload::TrackEnd(end.into())),
        IndexEvent::Progress(p) => convert::envelope(&p.origin, &p.camera, Payload::Progress(p.into())),
        IndexEvent::Report(r) => convert::envelope(&r.origin, &r.camera, Payload::Report(r.into())),
    })
}

fn bytes(envelope: &Envelope) -> Result<Bytes, WireError> {
    let bytes = envelope.encoded_len();
    if bytes > MAX_BYTES {
        return Err(WireError::TooLarge { bytes });
    }
    Ok(envelope.encode_to_vec().into())
}

/// Decodes a record of the topic `crops`. Pictures share the memory of `record`.
///
/// # Errors
/// Whatever is wrong with it.
pub fn decode_camera_event(record: Bytes) -> Result<CameraEvent, WireError> {
    let (header, payload) = convert::decode_envelope(record)?;
    match payload {
        Payload::Crop(crop) => header.crop(crop).map(CameraEvent::Crop),
        Payload::TrackEnd(end) => header.track_end(end).map(CameraEvent::TrackEnd),
        Payload::Progress(p) => Ok(CameraEvent::Progress(header.progress(p))),
        Payload::Report(r) => header.report(r).map(CameraEvent::Report),
        Payload::Sighting(_) => Err(WireError::Misplaced { found: "sighting" }),
    }
}

/// Decodes a record of the topic `sightings`. Pictures and f16 features share the memory of
/// `record`.
///
/// # Errors
/// Whatever is wrong with it.
pub fn decode_index_event(record: Bytes) -> Result<IndexEvent, WireError> {
    let (header, payload) = convert::decode_envelope(record)?;
    match payload {
        Payload::Sighting(s) => header.sighting(s).map(|s| IndexEvent::Sighting(Box::new(s))),
        Payload::TrackEnd(end) => header.track_end(end).map(IndexEvent::TrackEnd),
        Payload::Progress(p) => Ok(IndexEvent::Progress(header.progress(p))),
        Payload::Report(r) => header.report(r).map(IndexEvent::Report),
        Payload::Crop(_) => Err(WireError::Misplaced { found: "crop" }),
    }
}
