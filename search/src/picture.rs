//! Name of a picture: its sighting and the hash of its JPEG.
//!
//! A sighting is a slot of a track, and a better picture may take the slot later. Vector, time and
//! box then belong to the later picture, so everything that shows or compares a picture names it by
//! its bytes too: a later picture never stands for an earlier one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sightline_core::SightingId;
use uuid::Uuid;

/// Namespace of the hashes.
const NAMESPACE: Uuid = Uuid::from_u128(0x9c1b_7d0e_52a4_5f36_8e4f_2c61_0b7a_d593);

/// 64 bits of the SHA-1 of a JPEG. They tell the pictures of one slot apart, of which there are a
/// few; they do not protect against somebody who makes JPEGs on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CropHash(u64);

/// The text is not a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no hash of a picture: 16 hexadecimal digits in lower case")]
pub struct CropHashError(String);

impl CropHash {
    /// Returns the hash of these bytes.
    pub fn of(jpeg: &[u8]) -> Self {
        Self((Uuid::new_v5(&NAMESPACE, jpeg).as_u128() >> 64) as u64)
    }
}

impl fmt::Display for CropHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for CropHash {
    type Err = CropHashError;

    fn from_str(s: &str) -> Result<Self, CropHashError> {
        let hash = u64::from_str_radix(s, 16).map(Self).map_err(|_| CropHashError(s.to_owned()))?;
        if hash.to_string() == s { Ok(hash) } else { Err(CropHashError(s.to_owned())) }
    }
}

impl TryFrom<String> for CropHash {
    type Error = CropHashError;

    fn try_from(s: String) -> Result<Self, CropHashError> {
        s.parse()
    }
}

impl From<CropHash> for String {
    fn from(hash: CropHash) -> Self {
        hash.to_string()
    }
}

/// Key of a picture and of its patch features in the gallery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PictureKey {
    /// Id of the sighting.
    pub id: SightingId,
    /// Hash of the JPEG; `None` for a picture of an earlier version, which kept one per sighting.
    pub crop: Option<CropHash>,
}

impl PictureKey {
    /// Creates the key of this JPEG under this sighting.
    pub fn new(id: SightingId, jpeg: &[u8]) -> Self {
        Self { id, crop: Some(CropHash::of(jpeg)) }
    }

    /// Returns the name of its file: `<id>.<hash>.<extension>`, without hash for an earlier version.
    pub(crate) fn file_name(&self, extension: &str) -> String {
        match self.crop {
            Some(crop) => format!("{}.{crop}.{extension}", self.id),
            None => format!("{}.{extension}", self.id),
        }
    }

    /// Parses the name of a file; `None` for any other file.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let id = parts.next()?.parse().ok()?;
        let crop = parts.next()?;
        match parts.next() {
            Some(_) => Some(Self { id, crop: Some(crop.parse().ok()?) }),
            None => Some(Self { id, crop: None }),
        }
    }
}

impl From<SightingId> for PictureKey {
    fn from(id: SightingId) -> Self {
        Self { id, crop: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_parsed_back() {
        let id = Uuid::from_u128(77);
        for key in [PictureKey::new(id, b"jpeg"), PictureKey::from(id)] {
            assert_eq!(PictureKey::of_file(&key.file_name("jpg")), Some(key));
        }
        assert_ne!(PictureKey::new(id, b"jpeg"), PictureKey::new(id, b"another"));
        for wrong in ["", "lock", "00000000-0000-0000-0000-00000000004d", &format!("{id}.xyz.jpg")] {
            assert_eq!(PictureKey::of_file(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let hash = CropHash::of(b"jpeg");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("00FF00FF00FF00FF".parse::<CropHash>().is_err() && "1".parse::<CropHash>().is_err());
    }
}
