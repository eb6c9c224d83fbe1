//! The CPU's network against every stored tensor of the reference's evaluation mode that serving
//! computes, alone and in a batch, with one thread and with many.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use candle_core::{DType, IndexOp, Tensor};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{TokenBatch, l2_normalize};
use sightline_embed::net::Cada;

use crate::golden;

struct Golden {
    cada: Cada,
    want: HashMap<String, Tensor>,
    pixels: Vec<f32>,
    /// What we compute, and what the reference stored, by name; rows of padding are in neither.
    got: BTreeMap<&'static str, (Vec<f32>, Vec<f32>)>,
}

/// Loaded and computed once for all tests of this module.
fn all() -> &'static Golden {
    static ALL: OnceLock<Golden> = OnceLock::new();
    ALL.get_or_init(|| {
        let (cada, want) = (golden::net(Precision::F32), golden::tensors("cada-tiny/eval.safetensors"));
        let pixels = golden::values(&golden::tensors("cada-tiny/preprocess.safetensors")["pixel_values"]);
        let got = outputs(&cada, &want, &pixels);
        Golden { cada, want, pixels, got }
    })
}

fn texts(want: &HashMap<String, Tensor>) -> TokenBatch {
    golden::tokens(&want["input_ids"], &want["attention_mask"], false)
}

/// Pair p = text p / 6, picture p % 6.
fn pairs(texts: &TokenBatch, images: &[f32]) -> (TokenBatch, Vec<f32>) {
    let each = images.len() / 6;
    let rows: Vec<usize> = (0..36).map(|p| p / 6).collect();
    (texts.select(&rows), (0..36).flat_map(|p| &images[p % 6 * each..][..each]).copied().collect())
}

/// The true rows of stored hidden states `[texts, 73, width]`, texts one behind the other.
fn trimmed(stored: &Tensor, lengths: &[usize]) -> Vec<f32> {
    let of = |(item, length): (usize, &usize)| golden::values(&stored.i((item, ..*length)).unwrap());
    lengths.iter().enumerate().flat_map(of).collect()
}

fn outputs(
    cada: &Cada,
    want: &HashMap<String, Tensor>,
    pixels: &[f32],
) -> BTreeMap<&'static str, (Vec<f32>, Vec<f32>)> {
    let mut out = BTreeMap::new();
    let mut put = |name: &'static str, got: &[f32], stored: Vec<f32>| {
        out.insert(name, (got.to_vec(), stored));
    };
    let stored = |name: &str| golden::values(&want[name]);
    let normed = |features: &[f32]| {
        let mut features = features.to_vec();
        l2_normalize(&mut features, cada.arch().embed_dim);
        features
    };
    let vit = cada.visual_encoder();
    put("dbg.vit.block0", &vit.through(vit.embed(pixels).unwrap(), 2).unwrap(), stored("dbg.vit.block0"));
    let images = cada.image_embeds(pixels).unwrap();
    let image_proj = cada.image_proj(&cada.class_tokens(&images)).unwrap();
    let image_feats = normed(&image_proj);

    let t = texts(want);
    let bert = cada.text_encoder();
    let lengths = t.lengths();
    put("dbg.text.embeddings", &bert.embed(&t).unwrap(), trimmed(&want["dbg.text.embeddings"], lengths));
    put("dbg.text.layer0", &bert.through(&t, None, false, 1).unwrap(), trimmed(&want["dbg.text.layer0"], lengths));
    let text_embeds = cada.text_embeds(&t).unwrap();
    let text_proj = cada.text_proj(&cada.first_rows(&t, &text_embeds)).unwrap();
    let text_feats = normed(&text_proj);
    let cosine: Vec<f32> = text_feats
        .chunks(cada.arch().embed_dim)
        .flat_map(|t| image_feats.chunks(cada.arch().embed_dim).map(move |i| t.iter().zip(i).map(|(a, b)| a * b).sum()))
        .collect();

    let (pair_texts, pair_images) = pairs(&t, &images);
    let encoded = pair_texts.with_first(cada.arch().enc_token_id);
    let pair_lengths = encoded.lengths();
    let layer0 = bert.through(&encoded, Some(&pair_images), false, 1).unwrap();
    put("dbg.fused.layer0", &layer0, trimmed(&want["dbg.fused.layer0"], pair_lengths));
    let fused = cada.fused(&pair_texts, &pair_images).unwrap();
    let logits = cada.itm_logits(&cada.first_rows(&pair_texts, &fused)).unwrap();
    for (mean, name) in [("group1_mean", "itm_local_logits_g1"), ("group2_mean", "itm_local_logits_g2")] {
        put(name, &cada.itm_local_logits(&stored(mean)).unwrap(), stored(name));
    }
    let text1 = t.select(&[1]).with_first(cada.arch().enc_token_id);
    let image1 = &images[images.len() / 6..images.len() / 3];
    let names = ["cross_attn_pair11_layer0", "cross_attn_pair11_layer1"];
    for (name, p) in names.into_iter().zip(bert.cross_attention(&text1, image1).unwrap()) {
        let own = want[name].i((0, .., ..text1.lengths()[0])).unwrap();
        put(name, &p, golden::values(&own));
    }
    put("image_embeds", &images, stored("image_embeds"));
    put("image_proj", &image_proj, stored("image_proj"));
    put("image_feats", &image_feats, stored("image_feats"));
    put("text_embeds", &text_embeds, trimmed(&want["text_embeds"], lengths));
    put("text_proj", &text_proj, stored("text_proj"));
    put("text_feats", &text_feats, stored("text_feats"));
    put("cosine_t2i", &cosine, stored("cosine_t2i"));
    put("fused", &fused, trimmed(&want["fused"], pair_lengths));
    put("itm_logits", &logits, stored("itm_logits"));
    out
}

/// Stored tensors that serving on a CPU does not compute by themselves, and why.
const NOT_SERVED: [&str; 4] = [
    // Part of `dbg.vit.block0`: patches and positions are one product, attention and residual
    // another.
    "dbg.vit.patch_embed",
    "dbg.vit.block0.attn",
    // Means over rows of padding too: the trainer's.
    "group1_mean",
    "group2_mean",
];

/// The table to show, and the proof that no stored activation is left out without a reason.
#[test]
fn table_of_all_tensors() {
    let g = all();
    println!("{:<28} {:>10} {:>10} {:>7}", "tensor", "max|diff|", "tolerance", "used %");
    let mut worst: f64 = 0.0;
    for (name, _) in g.want.iter().filter(|(_, t)| t.dtype() == DType::F32).collect::<BTreeMap<_, _>>() {
        // Word prediction and the score's forms are the trainer's.
        if NOT_SERVED.contains(&name.as_str()) || name.starts_with("mlm_") || name.starts_with("score_") {
            continue;
        }
        let (got, want) = g.got.get(name.as_str()).unwrap_or_else(|| panic!("{name}: nothing here computes it"));
        let (distance, limit) = (golden::distance(got, want), golden::tolerance(name));
        println!("{name:<28} {distance:>10.2e} {limit:>10.0e} {:>7.1}", 100.0 * distance / limit);
        worst = worst.max(distance / limit);
    }
    println!("worst: {:.1} % of its tolerance", 100.0 * worst);
    assert!(worst <= 1.0);
}

/// What is in the batch beside it, and how many threads there are, must not change a picture, a
/// text or a pair.
#[test]
fn batch_equals_single_on_any_number_of_threads() {
    let g = all();
    let texts = texts(&g.want);
    let (images, _) = &g.got["image_embeds"];
    let (pair_texts, pair_images) = pairs(&texts, images);
    let picture = g.pixels.len() / 6;
    let each = images.len() / 6;
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut worst: f64 = 0.0;
        pool.install(|| {
            let together = g.cada.text_embeds(&texts).unwrap();
            let fused = g.cada.fused(&pair_texts, &pair_images).unwrap();
            let (rows, pair_rows) = (g.cada.text_encoder().rows(&texts), g.cada.text_encoder().rows(&pair_texts));
            for i in 0..6 {
                let image = g.cada.image_embeds(&g.pixels[i * picture..(i + 1) * picture]).unwrap();
                worst = worst.max(golden::distance(&image, &images[i * each..(i + 1) * each]));
                let text = g.cada.text_embeds(&texts.select(&[i])).unwrap();
                let own = rows.before(i) * rows.width..rows.before(i + 1) * rows.width;
                worst = worst.max(golden::distance(&text, &together[own]));
                let p = i * 7;
                if p < 36 {
                    let image = &pair_images[p * each..(p + 1) * each];
                    let pair = g.cada.fused(&pair_texts.select(&[p]), image).unwrap();
                    let own = pair_rows.before(p) * rows.width..pair_rows.before(p + 1) * rows.width;
                    worst = worst.max(golden::distance(&pair, &fused[own]));
                }
            }
        });
        println!("{threads} threads, batch against single: {worst:.2e}");
        assert!(worst <= 1e-5);
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let g = all();
    let texts = texts(&g.want);
    let e = g.cada.image_embeds(&g.pixels[1..]).unwrap_err().to_string();
    assert!(e.contains("64 x 32"), "{e}");
    let e = g.cada.fused(&texts, &[0.0; 7]).unwrap_err().to_string();
    assert!(e.contains("patch features"), "{e}");
    let foreign = TokenBatch::new(&[vec![9_999_999u32]], 0, None);
    let e = g.cada.text_embeds(&foreign).unwrap_err().to_string();
    assert!(e.contains("9999999"), "{e}");
    assert!(g.cada.image_embeds(&[]).unwrap().is_empty());
}
