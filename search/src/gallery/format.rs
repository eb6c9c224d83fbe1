//! File format of patch features: a header with the sizes, the data, and a checksum over both.
//!
//! ```text
//!  0  magic "SLPF"          4  version u16 = 1     6  element type u16 = 1 (f16)
//!  8  rows u32             12  width u32          16  CRC-32 u32 of bytes 0..16 and of the data
//! 20  rows x width f16, row-major, CLS first        (all little-endian)
//! ```

use bytes::Bytes;
use sightline_core::PatchFeatures;

use super::GalleryError;

const MAGIC: &[u8; 4] = b"SLPF";
const VERSION: u16 = 1;
/// Element type: IEEE half precision.
const F16: u16 = 1;
/// Size of the header in bytes.
pub(super) const HEADER: usize = 20;

/// Returns the header for these features.
pub(super) fn header(p: &PatchFeatures) -> Result<[u8; HEADER], GalleryError> {
    let expected = u64::from(p.rows) * u64::from(p.width) * 2;
    if p.data.len() as u64 != expected {
        return Err(GalleryError::Patches { rows: p.rows, width: p.width, expected, got: p.data.len() as u64 });
    }
    let mut h = [0; HEADER];
    h[0..4].copy_from_slice(MAGIC);
    h[4..6].copy_from_slice(&VERSION.to_le_bytes());
    h[6..8].copy_from_slice(&F16.to_le_bytes());
    h[8..12].copy_from_slice(&p.rows.to_le_bytes());
    h[12..16].copy_from_slice(&p.width.to_le_bytes());
    let checksum = checksum(&h[..16], &p.data);
    h[16..20].copy_from_slice(&checksum.to_le_bytes());
    Ok(h)
}

/// Parses a whole file; the error says why it is invalid.
pub(super) fn parse(file: Vec<u8>) -> Result<PatchFeatures, String> {
    let file = Bytes::from(file);
    if file.len() < HEADER {
        return Err(format!("{} bytes are less than its header of {HEADER}", file.len()));
    }
    if &file[..4] != MAGIC {
        return Err("it does not start like a file of patch features".to_owned());
    }
    let u16_at = |at: usize| u16::from_le_bytes([file[at], file[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]);
    if (u16_at(4), u16_at(6)) != (VERSION, F16) {
        return Err(format!("version {} with elements of type {} is not known here", u16_at(4), u16_at(6)));
    }
    let (rows, width) = (u32_at(8), u32_at(12));
    let expected = HEADER as u64 + u64::from(rows) * u64::from(width) * 2;
    if file.len() as u64 != expected {
        return Err(format!("{rows} x {width} features need {expected} bytes, it has {}", file.len()));
    }
    let data = file.slice(HEADER..);
    if checksum(&file[..16], &data) != u32_at(16) {
        return Err("the checksum does not match".to_owned());
    }
    Ok(PatchFeatures { rows, width, data })
}

fn checksum(head: &[u8], data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(data);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(rows: u32, width: u32, seed: u8) -> (PatchFeatures, Vec<u8>) {
        let data: Vec<u8> = (0..rows * width * 2).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        let p = PatchFeatures { rows, width, data: data.into() };
        let mut bytes = header(&p).expect("consistent").to_vec();
        bytes.extend_from_slice(&p.data);
        (p, bytes)
    }

    #[test]
    fn contradicting_sizes_are_refused() {
        let p = PatchFeatures { rows: 2, width: 3, data: vec![0; 11].into() };
        assert!(matches!(header(&p), Err(GalleryError::Patches { expected: 12, got: 11, .. })));
    }

    proptest! {
        #[test]
        fn features_round_trip(rows in 0u32..20, width in 0u32..20, seed in any::<u8>()) {
            let (p, bytes) = file(rows, width, seed);
            prop_assert_eq!(parse(bytes), Ok(p));
        }

        #[test]
        fn every_cut_and_every_flipped_bit_is_noticed(at in 0usize..1000, bit in 0u8..8, seed in any::<u8>()) {
            let (_, bytes) = file(5, 8, seed);
            let at = at % bytes.len();
            prop_assert!(parse(bytes[..at].to_vec()).is_err());
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            prop_assert!(parse(flipped).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(bytes);
        }
    }
}
