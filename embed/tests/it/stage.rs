//! The stage between cameras and index: order, batching, and crops that are no pictures.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image::ImageEncoder;
use sightline_core::message::{CropQuality, Origin};
use sightline_core::queue::{Pushed, Queue};
use sightline_core::shutdown::Shutdown;
use sightline_core::{
    BBox, CameraEvent, CameraId, Crop, Delivery, Discard, IndexEvent, Progress, Receipt, RefusalHandler, RgbImage,
    Timestamp, TrackEnd, TrackId,
};
use sightline_embed::{Embedder, stage};

use crate::folder;

pub fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
    encoder.write_image(image.data(), image.width(), image.height(), image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn camera(name: &str) -> CameraId {
    name.parse().unwrap()
}

fn track(n: u64) -> TrackId {
    TrackId { born: Timestamp::from_micros(n as i64), ordinal: 0 }
}

pub fn crop(name: &str, n: u64, jpeg: Vec<u8>) -> CameraEvent {
    CameraEvent::Crop(Crop {
        origin: Origin::new("test", n),
        camera: camera(name),
        track: track(n),
        crop_no: 0,
        captured_at: Timestamp::from_micros(n as i64),
        last_seen: Timestamp::from_micros(n as i64),
        bbox: BBox::default(),
        frame_size: (640, 480),
        quality: CropQuality::default(),
        jpeg: jpeg.into(),
    })
}

pub fn end(name: &str, n: u64) -> CameraEvent {
    let at = Timestamp::from_micros(n as i64);
    let (camera, origin) = (camera(name), Origin::new("test", n));
    CameraEvent::TrackEnd(TrackEnd { origin, camera, track: track(n), first_seen: at, last_seen: at, ended: true })
}

pub fn progress(name: &str, n: u64) -> CameraEvent {
    let analysed_through = Timestamp::from_micros(n as i64);
    let (camera, origin) = (camera(name), Origin::new("test", n));
    CameraEvent::Progress(Progress { origin, camera, connection: 0, analysed_through, ended: false })
}

pub fn label(event: &IndexEvent) -> String {
    match event {
        IndexEvent::Sighting(s) => format!("{} crop {}", s.crop.camera, s.crop.origin.seq),
        IndexEvent::TrackEnd(e) => format!("{} end {}", e.camera, e.origin.seq),
        IndexEvent::Progress(p) => format!("{} progress {}", p.camera, p.analysed_through.as_micros()),
        IndexEvent::Report(r) => format!("{} report", r.camera),
    }
}

#[test]
fn everything_comes_out_in_order_and_a_broken_jpeg_costs_only_itself() {
    let dir = folder::model();
    let embedder = Embedder::start(dir.path(), &folder::config()).unwrap();
    let pictures: Vec<Vec<u8>> = folder::pictures().iter().map(jpeg).collect();
    let (input, output) = (Queue::new(64), Queue::new(64));
    let mut want = Vec::new();
    for n in 0..11u64 {
        let name = if n % 3 == 0 { "east" } else { "west" };
        let broken = n == 4 || n == 5;
        let bytes = if broken { pictures[0][..40].to_vec() } else { pictures[n as usize % 6].clone() };
        assert_eq!(input.push(crop(name, n, bytes)), Pushed::Queued);
        if !broken {
            want.push(format!("{name} crop {n}"));
        }
        if n % 2 == 0 {
            input.push_wait(end(name, n)).unwrap();
            input.push_wait(progress(name, n)).unwrap();
            want.extend([format!("{name} end {n}"), format!("{name} progress {n}")]);
        }
    }
    input.close();
    stage::run(&input, &embedder, &output, &Discard, &folder::config(), &Shutdown::new()).unwrap();
    let got: Vec<IndexEvent> = std::iter::from_fn(|| output.pop(Duration::ZERO)).map(|d| d.event).collect();
    assert_eq!(got.iter().map(label).collect::<Vec<_>>(), want);
    for event in &got {
        if let IndexEvent::Sighting(s) = event {
            let norm: f32 = s.feature.iter().map(|v| v * v).sum();
            assert!((norm - 1.0).abs() < 1e-4 && s.model_id == embedder.info().id && s.patches.rows == 9);
        }
    }
}

#[test]
fn passes_news_on_at_once_and_stops_when_told() {
    let dir = folder::model();
    let embedder = Embedder::start(dir.path(), &folder::config()).unwrap();
    let (input, output, shutdown) = (Queue::new(8), Queue::new(8), Shutdown::new());
    let worker = {
        let (input, output, shutdown) = (input.clone(), output.clone(), shutdown.clone());
        std::thread::spawn(move || stage::run(&input, &embedder, &output, &Discard, &folder::config(), &shutdown))
    };
    input.push_wait(progress("east", 7)).unwrap();
    let event = output.pop(Duration::from_secs(10)).unwrap().event;
    assert_eq!(label(&event), "east progress 7");
    shutdown.trigger();
    worker.join().unwrap().unwrap();
}

/// The index takes one event and then nothing: the crops behind the batch are decoded all the same.
#[test]
fn decoding_goes_on_while_the_index_is_waited_for() {
    let dir = folder::model();
    let embedder = Embedder::start(dir.path(), &folder::config()).unwrap();
    let picture = jpeg(&folder::pictures()[0]);
    let (input, output, shutdown) = (Queue::new(8), Queue::new(1), Shutdown::new());
    for n in 0..4 {
        input.push_wait(crop("east", n, picture.clone())).unwrap();
    }
    input.push_wait(crop("east", 4, b"no picture".to_vec())).unwrap();
    input.push_wait(crop("east", 5, picture)).unwrap();
    input.close();
    let kept: Arc<Kept> = Arc::default();
    let worker = {
        let (output, kept) = (output.clone(), Arc::clone(&kept));
        std::thread::spawn(move || stage::run(&input, &embedder, &output, &*kept, &folder::config(), &shutdown))
    };
    let until = Instant::now() + Duration::from_secs(60);
    while kept.0.lock().unwrap().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(kept.0.lock().unwrap().len(), 1, "the fifth crop has been looked at");
    let mut got = Vec::new();
    while got.len() < 5 {
        got.push(label(&output.pop(Duration::from_secs(60)).unwrap().event));
    }
    assert_eq!(got, ["east crop 0", "east crop 1", "east crop 2", "east crop 3", "east crop 5"]);
    worker.join().unwrap().unwrap();
}

#[test]
fn a_closed_index_ends_the_stage() {
    let dir = folder::model();
    let embedder = Embedder::start(dir.path(), &folder::config()).unwrap();
    let (input, output) = (Queue::new(8), Queue::new(8));
    input.push_wait(progress("east", 1)).unwrap();
    output.close();
    stage::run(&input, &embedder, &output, &Discard, &folder::config(), &Shutdown::new()).unwrap();
}

/// Keeps what is refused, with the reason; completes its receipt.
#[derive(Default)]
struct Kept(Mutex<Vec<(u64, String)>>);

impl RefusalHandler<CameraEvent> for Kept {
    fn refuse(&self, event: CameraEvent, reason: &str, receipt: Receipt) {
        let CameraEvent::Crop(crop) = event else { panic!("only crops can be refused") };
        self.0.lock().unwrap().push((crop.origin.seq, reason.to_owned()));
        receipt.complete();
    }
}

#[test]
fn receipts_travel_with_what_is_made_of_their_message() {
    let dir = folder::model();
    let embedder = Embedder::start(dir.path(), &folder::config()).unwrap();
    let picture = jpeg(&folder::pictures()[0]);
    let (input, output) = (Queue::new(64), Queue::new(64));
    let done: Arc<Mutex<Vec<u64>>> = Arc::default();
    let deliver = |n: u64, event: CameraEvent| {
        let done = Arc::clone(&done);
        input.push_wait(Delivery::new(event, Receipt::new(move || done.lock().unwrap().push(n)))).unwrap();
    };
    deliver(0, crop("east", 0, picture.clone()));
    deliver(1, crop("east", 1, b"no picture".to_vec()));
    deliver(2, end("east", 2));
    deliver(3, crop("east", 3, picture));
    deliver(4, progress("east", 4));
    input.close();
    let kept = Kept::default();
    stage::run(&input, &embedder, &output, &kept, &folder::config(), &Shutdown::new()).unwrap();
    assert_eq!(*done.lock().unwrap(), [1], "the refused crop is acknowledged, the others wait for the index");
    let refused = kept.0.into_inner().unwrap();
    assert!(refused.len() == 1 && refused[0].0 == 1 && refused[0].1.contains("not a picture"), "{refused:?}");
    for n in [0, 2, 3, 4] {
        let delivery = output.pop(Duration::ZERO).unwrap();
        if n == 3 {
            // Lost on its way: it stays open.
            continue;
        }
        delivery.receipt.complete();
        assert_eq!(done.lock().unwrap().last(), Some(&n), "{}", label(&delivery.event));
    }
    assert_eq!(*done.lock().unwrap(), [1, 0, 2, 4]);
}
