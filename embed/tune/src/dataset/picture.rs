//! Checks that a picture file is complete.
//!
//! A JPEG that was cut short still decodes, with grey where its end was, so the check looks for the
//! end marker.

/// First bytes of a PNG.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Checks that `bytes` are a JPEG or PNG with a readable header and an end.
///
/// # Errors
/// A message that names the problem.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() {
        return Err("the picture is empty (0 bytes)".into());
    }
    let whole = if bytes.starts_with(&[0xFF, 0xD8]) {
        jpeg_ends(bytes)
    } else if bytes.starts_with(PNG) {
        bytes.windows(4).rev().any(|w| w == b"IEND")
    } else {
        return Err("the picture is neither JPEG nor PNG".into());
    };
    if !whole {
        return Err(format!("the picture is cut short: it ends after {} bytes without its end marker", bytes.len()));
    }
    let reader =
        image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    match reader.into_dimensions() {
        Ok((0, _) | (_, 0)) => Err("the picture has no pixel".into()),
        Ok(_) => Ok(()),
        Err(e) => Err(format!("the picture is damaged: {e}")),
    }
}

/// Whether a JPEG has its end-of-image marker. Segments before the pixels are skipped, because a
/// thumbnail inside them has its own end marker; in the pixels the marker cannot occur by chance.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let [0xFF, marker, rest @ ..] = bytes.get(at..).unwrap_or_default() {
        match marker {
            0xD9 => return true,
            0xDA => return rest.windows(2).any(|w| w == [0xFF, 0xD9]),
            0xFF => at += 1,
            0x01 | 0xD0..=0xD8 => at += 2,
            _ => match rest {
                [high, low, ..] => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
                _ => return false,
            },
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
    use image::{ExtendedColorType, ImageEncoder};
    use proptest::prelude::*;

    fn jpeg() -> Vec<u8> {
        let (pixels, mut out) = ((0..40 * 90 * 3).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>(), Vec::new());
        JpegEncoder::new_with_quality(&mut out, 90).encode(&pixels, 40, 90, ExtendedColorType::Rgb8).expect("encodes");
        out
    }

    fn png() -> Vec<u8> {
        let mut out = Vec::new();
        PngEncoder::new(&mut out).write_image(&[9; 5 * 4 * 3], 5, 4, ExtendedColorType::Rgb8).expect("encodes");
        out
    }

    #[test]
    fn whole_pictures_pass_even_with_bytes_behind_them() {
        for mut bytes in [jpeg(), png()] {
            assert_eq!(check(&bytes), Ok(()));
            bytes.extend([0; 100]);
            assert_eq!(check(&bytes), Ok(()));
        }
    }

    #[test]
    fn every_cut_is_seen() {
        for bytes in [jpeg(), png()] {
            for cut in (0..bytes.len() - 4).step_by(13) {
                assert!(check(&bytes[..cut]).is_err(), "{cut} of {}", bytes.len());
            }
        }
        assert!(check(&jpeg()[..2000]).expect_err("cut").contains("2000 bytes"));
        assert!(check(b"GIF89a....").expect_err("a GIF").contains("neither"));
    }

    #[test]
    fn a_thumbnail_does_not_stand_for_the_picture() {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE1, 0, 8, 0xFF, 0xD8, 0xFF, 0xD9, 0, 0];
        bytes.extend(&jpeg()[2..1500]);
        assert!(!jpeg_ends(&bytes));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = check(&bytes);
            let mut dressed = vec![0xFF, 0xD8];
            dressed.extend(&bytes);
            let _ = check(&dressed);
        }
    }
}
