//! Field names that the embedded engine and a server share.

use super::StoreError;

/// Payload field of the camera id.
pub(super) const CAMERA: &str = "camera";
/// Payload field of the track id.
pub(super) const TRACK: &str = "track";
/// Payload field of the capture time in microseconds.
pub(super) const CAPTURED_AT: &str = "captured_at";
/// Payload field of the capture time of the track's first frame in microseconds.
pub(super) const FIRST_SEEN: &str = "first_seen";
/// Payload field of the capture time of the track's last frame in microseconds.
pub(super) const LAST_SEEN: &str = "last_seen";

/// Checks that a model id can name a folder and be part of a collection's name.
pub(super) fn check_model_id(id: &str) -> Result<(), StoreError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if (1..=128).contains(&id.len()) && !id.starts_with('.') && id.chars().all(good) {
        Ok(())
    } else {
        Err(StoreError::ModelId(id.to_owned()))
    }
}
