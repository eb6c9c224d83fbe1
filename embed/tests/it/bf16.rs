//! The model in bf16 against itself in f32: how far its answers move when a CPU with bf16 instructions is used. On a CPU
//! without them both runs are f32 and agree exactly.

use candle_core::{D, Tensor};
use sightline_embed::kernel::Precision;
use sightline_embed::nn::l2_normalize;

use crate::golden;

/// Patch features, image features, text features, and match logits of every text with its own picture.
fn answers(precision: Precision) -> [Tensor; 4] {
    let (cada, stored) = (golden::cada(), golden::tensors("cada-tiny/eval.safetensors"));
    let pixels = golden::tensors("cada-tiny/preprocess.safetensors")["pixel_values"].clone();
    let texts = golden::tokens(&stored["input_ids"], &stored["attention_mask"], false);
    precision.scope(|| {
        let images = cada.image_embeds(&pixels).unwrap();
        let image = l2_normalize(&cada.image_proj(&images).unwrap()).unwrap();
        let text = l2_normalize(&cada.text_proj(&cada.text_embeds(&texts, None).unwrap()).unwrap()).unwrap();
        let logits = cada.itm_logits(&cada.fused(&texts, &images, None).unwrap()).unwrap();
        [images, image, text, logits]
    })
}

/// The smallest cosine between rows of `a` and of `b`.
fn least_cosine(a: &Tensor, b: &Tensor) -> f32 {
    let cosine = (l2_normalize(a).unwrap() * l2_normalize(b).unwrap()).unwrap().sum(D::Minus1).unwrap();
    cosine.flatten_all().unwrap().min(0).unwrap().to_scalar().unwrap()
}

#[test]
fn features_and_logits_stay_close_to_f32() {
    let ([p, i, t, l], [bp, bi, bt, bl]) = (answers(Precision::F32), answers(Precision::Bf16));
    for (name, exact, rounded) in [("patches", p, bp), ("image", i, bi), ("text", t, bt)] {
        let cosine = least_cosine(&exact, &rounded);
        println!("{name}: least cosine {cosine}");
        assert!(cosine >= 0.9995, "{name}: {cosine}");
    }
    let moved = golden::max_diff(&l, &bl);
    println!("logits: moved by at most {moved}");
    assert!(moved <= 0.02, "a logit moved by {moved}");
}
