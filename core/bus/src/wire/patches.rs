//! Encoding of patch features on the bus: unchanged (f16), or one byte per number with a scale for
//! each row (int8).

use bytes::Bytes;
use half::f16;

use super::WireError;
use super::schema::{Coding, Patches};
use sightline_core::PatchFeatures;

/// Bytes per f16.
const HALF: usize = 2;
/// Largest int8 code; -128 is not used, so that codes are symmetric.
const MAX_CODE: f32 = 127.0;

/// Encodes `patches` in `coding`.
pub fn encode(patches: &PatchFeatures, coding: Coding) -> Patches {
    let (rows, width) = (patches.rows, patches.width);
    let (data, scales) = match coding {
        Coding::F16 => (patches.data.clone(), Vec::new()),
        Coding::Int8 => bytes_and_scales(patches),
    };
    Patches { rows, width, coding: coding.into(), data, scales }
}

fn bytes_and_scales(patches: &PatchFeatures) -> (Bytes, Vec<f32>) {
    let (mut data, mut scales) = (Vec::with_capacity(patches.data.len() / HALF), Vec::new());
    for row in patches.data.chunks_exact((patches.width as usize * HALF).max(HALF)) {
        let row: Vec<f32> = row.as_chunks::<HALF>().0.iter().map(|x| f16::from_le_bytes(*x).to_f32()).collect();
        let scale = row.iter().fold(0f32, |most, x| most.max(x.abs())) / MAX_CODE;
        let factor = if scale > 0.0 { scale.recip() } else { 0.0 };
        data.extend(row.iter().map(|x| (x * factor).round().clamp(-MAX_CODE, MAX_CODE) as i8 as u8));
        scales.push(scale);
    }
    (data.into(), scales)
}

/// Decodes to f16.
///
/// # Errors
/// Sizes that do not match, or an unknown coding.
pub fn decode(patches: Patches) -> Result<PatchFeatures, WireError> {
    let Patches { rows, width, coding, data, scales } = patches;
    let invalid = |why: String| WireError::Invalid { field: "sighting.patches", why };
    let count = u64::from(rows) * u64::from(width);
    let (bytes, wanted) = match Coding::try_from(coding) {
        Ok(Coding::F16) => (HALF as u64, 0),
        Ok(Coding::Int8) => (1, rows as usize),
        Err(_) => return Err(invalid(format!("coding {coding} is not known"))),
    };
    if count == 0 || data.len() as u64 != count * bytes || scales.len() != wanted {
        let (have, scales) = (data.len(), scales.len());
        return Err(invalid(format!("{rows} rows of {width} do not take {have} bytes and {scales} scales")));
    }
    if wanted == 0 {
        return Ok(PatchFeatures { rows, width, data });
    }
    if let Some(scale) = scales.iter().find(|s| !(s.is_finite() && **s >= 0.0)) {
        return Err(invalid(format!("{scale} is no scale")));
    }
    let rows_of = data.chunks_exact(width as usize).zip(&scales);
    let numbers = rows_of.flat_map(|(row, scale)| row.iter().map(move |x| f16::from_f32(f32::from(*x as i8) * scale)));
    let data = numbers.flat_map(f16::to_le_bytes).collect::<Vec<u8>>().into();
    Ok(PatchFeatures { rows, width, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn features(rows: u32, width: u32, values: &[f32]) -> PatchFeatures {
        let data: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        PatchFeatures { rows, width, data: data.into() }
    }

    fn values(p: &PatchFeatures) -> Vec<f32> {
        p.data.as_chunks::<2>().0.iter().map(|x| f16::from_le_bytes(*x).to_f32()).collect()
    }

    proptest! {
        /// f16 round-trips bit for bit; int8 within half a step of its row's largest number (plus
        /// f16's own rounding).
        #[test]
        fn both_codings_come_back(rows in 1u32..6, width in 1u32..9, seed in prop::collection::vec(-40f32..40.0, 54)) {
            let own = features(rows, width, &seed[..(rows * width) as usize]);
            prop_assert_eq!(&decode(encode(&own, Coding::F16)).expect("sound"), &own);
            let coded = encode(&own, Coding::Int8);
            prop_assert_eq!(coded.data.len() * 2, own.data.len());
            let back = decode(coded).expect("sound");
            for (was, is) in values(&own).chunks(width as usize).zip(values(&back).chunks(width as usize)) {
                let most = was.iter().fold(0f32, |m, x| m.max(x.abs()));
                for (was, is) in was.iter().zip(is) {
                    prop_assert!((was - is).abs() <= most / 254.0 + most * 6e-4, "{was} became {is}");
                }
            }
        }
    }

    #[test]
    fn inconsistent_sizes_are_refused() {
        let good = encode(&features(2, 3, &[0.0; 6]), Coding::Int8);
        assert!(decode(good.clone()).is_ok());
        let wrong = [
            Patches { coding: 7, ..good.clone() },
            Patches { rows: 3, ..good.clone() },
            Patches { width: 0, ..good.clone() },
            Patches { scales: vec![1.0], ..good.clone() },
            Patches { scales: vec![1.0, f32::NAN], ..good.clone() },
            Patches { rows: u32::MAX, width: u32::MAX, ..good.clone() },
            Patches { coding: 0, ..good },
        ];
        for patches in wrong {
            assert!(decode(patches.clone()).is_err(), "{patches:?}");
        }
    }
}
