//! The detector on one thread: the network alone (to compare with other engines on the same input)
//! and a whole frame.
//!
//! `cargo bench -p sightline-detect`; needs the weights, see `BENCH.md`.

// The macro below writes an undocumented public function.
#![allow(missing_docs)]

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use sightline_core::RgbImage;
use sightline_core::config::DetectConfig;
use sightline_detect::conv::{Activation, Buffer, Conv, ConvShape, Isa, Map, Method};
use sightline_detect::nanodet::{LAYERS, Network, Weights, Workspace};
use sightline_detect::{Detector, NanoDet};

fn weights() -> PathBuf {
    let path = std::env::var_os("SIGHTLINE_NANODET")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/nanodet-g.safetensors"), PathBuf::from);
    assert!(path.is_file(), "{} is missing; name the weights in SIGHTLINE_NANODET", path.display());
    path
}

/// A map of values that look like an image's to the network: spread around zero.
fn noise(height: usize, width: usize, channels: usize) -> Map {
    let mut map = Map::new(height, width, channels);
    let mut state = 1u32;
    for y in 0..height {
        map.row_mut(y).fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        });
    }
    map
}

fn network(c: &mut Criterion) {
    let network = Network::new(&Weights::load(&weights()).expect("the weights load")).expect("the weights fit");
    let mut group = c.benchmark_group("network");
    for (height, width) in [(416, 416), (416, 544), (416, 736)] {
        let canvas = noise(height, width, 3);
        let mut workspace = Workspace::default();
        group.bench_function(format!("{height}x{width}"), |b| {
            b.iter(|| black_box(network.run(&canvas, &mut workspace).len()));
        });
    }
    group.finish();
}

fn frame(c: &mut Criterion) {
    let config = DetectConfig { weights: weights(), input_size: 416, score_threshold: 0.35, nms_iou: 0.6, threads: 1 };
    let mut detector = NanoDet::load(&config.weights, &config).expect("the weights load");
    let image = image::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vtest_100.png"));
    let image = image.expect("the picture is in the repository").to_rgb8();
    let image = RgbImage::new(image.width(), image.height(), image.into_raw()).expect("whole");
    c.bench_function("frame/768x576", |b| {
        b.iter(|| detector.detect(black_box(&image)).expect("it has pixels").len());
    });
}

/// Every different layer by every method that fits, at the size it has for a canvas of 416x416.
fn layers(c: &mut Criterion) {
    let weights = Weights::load(&weights()).expect("the weights load");
    let mut group = c.benchmark_group("layer");
    let mut seen = Vec::new();
    for layer in LAYERS.iter() {
        let shape = layer.shape;
        let input_side = match layer.name.split('.').collect::<Vec<_>>()[..] {
            ["backbone", _, "0", ..] => 416,
            ["backbone", _, stage, part, ..] => {
                let stage: usize = stage.parse().expect("a number");
                (416 >> stage) * if part == "in_conv" { shape.stride } else { 1 }
            }
            [_, _, level, ..] => 52 >> level.parse::<usize>().expect("a number"),
            _ => unreachable!("all layers have such names"),
        };
        if seen.contains(&(shape, input_side)) {
            continue;
        }
        seen.push((shape, input_side));
        let input = noise(input_side, input_side, shape.inputs);
        let mut output = Map::new(shape.output_size(input_side), shape.output_size(input_side), shape.padded_outputs());
        let (weight, bias) = weights.of(layer);
        let mut scratch = Buffer::default();
        for method in [Method::Direct, Method::Winograd2, Method::Winograd4] {
            let leaky = Activation::Leaky(0.1);
            let Ok(conv) = Conv::with_method(shape, weight, bias, leaky, method, Isa::detect()) else { continue };
            let ConvShape { inputs, outputs, kernel, stride } = shape;
            let name = format!("{input_side}px {inputs}->{outputs} {kernel}x{kernel}/{stride} {method:?}");
            group.bench_function(name, |b| b.iter(|| conv.run(&input, 0, &mut output, 0, &mut scratch)));
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = network, frame, layers
}
criterion_main!(benches);
