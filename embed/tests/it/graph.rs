//! Every tensor of the reference's evaluation mode against the graph's: padded as the reference
//! runs it, trimmed as we do, and one by one against the batch.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use candle_core::{DType, Device, IndexOp, Tensor};
use sightline_embed::EmbedError;
use sightline_embed::graph::{Cada, Pass, WordPredictor, l2_normalize};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{GraphNetwork, Network, TokenBatch};

use crate::golden;

/// The tiny reference model as a graph.
pub fn model(dtype: DType, device: &Device) -> Cada {
    let vb = candle_nn::VarBuilder::from_tensors(golden::weights(), dtype, device);
    Cada::new(&golden::arch(), WordPredictor::Own, vb).unwrap()
}

struct Golden {
    cada: Cada,
    want: std::collections::HashMap<String, Tensor>,
    pixels: Tensor,
    got: BTreeMap<String, Tensor>,
}

/// Loaded and computed once for all tests of this module.
fn all() -> &'static Golden {
    static ALL: OnceLock<Golden> = OnceLock::new();
    ALL.get_or_init(|| {
        let (cada, want) = (model(DType::F32, &Device::Cpu), golden::tensors("cada-tiny/eval.safetensors"));
        let pixels = golden::tensors("cada-tiny/preprocess.safetensors")["pixel_values"].clone();
        let got = outputs(&cada, &want, &pixels);
        Golden { cada, want, pixels, got }
    })
}

fn texts(want: &std::collections::HashMap<String, Tensor>, padded: bool) -> TokenBatch {
    golden::tokens(&want["input_ids"], &want["attention_mask"], padded)
}

/// Pair p = text p / 6, image p % 6.
fn pairs(texts: &TokenBatch, images: &Tensor) -> (TokenBatch, Tensor) {
    let rows: Vec<usize> = (0..36).map(|p| p / 6).collect();
    let columns = Tensor::from_vec((0..36u32).map(|p| p % 6).collect(), 36, &Device::Cpu).unwrap();
    (texts.select(&rows), images.index_select(&columns, 0).unwrap())
}

fn outputs(cada: &Cada, want: &std::collections::HashMap<String, Tensor>, pixels: &Tensor) -> BTreeMap<String, Tensor> {
    let mut out = BTreeMap::new();
    let mut put = |name: &str, t: Tensor| {
        out.insert(name.to_owned(), t);
    };
    let vit = &cada.visual_encoder;
    put("dbg.vit.patch_embed", vit.patch.forward(&vit.tokens(pixels).unwrap()).unwrap());
    let embedded = vit.embed(pixels).unwrap();
    put("dbg.vit.block0.attn", vit.blocks[0].attend(&embedded).unwrap());
    put("dbg.vit.block0", vit.blocks[0].forward(&embedded).unwrap());
    let images = cada.image_embeds(pixels).unwrap();
    let image_proj = cada.image_proj(&images).unwrap();
    let image_feats = l2_normalize(&image_proj).unwrap();

    let t = texts(want, true);
    let bert = &cada.text_encoder;
    let embedded = bert.embed(&t).unwrap();
    put("dbg.text.layer0", bert.layers[0].forward(&embedded, &t.mask(false), &Pass::default()).unwrap());
    put("dbg.text.embeddings", embedded);
    let text_embeds = cada.text_embeds(&t, None).unwrap();
    let text_proj = cada.text_proj(&t, &text_embeds).unwrap();
    let text_feats = l2_normalize(&text_proj).unwrap();
    let cosine = text_feats.matmul(&image_feats.t().unwrap()).unwrap();

    let (pair_texts, pair_images) = pairs(&t, &images);
    let encoded = pair_texts.with_first(cada.arch().enc_token_id);
    let pass = Pass { image: Some(&pair_images), ..Pass::default() };
    let first = bert.layers[0].forward(&bert.embed(&encoded).unwrap(), &encoded.mask(false), &pass).unwrap();
    put("dbg.fused.layer0", first);
    let fused = cada.fused(&pair_texts, &pair_images, None).unwrap();
    let logits = cada.itm_logits(&fused).unwrap();
    for (group, from) in [("1", 1), ("2", 37)] {
        let mean = fused.narrow(1, from, 36).unwrap().mean(1).unwrap();
        put(&format!("itm_local_logits_g{group}"), cada.itm_local_logits(&mean).unwrap());
        put(&format!("group{group}_mean"), mean);
    }
    let (text1, image1) = (t.select(&[1]).with_first(cada.arch().enc_token_id), images.i(1..2).unwrap());
    for (i, p) in bert.cross_attention(&text1, &image1).unwrap().into_iter().enumerate() {
        put(&format!("cross_attn_pair11_layer{i}"), p);
    }
    masked_words(cada, want, &image1, &mut put);
    put("image_embeds", images);
    put("image_proj", image_proj);
    put("image_feats", image_feats);
    put("text_embeds", text_embeds);
    put("text_proj", text_proj);
    put("text_feats", text_feats);
    put("cosine_t2i", cosine);
    put("fused", fused);
    put("itm_logits", logits);
    out
}

/// Word prediction of caption 1 on image 1, causal as the reference and bidirectional as the paper.
fn masked_words(
    cada: &Cada,
    want: &std::collections::HashMap<String, Tensor>,
    image: &Tensor,
    put: &mut impl FnMut(&str, Tensor),
) {
    let decoder = cada.text_decoder.as_ref().unwrap();
    let tokens = golden::tokens(&want["mlm_input_ids"], &want["attention_mask"].i(1..2).unwrap(), true);
    let positions = want["mlm_positions"].to_dtype(DType::U32).unwrap();
    let labels = want["mlm_labels"].to_dtype(DType::U32).unwrap();
    for (form, causal) in [("causal", true), ("bidir", false)] {
        let hidden = decoder.bert.forward(&tokens, &Pass { image: Some(image), causal, dropout: None }).unwrap();
        let logits = decoder.logits(&hidden.index_select(&positions, 1).unwrap()).unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits.squeeze(0).unwrap(), &labels).unwrap();
        put(&format!("mlm_loss_{form}"), loss);
        put(&format!("mlm_logits_{form}"), logits);
        if causal {
            put("mlm_logits_causal_pos0", decoder.logits(&hidden.i((.., 0)).unwrap()).unwrap());
        }
        put(&format!("mlm_hidden_{form}"), hidden);
    }
}

fn check(names: &[&str]) {
    let g = all();
    for name in names {
        let (distance, limit) = (golden::max_diff(&g.got[*name], &g.want[*name]), golden::tolerance(name));
        println!("{name}: {distance:.2e} of {limit:.0e}");
        assert!(distance <= limit, "{name} is {distance:.2e} away, limit {limit:.0e}");
    }
}

#[test]
fn image_encoder() {
    check(&["dbg.vit.patch_embed", "dbg.vit.block0.attn", "dbg.vit.block0", "image_embeds"]);
}

#[test]
fn image_features() {
    check(&["image_proj", "image_feats"]);
}

#[test]
fn text_encoder() {
    check(&["dbg.text.embeddings", "dbg.text.layer0", "text_embeds"]);
}

#[test]
fn text_features() {
    check(&["text_proj", "text_feats"]);
}

#[test]
fn cosine() {
    check(&["cosine_t2i"]);
}

#[test]
fn fused_decoder() {
    check(&["dbg.fused.layer0", "fused"]);
}

#[test]
fn cross_attention() {
    check(&["cross_attn_pair11_layer0", "cross_attn_pair11_layer1"]);
}

#[test]
fn match_logits() {
    check(&["itm_logits", "group1_mean", "group2_mean", "itm_local_logits_g1", "itm_local_logits_g2"]);
}

#[test]
fn masked_word_prediction() {
    check(&["mlm_hidden_causal", "mlm_logits_causal", "mlm_logits_causal_pos0", "mlm_loss_causal"]);
    check(&["mlm_hidden_bidir", "mlm_logits_bidir", "mlm_loss_bidir"]);
}

/// The table to show, and the proof that no stored activation is left out.
#[test]
fn table_of_all_tensors() {
    let g = all();
    println!("{:<28} {:>10} {:>10} {:>7}", "tensor", "max|diff|", "tolerance", "used %");
    let mut worst: f64 = 0.0;
    for (name, want) in g.want.iter().filter(|(_, t)| t.dtype() == DType::F32).collect::<BTreeMap<_, _>>() {
        // Scores of both stages are the trainer's.
        if name.starts_with("score_") {
            continue;
        }
        let got = g.got.get(name).unwrap_or_else(|| panic!("{name} is stored, but nothing here computes it"));
        let (distance, limit) = (golden::max_diff(got, want), golden::tolerance(name));
        println!("{name:<28} {distance:>10.2e} {limit:>10.0e} {:>7.1}", 100.0 * distance / limit);
        worst = worst.max(distance / limit);
    }
    println!("worst: {:.1} % of its tolerance", 100.0 * worst);
    assert!(worst <= 1.0);
}

/// Without padding everything that is not padding stays the same, and so do all logits.
#[test]
fn trimmed_equals_padded() {
    let g = all();
    let padded = texts(&g.want, true);
    let mut worst: f64 = 0.0;
    for text in 0..6 {
        let length = padded.lengths()[text];
        let ids = &padded.select(&[text]).ids()[..length].to_vec();
        let one = TokenBatch::new(&[ids], 0, None);
        let alone = g.cada.text_embeds(&one, None).unwrap();
        worst = worst.max(golden::max_diff(&alone, &g.want["text_embeds"].i((text..=text, ..length)).unwrap()));
        let images = &g.want["image_embeds"];
        let fused = g.cada.fused(&one.select(&[0; 6]), images, None).unwrap();
        let rows = text * 6..text * 6 + 6;
        worst = worst.max(golden::max_diff(&fused, &g.want["fused"].i((rows.clone(), ..length)).unwrap()));
        let logits = g.cada.itm_logits(&fused).unwrap();
        worst = worst.max(golden::max_diff(&logits, &g.want["itm_logits"].i(rows).unwrap()));
    }
    println!("trimmed: {worst:.2e} of 5e-5");
    assert!(worst <= golden::tolerance("fused"));
}

/// The phrases of texts of different lengths have the logits that they have on the CPU, and both
/// refuse the same ranges of tokens.
#[test]
fn phrases_are_judged_and_refused_as_on_the_cpu() {
    let g = all();
    let cpu = Network::Cpu(Box::new(golden::net(Precision::F32)));
    let graph = Network::Graph(Box::new(GraphNetwork::of(g.cada.clone(), Device::Cpu, Precision::F32)));
    let (tokens, images) = (texts(&g.want, false), golden::values(&g.want["image_embeds"]));
    let (shortest, longest) = (*tokens.lengths().iter().min().unwrap(), tokens.tokens());
    assert!(shortest < longest, "some text has padding");
    let pieces = [1..3, 2..shortest];
    let judged = |network: &Network| network.match_and_phrase_logits(&tokens, &images, &pieces).unwrap();
    let ((whole, phrases), (want_whole, want_phrases)) = (judged(&graph), judged(&cpu));
    assert_eq!((whole.len(), phrases.len()), (6, 12));
    for (got, want) in [(whole, want_whole), (phrases, want_phrases)] {
        assert!(golden::distance(got.as_flattened(), want.as_flattened()) < 1e-4, "{got:?} {want:?}");
    }
    for wrong in [2..2, 1..shortest + 1, 1..longest + 1] {
        let refused = |network: &Network| {
            let pieces = [1..3, wrong.clone()];
            network.match_and_phrase_logits(&tokens, &images, &pieces).unwrap_err()
        };
        let (here, there) = (refused(&graph), refused(&cpu));
        assert!(matches!((&here, &there), (EmbedError::Shape(a), EmbedError::Shape(b)) if a == b), "{here} {there}");
        assert!(here.to_string().contains(&format!("{wrong:?}")), "{here}");
    }
}

/// What is in the batch beside it must not change a picture, a text or a pair.
#[test]
fn batch_equals_single() {
    let g = all();
    let (texts, images) = (texts(&g.want, false), &g.got["image_embeds"]);
    let together = g.cada.text_embeds(&texts, None).unwrap();
    let (pair_texts, pair_images) = pairs(&texts, images);
    let fused = g.cada.fused(&pair_texts, &pair_images, None).unwrap();
    let mut worst: f64 = 0.0;
    for i in 0..6 {
        let image = g.cada.image_embeds(&g.pixels.i(i..i + 1).unwrap()).unwrap();
        worst = worst.max(golden::max_diff(&image, &images.i(i..i + 1).unwrap()));
        let text = g.cada.text_embeds(&texts.select(&[i]), None).unwrap();
        worst = worst.max(golden::max_diff(&text, &together.i(i..i + 1).unwrap()));
        let p = i * 7;
        if p < 36 {
            let pair = g.cada.fused(&pair_texts.select(&[p]), &pair_images.i(p..p + 1).unwrap(), None).unwrap();
            worst = worst.max(golden::max_diff(&pair, &fused.i(p..p + 1).unwrap()));
        }
    }
    println!("batch against single: {worst:.2e}");
    assert!(worst <= 1e-5);
}
