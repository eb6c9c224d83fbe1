//! Copies pictures from GStreamer's memory into a [`RgbImage`].
//!
//! GStreamer rows may be longer than the picture is wide: RGB rows are padded to 4 bytes by
//! default, and a decoder may state any stride and offset in the buffer's video meta. Copying the
//! bytes as one block would shear every picture whose width is not a multiple of 4, so rows are
//! copied one by one.

use gstreamer as gst;
use gstreamer_video::prelude::*;
use gstreamer_video::{VideoFormat, VideoFrameRef, VideoInfo};
use sightline_core::RgbImage;

/// A sample that is not a picture.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a decoded frame cannot be read: {0}")]
pub struct SampleError(String);

/// Copies an RGB buffer, described by `info` (and by its video meta, if it has one), without the
/// padding.
///
/// # Errors
/// When the format is not RGB, or the buffer is too small for what it claims to hold.
pub fn copy_rgb(buffer: &gst::BufferRef, info: &VideoInfo) -> Result<RgbImage, SampleError> {
    if info.format() != VideoFormat::Rgb {
        return Err(SampleError(format!("{} where RGB was asked for", info.format().to_str())));
    }
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info)
        .map_err(|_| SampleError(format!("{} bytes do not hold {}x{}", buffer.size(), info.width(), info.height())))?;
    let plane = frame.plane_data(0).map_err(|e| SampleError(e.to_string()))?;
    let (width, height) = (frame.width(), frame.height());
    let row = width as usize * 3;
    let stride = usize::try_from(frame.plane_stride()[0]).unwrap_or(0);
    if stride < row {
        return Err(SampleError(format!("rows of {stride} bytes do not hold {width} pixels")));
    }
    let mut data = Vec::with_capacity(row * height as usize);
    for y in 0..height as usize {
        let bytes = plane.get(y * stride..y * stride + row);
        data.extend_from_slice(bytes.ok_or_else(|| SampleError(format!("row {y} of {height} is missing")))?);
    }
    RgbImage::new(width, height, data).map_err(|e| SampleError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gstreamer_video::{VideoFrameFlags, VideoMeta};
    use proptest::prelude::*;

    fn pixel(x: usize, y: usize) -> [u8; 3] {
        [(x * 7 + y) as u8, (y * 5) as u8, (x ^ y) as u8]
    }

    /// Rows of `stride` bytes after `offset` bytes; every byte outside the picture is 0xEE.
    fn buffer(width: usize, height: usize, stride: usize, offset: usize) -> gst::Buffer {
        let mut bytes = vec![0xEE; offset + stride * height];
        for y in 0..height {
            for x in 0..width {
                bytes[offset + y * stride + x * 3..][..3].copy_from_slice(&pixel(x, y));
            }
        }
        gst::Buffer::from_mut_slice(bytes)
    }

    fn check(image: &RgbImage) {
        for y in 0..image.height() as usize {
            for (x, got) in image.row(y as u32).chunks_exact(3).enumerate() {
                assert_eq!(got, pixel(x, y), "pixel {x},{y} of {image:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn default_strides(width in 1usize..140, height in 1usize..40) {
            gst::init().expect("GStreamer");
            let info = VideoInfo::builder(VideoFormat::Rgb, width as u32, height as u32).build().expect("valid");
            let b = buffer(width, height, (width * 3).div_ceil(4) * 4, 0);
            check(&copy_rgb(&b, &info).expect("a picture"));
        }

        #[test]
        fn any_stride_and_offset_of_a_video_meta(w in 1usize..140, h in 1usize..40, pad in 0usize..70, offset in 0usize..90) {
            gst::init().expect("GStreamer");
            let info = VideoInfo::builder(VideoFormat::Rgb, w as u32, h as u32).build().expect("valid");
            let stride = w * 3 + pad;
            let mut b = buffer(w, h, stride, offset);
            VideoMeta::add_full(
                b.get_mut().expect("sole owner"), VideoFrameFlags::empty(), VideoFormat::Rgb, w as u32, h as u32,
                &[offset], &[stride as i32],
            ).expect("a valid meta");
            check(&copy_rgb(&b, &info).expect("a picture"));
        }
    }

    #[test]
    fn wrong_formats_and_short_buffers_are_errors() {
        gst::init().expect("GStreamer");
        let info = VideoInfo::builder(VideoFormat::Rgb, 10, 10).build().expect("valid");
        assert!(copy_rgb(gst::Buffer::from_mut_slice(vec![0u8; 50]).as_ref(), &info).is_err());
        let bgr = VideoInfo::builder(VideoFormat::Bgr, 10, 10).build().expect("valid");
        assert!(copy_rgb(&buffer(10, 10, 32, 0), &bgr).is_err());
    }
}
