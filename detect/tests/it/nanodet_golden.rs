//! NanoDet-g compared with its reference (ONNX Runtime on the published weights, OpenCV's
//! resizing): input, raw outputs, boxes.
//!
//! The weights are not in the repository. Where they are missing these tests fail and say how to
//! get them.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use sightline_core::config::DetectConfig;
use sightline_core::{BBox, RgbImage};
use sightline_detect::conv::Map;
use sightline_detect::nanodet::{Canvas, Network, STRIDES, Weights, canvas_size, decode};
use sightline_detect::{Detection, Detector, NanoDet, draw};

const PICTURES: [&str; 2] = ["intel_435", "vtest_100"];

/// Raw outputs are stored for every n-th cell along both axes, to keep the repository small.
const STEP: [usize; 3] = [4, 2, 1];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The converted weights: `SIGHTLINE_NANODET`, or where `make test` puts them.
fn weights() -> PathBuf {
    let path = std::env::var_os("SIGHTLINE_NANODET")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/nanodet-g.safetensors"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: run `make test`, which fetches the detector's weights, or name the file in SIGHTLINE_NANODET",
        path.display()
    );
    path
}

fn config() -> DetectConfig {
    DetectConfig { weights: weights(), input_size: 416, score_threshold: 0.35, nms_iou: 0.6, threads: 1 }
}

fn picture(name: &str) -> RgbImage {
    let image = image::open(golden(name)).unwrap().to_rgb8();
    RgbImage::new(image.width(), image.height(), image.into_raw()).unwrap()
}

fn facts(name: &str) -> Value {
    let all: Value = serde_json::from_slice(&std::fs::read(golden("nanodet_g.json")).unwrap()).unwrap();
    all[name].clone()
}

fn pair(value: &Value) -> (usize, usize) {
    (value[0].as_u64().unwrap() as usize, value[1].as_u64().unwrap() as usize)
}

/// The reference's canvas as the network's input.
fn reference_canvas(name: &str) -> Map {
    let image = picture(&format!("{name}.canvas.png"));
    let (h, w) = (image.height() as usize, image.width() as usize);
    let facts = facts(name);
    let (frame_h, frame_w) = pair(&facts["frame_hw"]);
    let scale = facts["scale"].as_f64().unwrap();
    let filled = ((frame_h as f64 * scale).round() as usize, (frame_w as f64 * scale).round() as usize);
    let mut map = Map::new(h, w, 3);
    for y in 0..filled.0 {
        for x in 0..filled.1 {
            let p = &image.data()[(y * w + x) * 3..][..3];
            let out = map.pixel_mut(y, x);
            out[0] = (f32::from(p[2]) - 103.53) / 57.375;
            out[1] = (f32::from(p[1]) - 116.28) / 57.12;
            out[2] = (f32::from(p[0]) - 123.675) / 58.395;
        }
    }
    map
}

fn largest_difference(a: &Map, b: &Map) -> f32 {
    assert_eq!((a.height(), a.width(), a.channels()), (b.height(), b.width(), b.channels()));
    let rows = (0..a.height()).flat_map(|y| a.row(y).iter().zip(b.row(y)));
    rows.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_canvas_is_the_references() {
    for name in PICTURES {
        let (rows, columns) = pair(&facts(name)["input_hw"]);
        let mut canvas = Canvas::default();
        canvas.draw(&picture(&format!("{name}.png")), rows, columns);
        let difference = largest_difference(canvas.map(), &reference_canvas(name));
        println!("{name}: canvas off by {difference} (one 8-bit step is 0.0175)");
        assert!(difference < 1e-5, "{name}: canvas off by {difference}");
    }
}

#[test]
fn raw_outputs_are_the_references() {
    let network = Network::new(&Weights::load(&weights()).unwrap()).unwrap();
    let bytes = std::fs::read(golden("nanodet_g.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let mut workspace = Default::default();
    for name in PICTURES {
        let outputs = network.run(&reference_canvas(name), &mut workspace);
        for ((map, stride), step) in outputs.iter().zip(STRIDES).zip(STEP) {
            let want = golden.tensor(&format!("{name}.stride{stride}")).unwrap();
            let &[channels, height, width] = want.shape() else { panic!("a tensor of three axes") };
            assert_eq!((channels, height, width), (124, map.height().div_ceil(step), map.width().div_ceil(step)));
            let mut worst = 0f32;
            for (i, v) in want.data().chunks_exact(4).enumerate() {
                let (c, y, x) = (i / (height * width), i / width % height, i % width);
                let want = f32::from_le_bytes(v.try_into().unwrap());
                worst = worst.max((map.pixel(y * step, x * step)[c] - want).abs());
            }
            println!("{name}, stride {stride}: raw outputs off by at most {worst:e}");
            assert!(worst < 1e-3, "{name}, stride {stride}: off by {worst}");
        }
    }
}

fn check_boxes(name: &str, found: &[Detection]) {
    let facts = facts(name);
    let want = facts["boxes_xyxy_score_person_thr035_nms06"].as_array().unwrap();
    assert_eq!(found.len(), want.len(), "{name}: {found:?}");
    let mut worst = (0f64, 0f64);
    for (d, want) in found.iter().zip(want) {
        let edges: [f32; 4] = d.bbox.into();
        for (i, e) in edges.into_iter().enumerate() {
            worst.0 = worst.0.max((f64::from(e) - want[i].as_f64().unwrap()).abs());
        }
        worst.1 = worst.1.max((f64::from(d.score) - want[4].as_f64().unwrap()).abs());
    }
    println!("{name}: {} boxes, edges off by at most {:.4} px, scores by {:.5}", found.len(), worst.0, worst.1);
    // The reference is written with three decimals.
    assert!(worst.0 < 5e-3 && worst.1 < 1e-3, "{name}: {worst:?}");
}

#[test]
fn boxes_are_the_references() {
    let mut detector = NanoDet::load(&weights(), &config()).unwrap();
    let image = picture("vtest_100.png");
    assert_eq!(canvas_size(image.width(), image.height(), 416), pair(&facts("vtest_100")["input_hw"]));
    check_boxes("vtest_100", &detector.detect(&image).unwrap());
    // Another size in between, then the first again: nothing of it may remain in the working
    // memory.
    let other = picture("intel_435.png");
    assert_eq!(detector.detect(&other).unwrap().len(), 1);
    check_boxes("vtest_100", &detector.clone().detect(&image).unwrap());
    check_boxes("vtest_100", &detector.detect(&image).unwrap());
}

/// The second reference was made on a square canvas, which the detector's own rule would not
/// choose.
#[test]
fn boxes_on_a_square_canvas_are_the_references() {
    let network = Network::new(&Weights::load(&weights()).unwrap()).unwrap();
    let mut canvas = Canvas::default();
    let placement = canvas.draw(&picture("intel_435.png"), 416, 416);
    let mut workspace = Default::default();
    let outputs = network.run(canvas.map(), &mut workspace);
    let found: Vec<Detection> = decode::suppress_overlaps(decode::decode(outputs, 0.35), 0.6)
        .into_iter()
        .map(|d| Detection { bbox: placement.to_source(d.bbox), ..d })
        .collect();
    check_boxes("intel_435", &found);
}

#[test]
fn boxes_stay_inside_and_follow_the_thresholds() {
    let image = picture("vtest_100.png");
    let mut detector = NanoDet::load(&weights(), &config()).unwrap();
    let sure = detector.detect(&image).unwrap();
    let all = detector.clone().with_score_threshold(0.05).detect(&image).unwrap();
    assert!(all.len() > sure.len());
    assert_eq!(all[..sure.len()], sure[..]);
    for d in &all {
        let inside = d.bbox.clip(image.width(), image.height());
        assert_eq!(d.bbox, inside);
        assert!(d.score >= 0.05 && d.score <= 1.0 && d.bbox.area() > 0.0);
    }
    let drawn = draw(&image, &sure);
    assert_ne!(drawn, image);
}

#[test]
fn pictures_of_any_size_are_taken() {
    let mut detector = NanoDet::load(&weights(), &DetectConfig { input_size: 32, ..config() }).unwrap();
    for (w, h) in [(1, 1), (1, 500), (500, 1), (31, 33), (64, 64)] {
        let image = RgbImage::new(w, h, vec![90u8; (w * h * 3) as usize]).unwrap();
        for d in detector.detect(&image).unwrap() {
            assert_eq!(d.bbox, BBox::clip(d.bbox, w, h));
        }
    }
    let empty = RgbImage::new(0, 10, Vec::new()).unwrap();
    let error = detector.detect(&empty).unwrap_err().to_string();
    assert_eq!(error, "an image of 0x10 cannot be analysed: it has no pixels");
}

#[test]
fn bad_settings_are_named() {
    let path = weights();
    for (change, key) in [
        (DetectConfig { input_size: 400, ..config() }, "detect.input_size"),
        (DetectConfig { input_size: 0, ..config() }, "detect.input_size"),
        (DetectConfig { score_threshold: 1.0, ..config() }, "detect.score_threshold"),
        (DetectConfig { score_threshold: f32::NAN, ..config() }, "detect.score_threshold"),
        (DetectConfig { nms_iou: 0.0, ..config() }, "detect.nms_iou"),
    ] {
        let error = NanoDet::load(&path, &change).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with(key), "{error:?} does not name {key}");
    }
}
