//! Conversion between the program's messages and protobuf; everything that comes from outside is
//! validated here.

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::schema::{self, Coding, Envelope, Payload, Track};
use super::{READABLE, WireError, patches};
use sightline_core::message::Origin;
use sightline_core::{
    BBox, CameraId, CameraState, Crop, CropQuality, NodeReport, Progress, Sighting, Timestamp, TrackEnd, TrackId,
};

/// A message in its envelope.
pub fn envelope(origin: &Origin, camera: &CameraId, payload: Payload) -> Envelope {
    Envelope {
        schema: u32::from(origin.schema),
        producer: origin.producer.clone(),
        seq: origin.seq,
        trace: Bytes::copy_from_slice(origin.trace.as_bytes()),
        camera: camera.as_str().to_owned(),
        payload: Some(payload),
    }
}

impl From<TrackId> for Track {
    fn from(id: TrackId) -> Self {
        Self { born: id.born.as_micros(), ordinal: u32::from(id.ordinal) }
    }
}

impl From<&Crop> for schema::Crop {
    fn from(c: &Crop) -> Self {
        let q = &c.quality;
        Self {
            track: Some(c.track.into()),
            crop_no: u32::from(c.crop_no),
            captured_at: c.captured_at.as_micros(),
            last_seen: c.last_seen.as_micros(),
            bbox: <[f32; 4]>::from(c.bbox).to_vec(),
            frame_width: c.frame_size.0,
            frame_height: c.frame_size.1,
            quality: vec![q.score, q.detector, q.size, q.sharpness, q.completeness],
            jpeg: c.jpeg.clone(),
        }
    }
}

impl From<&TrackEnd> for schema::TrackEnd {
    fn from(e: &TrackEnd) -> Self {
        Self {
            track: Some(e.track.into()),
            first_seen: e.first_seen.as_micros(),
            last_seen: e.last_seen.as_micros(),
            ended: e.ended,
        }
    }
}

impl From<&Progress> for schema::Progress {
    fn from(p: &Progress) -> Self {
        Self { connection: p.connection, analysed_through: p.analysed_through.as_micros(), ended: p.ended }
    }
}

impl From<CameraState> for schema::State {
    fn from(state: CameraState) -> Self {
        match state {
            CameraState::Connecting => Self::Connecting,
            // A node never reports the latter: it does not know the index.
            CameraState::Decoding | CameraState::Searchable => Self::Decoding,
            CameraState::Retrying => Self::Retrying,
            // With the field `refused`.
            CameraState::Failed | CameraState::Refused => Self::Failed,
            CameraState::Ended => Self::Ended,
        }
    }
}

impl From<&NodeReport> for schema::Report {
    fn from(r: &NodeReport) -> Self {
        Self {
            at: r.at.as_micros(),
            state: schema::State::from(r.state).into(),
            reason: r.reason.clone(),
            since: r.since.as_micros(),
            connection: r.connection,
            frames_decoded: r.frames_decoded,
            frames_analysed: r.frames_analysed,
            frames_dropped: r.frames_dropped,
            crops: r.crops,
            crops_dropped: r.crops_dropped,
            retry_in_s: r.retry_in_s,
            spooled_bytes: r.spooled_bytes,
            refused: r.state == CameraState::Refused,
        }
    }
}

/// A sighting with its patch features in `coding`.
pub fn sighting(s: &Sighting, coding: Coding) -> schema::Sighting {
    schema::Sighting {
        crop: Some((&s.crop).into()),
        model_id: s.model_id.clone(),
        feature: s.feature.clone(),
        patches: Some(patches::encode(&s.patches, coding)),
    }
}

/// The header that all messages have in common.
pub struct Header {
    origin: Origin,
    camera: CameraId,
}

/// Decodes a record into its header and its message.
///
/// # Errors
/// Not protobuf, an unsupported version, an invalid header, or no message.
pub fn decode_envelope(record: Bytes) -> Result<(Header, Payload), WireError> {
    let e = Envelope::decode(record)?;
    let schema = u16::try_from(e.schema).ok().filter(|v| READABLE.contains(v));
    let schema = schema.ok_or(WireError::Schema { found: e.schema })?;
    let trace = Uuid::from_slice(&e.trace).map_err(|why| invalid("trace", why))?;
    let camera: CameraId = e.camera.parse().map_err(|why| invalid("camera", why))?;
    let origin = Origin { schema, producer: e.producer, seq: e.seq, trace };
    Ok((Header { origin, camera }, e.payload.ok_or(WireError::Missing("the message"))?))
}

fn invalid(field: &'static str, why: impl ToString) -> WireError {
    WireError::Invalid { field, why: why.to_string() }
}

fn track(field: &'static str, track: Option<Track>) -> Result<TrackId, WireError> {
    let track = track.ok_or(WireError::Missing(field))?;
    let ordinal = u16::try_from(track.ordinal).map_err(|why| invalid(field, why))?;
    Ok(TrackId { born: Timestamp::from_micros(track.born), ordinal })
}

/// Converts to `N` finite numbers.
fn numbers<const N: usize>(field: &'static str, values: &[f32]) -> Result<[f32; N], WireError> {
    let all = <[f32; N]>::try_from(values).map_err(|_| invalid(field, format!("{} numbers, not {N}", values.len())))?;
    finite(field, &all)?;
    Ok(all)
}

fn finite(field: &'static str, values: &[f32]) -> Result<(), WireError> {
    match values.iter().find(|v| !v.is_finite()) {
        Some(v) => Err(invalid(field, format!("{v} among its numbers"))),
        None => Ok(()),
    }
}

impl Header {
    /// The crop with this header.
    ///
    /// # Errors
    /// A part that is missing or invalid.
    pub fn crop(self, c: schema::Crop) -> Result<Crop, WireError> {
        let [score, detector, size, sharpness, completeness] = numbers("crop.quality", &c.quality)?;
        if c.jpeg.is_empty() {
            return Err(WireError::Missing("crop.jpeg"));
        }
        Ok(Crop {
            origin: self.origin,
            camera: self.camera,
            track: track("crop.track", c.track)?,
            crop_no: u8::try_from(c.crop_no).map_err(|why| invalid("crop.crop_no", why))?,
            captured_at: Timestamp::from_micros(c.captured_at),
            last_seen: Timestamp::from_micros(c.last_seen),
            bbox: BBox::from(numbers::<4>("crop.bbox", &c.bbox)?),
            frame_size: (c.frame_width, c.frame_height),
            quality: CropQuality { score, detector, size, sharpness, completeness },
            jpeg: c.jpeg,
        })
    }

    /// The track's span with this header.
    ///
    /// # Errors
    /// A part that is missing or invalid.
    pub fn track_end(self, e: schema::TrackEnd) -> Result<TrackEnd, WireError> {
        Ok(TrackEnd {
            origin: self.origin,
            camera: self.camera,
            track: track("track_end.track", e.track)?,
            first_seen: Timestamp::from_micros(e.first_seen),
            last_seen: Timestamp::from_micros(e.last_seen),
            ended: e.ended,
        })
    }

    /// The progress event with this header.
    pub fn progress(self, p: schema::Progress) -> Progress {
        Progress {
            origin: self.origin,
            camera: self.camera,
            connection: p.connection,
            analysed_through: Timestamp::from_micros(p.analysed_through),
            ended: p.ended,
        }
    }

    /// The report with this header.
    ///
    /// # Errors
    /// An unknown state.
    pub fn report(self, r: schema::Report) -> Result<NodeReport, WireError> {
        let state = match schema::State::try_from(r.state) {
            Ok(schema::State::Connecting) => CameraState::Connecting,
            Ok(schema::State::Decoding) => CameraState::Decoding,
            Ok(schema::State::Retrying) => CameraState::Retrying,
            Ok(schema::State::Failed) if r.refused => CameraState::Refused,
            Ok(schema::State::Failed) => CameraState::Failed,
            Ok(schema::State::Ended) => CameraState::Ended,
            Ok(schema::State::Unknown) | Err(_) => {
                return Err(invalid("report.state", format!("state {} is not known", r.state)));
            }
        };
        Ok(NodeReport {
            origin: self.origin,
            camera: self.camera,
            at: Timestamp::from_micros(r.at),
            state,
            reason: r.reason,
            since: Timestamp::from_micros(r.since),
            connection: r.connection,
            frames_decoded: r.frames_decoded,
            frames_analysed: r.frames_analysed,
            frames_dropped: r.frames_dropped,
            crops: r.crops,
            crops_dropped: r.crops_dropped,
            retry_in_s: r.retry_in_s.filter(|s| s.is_finite()),
            spooled_bytes: r.spooled_bytes,
        })
    }

    /// The sighting with this header.
    ///
    /// # Errors
    /// A part that is missing or invalid.
    pub fn sighting(self, s: schema::Sighting) -> Result<Sighting, WireError> {
        let crop = s.crop.ok_or(WireError::Missing("sighting.crop"))?;
        let patches = s.patches.ok_or(WireError::Missing("sighting.patches"))?;
        if s.model_id.is_empty() {
            return Err(WireError::Missing("sighting.model_id"));
        }
        if s.feature.is_empty() {
            return Err(WireError::Missing("sighting.feature"));
        }
        finite("sighting.feature", &s.feature)?;
        Ok(Sighting {
            crop: self.crop(crop)?,
            model_id: s.model_id,
            feature: s.feature,
            patches: patches::decode(patches)?,
        })
    }
}
