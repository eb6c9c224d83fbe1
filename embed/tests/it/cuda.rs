//! The model on an NVIDIA GPU. Built with the feature `cuda` only and run by `make cuda-test`;
//! without a GPU every test here fails and says so: a machine that was to show this must not skip
//! it.

use candle_core::{DType, Device};
use sightline_core::RgbImage;
use sightline_core::config::EmbedPrecision;
use sightline_embed::{Model, ModelFolder, open_device, resolve_model_folder, self_test};

use crate::{backbone, half};

fn gpu() -> Device {
    open_device("cuda:0").unwrap_or_else(|e| panic!("this test needs an NVIDIA GPU with its driver: {e}")).candle()
}

#[test]
fn single_precision_keeps_to_the_reference() {
    half::check(&gpu(), DType::F32);
}

#[test]
fn f16_keeps_to_the_reference() {
    half::check(&gpu(), DType::F16);
}

#[test]
fn bf16_keeps_to_the_reference() {
    half::check(&gpu(), DType::BF16);
}

#[test]
fn a_backbone_keeps_to_the_reference() {
    for (dtype, tolerance) in [(DType::F32, 1e-3), (DType::F16, 2e-2), (DType::BF16, 8e-2)] {
        backbone::graph::check(&gpu(), dtype, tolerance);
    }
}

#[test]
fn the_shipped_model_passes_its_self_test_and_says_what_it_runs_on() {
    gpu();
    let folder = ModelFolder::open(&resolve_model_folder("default".as_ref()).unwrap()).unwrap();
    let picture = RgbImage::new(60, 150, (0..60 * 150 * 3).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>()).unwrap();
    let exact = Model::load(&folder, "cpu").unwrap().embed_images(std::slice::from_ref(&picture)).unwrap();
    let wanted = [
        (EmbedPrecision::F32, "f32"),
        (EmbedPrecision::F16, "f16"),
        (EmbedPrecision::Bf16, "bf16"),
        (EmbedPrecision::Auto, "f16"),
    ];
    for (precision, name) in wanted {
        let model = Model::load_as(&folder, "cuda:0", precision).unwrap();
        assert_eq!((model.info().device.as_str(), model.info().dtype.as_str()), ("cuda:0", name));
        self_test(&model, &folder).unwrap();
        let here = model.embed_images(std::slice::from_ref(&picture)).unwrap();
        let cosine: f32 = here[0].feature.iter().zip(&exact[0].feature).map(|(a, b)| a * b).sum();
        println!("shipped model in {name}: cosine {cosine} to f32 on the CPU");
        assert!(cosine >= 0.9995, "{name}: {cosine}");
    }
}
