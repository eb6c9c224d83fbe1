//! The model held in half precision as a whole, the way a GPU holds it, against the golden data.
//! The same layers run on the CPU then, by candle's own operations and slowly: what a GPU computes
//! with the same code is shown by `cuda`.

use candle_core::{D, DType, Device, Tensor};
use sightline_embed::graph::l2_normalize;

use crate::{golden, graph};

/// Smallest accepted cosine of any row with the reference's.
const LEAST_COSINE: f32 = 0.9995;
/// Largest accepted move of a match logit: f16 keeps three bits more than bf16. The start-up
/// self-test accepts 0.1.
fn largest_move(dtype: DType) -> f64 {
    if dtype == DType::BF16 { 0.1 } else { 0.02 }
}

/// The smallest cosine between rows of `a` and of `b`.
fn least_cosine(a: &Tensor, b: &Tensor) -> f32 {
    let cosine = (l2_normalize(a).unwrap() * l2_normalize(b).unwrap()).unwrap().sum(D::Minus1).unwrap();
    cosine.flatten_all().unwrap().min(0).unwrap().to_scalar().unwrap()
}

/// Holds patch features, image features, text features and the logits of both heads of the model in
/// `dtype` on `device` against the reference's. Logits are f32 in every `dtype`.
pub fn check(device: &Device, dtype: DType) {
    let want = golden::tensors("cada-tiny/eval.safetensors");
    let cada = graph::model(dtype, device);
    assert_eq!(cada.dtype(), dtype);
    let pixels = golden::tensors("cada-tiny/preprocess.safetensors")["pixel_values"].to_device(device).unwrap();
    let texts = golden::tokens(&want["input_ids"], &want["attention_mask"], true);
    let home = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();

    let images = cada.image_embeds(&pixels).unwrap();
    assert_eq!(images.dtype(), dtype, "patch features stay in the model's type");
    let image = l2_normalize(&cada.image_proj(&images).unwrap()).unwrap();
    let text = l2_normalize(&cada.text_proj(&texts, &cada.text_embeds(&texts, None).unwrap()).unwrap()).unwrap();
    for (name, got) in [("image_embeds", &images), ("image_feats", &image), ("text_feats", &text)] {
        let cosine = least_cosine(&home(got), &want[name]);
        println!("{dtype:?}, {name}: least cosine {cosine}");
        assert!(cosine >= LEAST_COSINE, "{name} in {dtype:?} on {device:?}: {cosine}");
    }
    let rows: Vec<usize> = (0..36).map(|p| p / 6).collect();
    let columns = Tensor::from_vec((0..36u32).map(|p| p % 6).collect(), 36, device).unwrap();
    let fused = cada.fused(&texts.select(&rows), &images.index_select(&columns, 0).unwrap(), None).unwrap();
    let means = want["group1_mean"].to_dtype(dtype).unwrap().to_device(device).unwrap();
    let (whole, local) = (cada.itm_logits(&fused).unwrap(), cada.itm_local_logits(&means).unwrap());
    for (name, got) in [("itm_logits", whole), ("itm_local_logits_g1", local)] {
        assert_eq!(got.dtype(), DType::F32, "{name} of a model in {dtype:?}");
        let moved = golden::max_diff(&home(&got), &want[name]);
        println!("{dtype:?}, {name}: moved by at most {moved}");
        assert!(moved <= largest_move(dtype), "{name} in {dtype:?} on {device:?} moved by {moved}");
    }
}

#[test]
fn f16_keeps_to_the_reference() {
    check(&Device::Cpu, DType::F16);
}

#[test]
fn bf16_keeps_to_the_reference() {
    check(&Device::Cpu, DType::BF16);
}
