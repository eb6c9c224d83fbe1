//! Identifiers that are the same in every process and after every restart.
//!
//! A camera has one immutable id throughout. A track id is derived from *when* the track was born,
//! not from a counter that restarts with the process: replaying the same frames gives the same ids,
//! so redelivery is an idempotent upsert.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;

/// Why a string is not an identifier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Camera ids are file names, metric labels and URL segments at once, so their alphabet is
    /// narrow.
    #[error("camera id {0:?} is not valid: use 1 to 64 of a-z, 0-9, '-' and '_', starting with a letter or digit")]
    Camera(String),
    /// Track ids are `<birth in microseconds, hex>-<ordinal>`.
    #[error("track id {0:?} is not valid: expected <hex microseconds>-<ordinal>")]
    Track(String),
}

/// The immutable name of a camera: 1 to 64 of `a-z 0-9 - _`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CameraId(String);

impl CameraId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CameraId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        let mut chars = s.chars();
        let head = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let tail = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
        if head && tail && s.len() <= 64 { Ok(Self(s.to_owned())) } else { Err(IdError::Camera(s.to_owned())) }
    }
}

impl TryFrom<String> for CameraId {
    type Error = IdError;

    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<CameraId> for String {
    fn from(id: CameraId) -> Self {
        id.0
    }
}

impl fmt::Display for CameraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of one person's track through one camera's view: the birth time of the track, and its ordinal
/// among the tracks born in that frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrackId {
    /// Capture time of the first frame of the track.
    pub born: Timestamp,
    /// Ordinal among the tracks born in that frame, from 0.
    pub ordinal: u16,
}

impl FromStr for TrackId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        let bad = || IdError::Track(s.to_owned());
        let (born, ordinal) = s.split_once('-').ok_or_else(bad)?;
        let born = u64::from_str_radix(born, 16).map_err(|_| bad())?;
        let id = Self { born: Timestamp::from_micros(born as i64), ordinal: ordinal.parse().map_err(|_| bad())? };
        // One spelling per id: "+1", "01" or upper-case digits would make two names for one track.
        if id.to_string() == s { Ok(id) } else { Err(bad()) }
    }
}

impl TryFrom<String> for TrackId {
    type Error = IdError;

    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<TrackId> for String {
    fn from(id: TrackId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.born.as_micros() as u64, self.ordinal)
    }
}

/// Key of one stored crop: vector-store point id, gallery key and REST `sighting_id` at once.
pub type SightingId = Uuid;

/// Namespace of Sightline's UUIDv5 ids. Changing it would orphan every stored point.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d1f_54c2_9a0e_5b7d_8c33_51a7_1e9f_7a11);

/// UUIDv5 of (camera, track, crop number): the same crop always gets the same id, so redelivery
/// overwrites itself.
pub fn sighting_id(camera: &CameraId, track: TrackId, crop_no: u8) -> SightingId {
    Uuid::new_v5(&NAMESPACE, format!("{camera}/{track}/{crop_no}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn camera_ids_have_a_narrow_alphabet() {
        for good in ["a", "7", "north-gate_2"] {
            assert_eq!(good.parse::<CameraId>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "A", "a b", "ä", "a/b", "..", &"x".repeat(65)] {
            assert!(bad.parse::<CameraId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sighting_ids_are_stable_for_ever() {
        let id = sighting_id(
            &"gate".parse().expect("valid"),
            TrackId { born: Timestamp::from_micros(1_700_000_000_000_000), ordinal: 2 },
            1,
        );
        assert_eq!(id.to_string(), "73b30d71-03e5-5a9c-865f-72d4ebb03402");
    }

    proptest! {
        #[test]
        fn track_ids_round_trip(born in any::<i64>(), ordinal in any::<u16>()) {
            let id = TrackId { born: Timestamp::from_micros(born), ordinal };
            prop_assert_eq!(id.to_string().parse::<TrackId>(), Ok(id));
        }

        #[test]
        fn no_text_panics(s in ".{0,40}") {
            let _ = s.parse::<TrackId>();
            let _ = s.parse::<CameraId>();
        }
    }
}
