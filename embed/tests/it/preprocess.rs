//! Preprocessing bit by bit against Pillow and torchvision.

use candle_core::Tensor;
use sightline_core::RgbImage;
use sightline_embed::preprocess::{Filter, pixel_values, resize};

use crate::golden;

fn image(t: &Tensor) -> RgbImage {
    let (h, w, _) = t.dims3().unwrap();
    RgbImage::new(w as u32, h as u32, t.flatten_all().unwrap().to_vec1::<u8>().unwrap()).unwrap()
}

#[test]
fn all_stored_resizes_are_equal() {
    let stored = golden::tensors("cada-tiny/preprocess.safetensors");
    let mut checked = 0;
    for (name, want) in stored.iter().filter(|(n, _)| n.starts_with("resized")) {
        let raw = image(&stored[&format!("raw_{}", name.rsplit('_').next().unwrap())]);
        let filter = if name.contains("bicubic") { Filter::Bicubic } else { Filter::Bilinear };
        let (h, w, _) = want.dims3().unwrap();
        let got = resize(&raw, w, h, filter).unwrap();
        assert_eq!(got, want.flatten_all().unwrap().to_vec1::<u8>().unwrap(), "{name}");
        checked += 1;
    }
    println!("{checked} resized images, every byte equal");
    assert_eq!(checked, 16);
}

#[test]
fn pixel_values_are_equal() {
    let stored = golden::tensors("cada-tiny/preprocess.safetensors");
    let raw: Vec<RgbImage> = (0..6).map(|i| image(&stored[&format!("raw_{i}")])).collect();
    let mut preprocess = golden::config().preprocess;
    for (name, filter) in [("pixel_values", Filter::Bilinear), ("pixel_values_bicubic", Filter::Bicubic)] {
        preprocess.filter = filter;
        let got = pixel_values(&raw, [64, 32], &preprocess).unwrap();
        let distance = golden::distance(&got, &golden::values(&stored[name]));
        println!("{name}: {distance:.1e}");
        assert_eq!(distance, 0.0, "{name}");
    }
}

/// The PNG decoder gives the same bytes as the reference's.
#[test]
fn a_png_file_gives_the_stored_pixels() {
    let stored = golden::tensors("cada-tiny/preprocess.safetensors");
    let png = image::open(golden::path("cada-tiny/image_4.png")).unwrap().into_rgb8();
    assert_eq!(png.into_raw(), stored["raw_4"].flatten_all().unwrap().to_vec1::<u8>().unwrap());
}
