//! The network in bf16 against itself in f32: how far its answers move when a CPU with bf16
//! instructions is used. On a CPU without them both runs are f32 and agree exactly.

use sightline_embed::kernel::Precision;
use sightline_embed::model::l2_normalize;

use crate::golden;

/// Patch features, image features, text features, and match logits of every text with its own
/// picture.
fn answers(precision: Precision) -> [Vec<f32>; 4] {
    let (cada, stored) = (golden::net(precision), golden::tensors("cada-tiny/eval.safetensors"));
    let pixels = golden::values(&golden::tensors("cada-tiny/preprocess.safetensors")["pixel_values"]);
    let texts = golden::tokens(&stored["input_ids"], &stored["attention_mask"], false);
    let normed = |features: &[f32]| {
        let mut features = features.to_vec();
        l2_normalize(&mut features, cada.arch().embed_dim);
        features
    };
    let images = cada.image_embeds(&pixels).unwrap();
    let image = normed(&cada.image_proj(&cada.class_tokens(&images)).unwrap());
    let hidden = cada.text_embeds(&texts).unwrap();
    let text = normed(&cada.text_proj(&cada.pool_text(&texts, &hidden)).unwrap());
    let fused = cada.fused(&texts, &images).unwrap();
    let logits = cada.itm_logits(&cada.first_rows(&texts, &fused)).unwrap();
    [images.to_vec(), image, text, logits.to_vec()]
}

/// The smallest cosine between rows of `width` numbers of `a` and of `b`.
fn least_cosine(a: &[f32], b: &[f32], width: usize) -> f32 {
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    rows.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).fold(1.0, f32::min)
}

#[test]
fn features_and_logits_stay_close_to_f32() {
    let ([p, i, t, l], [bp, bi, bt, bl]) = (answers(Precision::F32), answers(Precision::Bf16));
    let arch = golden::arch();
    let (vision, dim) = (arch.vision_width, arch.embed_dim);
    for (name, exact, rounded, width) in [("patches", p, bp, vision), ("image", i, bi, dim), ("text", t, bt, dim)] {
        let cosine = least_cosine(&exact, &rounded, width);
        println!("{name}: least cosine {cosine}");
        assert!(cosine >= 0.9995, "{name}: {cosine}");
    }
    let moved = golden::distance(&l, &bl);
    println!("logits: moved by at most {moved}");
    assert!(moved <= 0.02, "a logit moved by {moved}");
}
