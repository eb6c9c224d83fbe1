//! Features of stored or arriving pictures. A JPEG that cannot be decoded, or a picture that the
//! model fails on, does not affect the others.

use std::panic::catch_unwind;
use std::time::Instant;

use bytes::Bytes;
use metrics::histogram;
use rayon::prelude::*;
use sightline_core::RgbImage;

use crate::error::panic_message;
use crate::{EmbedError, Embedder, ImageFeatures, decode_image};

impl Embedder {
    /// Features of every encoded picture, in their order, or the reason why there are none. Queries
    /// go first, four in a row at most. Panics inside an async task.
    ///
    /// # Errors
    /// When no picture can be embedded any more: the thread has stopped, or the device fails.
    pub fn embed_jpegs_blocking(&self, jpegs: &[Bytes]) -> Result<Vec<Result<ImageFeatures, String>>, EmbedError> {
        let decoded: Vec<Result<RgbImage, String>> = jpegs.par_iter().map(|jpeg| decode(decode_image, jpeg)).collect();
        let images = decoded.iter().filter_map(|image| image.as_ref().ok().cloned()).collect();
        let mut features = embed(images, self)?.into_iter();
        let next = |image: Result<RgbImage, String>| {
            image.and_then(|_| features.next().unwrap_or_else(|| Err("no features came of it".into())))
        };
        Ok(decoded.into_iter().map(next).collect())
    }
}

/// Decodes a picture, or says why that is not possible. A panic of the decoder counts as an error.
pub(super) fn decode(with: fn(&[u8]) -> Result<RgbImage, EmbedError>, jpeg: &Bytes) -> Result<RgbImage, String> {
    let image = catch_unwind(|| with(jpeg).map_err(|e| e.to_string()));
    image
        .unwrap_or_else(|panic| Err(format!("the decoder panicked: {}", panic_message(&*panic))))
        .map_err(|why| format!("not a picture: {why}"))
}

/// Features of every image, or the reason why there are none. When the batch fails, each picture is
/// tried alone, so that a bad one does not affect the others.
///
/// # Errors
/// The error of the device, if not even a blank picture can be embedded: then it is not the
/// pictures' fault, and the caller has to stop before it refuses everything that comes.
pub(super) fn embed(
    images: Vec<RgbImage>,
    embedder: &Embedder,
) -> Result<Vec<Result<ImageFeatures, String>>, EmbedError> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let start = Instant::now();
    let n = images.len();
    let result = match embedder.embed_crops_blocking(images.clone()) {
        Ok(features) => features.into_iter().map(Ok).collect(),
        Err(EmbedError::Stopped) => return Err(EmbedError::Stopped),
        Err(error) => {
            tracing::error!(%error, crops = n, "a batch of crops cannot be embedded; trying them one by one");
            let mut single = Vec::with_capacity(n);
            for image in images {
                single.push(match embedder.embed_crops_blocking(vec![image]) {
                    Ok(mut one) => one.pop().ok_or_else(|| "no features came of it".into()),
                    Err(EmbedError::Stopped) => return Err(EmbedError::Stopped),
                    Err(error) => {
                        embedder.embed_crops_blocking(vec![blank()?])?;
                        Err(format!("not embedded: {error}"))
                    }
                });
            }
            single
        }
    };
    histogram!("sightline_embed_batch_crops").record(n as f64);
    histogram!("sightline_embed_batch_seconds").record(start.elapsed().as_secs_f64());
    Ok(result)
}

/// A plain grey picture, which every working model can embed.
fn blank() -> Result<RgbImage, EmbedError> {
    const SIDE: u32 = 32;
    let grey = vec![128u8; (SIDE * SIDE * 3) as usize];
    RgbImage::new(SIDE, SIDE, grey).map_err(|_| EmbedError::EmptyImage { width: SIDE, height: SIDE })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::double::Double;

    /// A PNG of this width.
    fn png(width: u32) -> Bytes {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(width, 2).write_to(&mut bytes, image::ImageFormat::Png).expect("written");
        bytes.into_inner().into()
    }

    #[test]
    fn every_picture_keeps_its_place_among_those_that_are_none() {
        let embedder =
            Double::new(
                |images| {
                    if images.iter().any(|i| i.width() == 7) { Err(EmbedError::NotFinite) } else { Ok(()) }
                },
            )
            .start(2);
        let jpegs = [png(3), Bytes::from_static(b"no picture"), png(7), png(5), Bytes::new()];
        let features = embedder.embed_jpegs_blocking(&jpegs).expect("the thread runs");
        let widths: Vec<Option<f32>> = features.iter().map(|f| f.as_ref().ok().map(|f| f.feature[0])).collect();
        assert_eq!(widths, [Some(3.0), None, None, Some(5.0), None]);
        let why = |i: usize| features[i].as_ref().expect_err("no features").clone();
        assert!(why(1).contains("not a picture") && why(2).contains("not finite"), "{}, {}", why(1), why(2));
        assert!(embedder.embed_jpegs_blocking(&[]).expect("no picture is no error").is_empty());
    }

    #[test]
    fn a_device_that_is_gone_is_no_fault_of_the_pictures() {
        let embedder = Double::new(|_| Err(EmbedError::NotFinite)).start(2);
        assert!(embedder.embed_jpegs_blocking(&[png(3), png(4)]).is_err());
    }
}
