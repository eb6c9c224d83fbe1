//! Odd sizes through the whole pipeline, every pixel compared: rows with padding shear pictures
//! that are copied as they lie in memory.

use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::util::{drain, file_url, ingest, replay, start};

const FRAMES: usize = 3;

fn pixel(x: usize, y: usize, n: usize) -> [u8; 3] {
    [(x * 3 + n * 40) as u8, (y * 5 + x) as u8, (x * y + n) as u8]
}

/// Uncompressed RGB in Matroska, rows padded to 4 bytes as GStreamer does by default.
fn write(path: &Path, width: usize, height: usize) {
    gst::init().unwrap();
    let caps = format!("video/x-raw,format=RGB,width={width},height={height},framerate=5/1");
    let line = format!("appsrc name=s format=time caps={caps} ! matroskamux ! filesink location={}", path.display());
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let source = pipeline.by_name("s").unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let stride = (width * 3).div_ceil(4) * 4;
    for n in 0..FRAMES {
        let mut bytes = vec![0xEE; stride * height];
        for y in 0..height {
            for x in 0..width {
                bytes[y * stride + x * 3..][..3].copy_from_slice(&pixel(x, y, n));
            }
        }
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        let meta = buffer.get_mut().unwrap();
        meta.set_pts(gst::ClockTime::from_mseconds(200 * n as u64));
        meta.set_duration(gst::ClockTime::from_mseconds(200));
        assert_eq!(source.emit_by_name::<gst::FlowReturn>("push-buffer", &[&buffer]), gst::FlowReturn::Ok);
    }
    assert_eq!(source.emit_by_name::<gst::FlowReturn>("end-of-stream", &[]), gst::FlowReturn::Ok);
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(10), &kinds).unwrap();
    assert!(matches!(end.view(), gst::MessageView::Eos(_)), "{end:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn odd_widths_are_exact_to_the_pixel() {
    let dir = tempfile::tempdir().unwrap();
    for (width, height) in [(322, 242), (101, 75), (103, 33), (64, 48)] {
        let path = dir.path().join(format!("{width}.mkv"));
        write(&path, width, height);
        let (_camera, queue) = start(replay(&file_url(&path)), &ingest());
        let (frames, _) = drain(&queue);
        assert_eq!(frames.len(), FRAMES, "{width}x{height}");
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!((frame.image.width() as usize, frame.image.height() as usize), (width, height));
            for y in 0..height {
                for (x, got) in frame.image.row(y as u32).chunks_exact(3).enumerate() {
                    assert_eq!(got, pixel(x, y, n), "pixel {x},{y} of frame {n}, {width}x{height}");
                }
            }
        }
    }
}
