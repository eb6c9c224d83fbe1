//! A record of the spool: the camera's id (the key on the bus), then the message as it goes over the bus.

use bytes::Bytes;
use sightline_core::CameraId;

/// Length byte, id, message.
pub(super) fn pack(camera: &CameraId, payload: &[u8]) -> Vec<u8> {
    let id = camera.as_str().as_bytes();
    let mut record = Vec::with_capacity(1 + id.len() + payload.len());
    // An id has 64 bytes at most.
    record.push(id.len() as u8);
    record.extend(id);
    record.extend(payload);
    record
}

/// Camera and message of a record; `None` when it is none of ours.
pub(super) fn unpack(record: Vec<u8>) -> Option<(CameraId, Bytes)> {
    let record = Bytes::from(record);
    let length = usize::from(*record.first()?);
    let id = std::str::from_utf8(record.get(1..=length)?).ok()?;
    Some((id.parse().ok()?, record.slice(1 + length..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_come_back_and_nonsense_does_not() {
        let camera: CameraId = "north-gate".parse().expect("valid");
        let (id, payload) = unpack(pack(&camera, b"hello")).expect("ours");
        assert_eq!((id, &payload[..]), (camera.clone(), &b"hello"[..]));
        assert!(unpack(pack(&camera, b"")).expect("ours").1.is_empty());
        for nonsense in [vec![], vec![0], vec![9, b'a'], vec![1, b'!', 1], vec![1, 0xff]] {
            assert!(unpack(nonsense.clone()).is_none(), "{nonsense:?}");
        }
    }
}
