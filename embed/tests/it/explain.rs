//! Explanations of the tiny reference model: their form, which words they are of, and that they are
//! about the patches.

use std::collections::HashMap;

use candle_core::Tensor;
use half::f16;
use sightline_core::PatchFeatures;
use sightline_embed::net::AttentionMeasure;
use sightline_embed::{EmbedError, ExplainMethod, Explanation, Highlight, Model, ModelFolder};

use crate::{folder, golden};

const QUERY: &str = "A man in a dark-grey hooded sweatshirt, with NO backpack!";

fn model_with(change: impl Fn(&mut HashMap<String, Tensor>)) -> Model {
    let dir = folder::model_with(change);
    Model::load(&ModelFolder::open(dir.path()).unwrap(), "cpu").unwrap()
}

fn model() -> Model {
    model_with(|_| {})
}

fn picture(model: &Model) -> PatchFeatures {
    model.embed_images(&folder::pictures()[..1]).unwrap().swap_remove(0).patches
}

/// Patch features whose row `row` has `value(row)` everywhere.
fn patches(value: impl Fn(usize) -> f32) -> PatchFeatures {
    let data = (0..9).flat_map(|row| [f16::from_f32(value(row)).to_le_bytes(); 64]).flatten();
    PatchFeatures { rows: 9, width: 64, data: data.collect::<Vec<u8>>().into() }
}

fn maps(explanation: &Explanation) -> Vec<&Vec<f32>> {
    let parts = explanation.words.iter().chain(&explanation.phrases).map(|part| &part.weights);
    std::iter::once(&explanation.whole).chain(parts).collect()
}

fn texts(parts: &[Highlight]) -> Vec<&str> {
    parts.iter().map(|part| part.text.as_str()).collect()
}

#[test]
fn every_word_and_phrase_has_a_map_over_the_patches() {
    let model = model();
    let (query, picture) = (model.encode_text(QUERY).unwrap(), picture(&model));
    for method in ExplainMethod::ALL {
        let found = model.explain_by(&query, &picture, method).unwrap();
        assert_eq!((found.grid.rows, found.grid.cols), (4, 2));
        let words = ["a", "man", "in", "a", "dark-grey", "hooded", "sweatshirt", "with", "no", "backpack"];
        assert_eq!(texts(&found.words), words);
        assert_eq!(texts(&found.phrases), ["man", "dark-grey hooded sweatshirt", "backpack"]);
        assert_eq!(found.phrases.iter().map(|p| p.negated).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(&query.text[found.phrases[2].bytes.clone()], "no backpack");
        for map in maps(&found) {
            assert_eq!(map.len(), 8);
            assert!(map.iter().all(|weight| *weight >= 0.0 && weight.is_finite()), "{method}: {map:?}");
            assert!((map.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{method}: {map:?}");
        }
        assert_eq!(found, model.explain_by(&query, &picture, method).unwrap(), "the same again");
    }
    let default = model.explain_by(&query, &picture, ExplainMethod::default()).unwrap();
    assert_eq!(model.explain(&query, &picture).unwrap(), default);
}

/// A word of several pieces, and a phrase of several words, has the mean of what its pieces look
/// at.
#[test]
fn pieces_are_joined_to_words_and_phrases() {
    let model = model();
    let (query, picture) = (model.encode_text(QUERY).unwrap(), picture(&model));
    let last = ExplainMethod::Attention { by: AttentionMeasure::Probability, layers: 1, own: false };
    let found = model.explain_by(&query, &picture, last).unwrap();
    let tokens = sightline_embed::model::TokenBatch::new(&[&query.ids], 0, None);
    let values: Vec<f32> = picture.data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect();
    let attention =
        model.network().attention_maps(&tokens, &values, AttentionMeasure::Probability).unwrap().pop().unwrap();
    let rows: Vec<&[f32]> = attention.chunks_exact(9).collect();
    assert_eq!(rows.len(), query.ids.len());
    assert!(found.words[4].text == "dark-grey" && found.words[4].pieces.len() > 1, "{:?}", found.words[4]);
    for part in found.words.iter().chain(&found.phrases) {
        let mut want = [0.0; 8];
        for row in &rows[part.pieces.clone()] {
            let total: f32 = row[1..].iter().sum();
            want.iter_mut().zip(&row[1..]).for_each(|(want, p)| *want += p / total / part.pieces.len() as f32);
        }
        assert!(golden::distance(&part.weights, &want) < 1e-5, "{}", part.text);
    }
    // A phrase spans its words.
    let sweatshirt = &found.phrases[1];
    let own: Vec<_> = found.words.iter().filter(|word| sweatshirt.bytes.contains(&word.bytes.start)).collect();
    assert_eq!(sweatshirt.pieces, own[0].pieces.start..own[2].pieces.end);
}

/// The decoder knows places by what is there alone: with the patches in another order, so are the
/// maps.
#[test]
fn patches_in_another_order_give_the_map_in_that_order() {
    let model = model();
    let (query, picture) = (model.encode_text(QUERY).unwrap(), picture(&model));
    let order = [5, 2, 7, 0, 1, 6, 3, 4];
    let row = |row: usize| picture.data[row * 128..][..128].to_vec();
    let data: Vec<u8> = [vec![row(0)], order.map(|patch| row(patch + 1)).to_vec()].concat().concat();
    let other = PatchFeatures { data: data.into(), ..picture.clone() };
    for method in ExplainMethod::ALL {
        let before = model.explain_by(&query, &picture, method).unwrap();
        let after = model.explain_by(&query, &other, method).unwrap();
        for (before, after) in maps(&before).into_iter().zip(maps(&after)) {
            let want = order.map(|patch| before[patch]);
            assert!(golden::distance(after, &want) < 1e-3, "{method}: {after:?}, {want:?}");
        }
    }
}

/// Sets a tensor of every cross-attention to a constant.
fn set(tensors: &mut HashMap<String, Tensor>, name: &str, value: f64) {
    for layer in 0..2 {
        let tensor =
            tensors.get_mut(&format!("text_encoder.encoder.layer.{layer}.crossattention.self.{name}")).unwrap();
        *tensor = tensor.ones_like().unwrap().affine(value, 0.0).unwrap();
    }
}

/// A decoder that asks for bright patches, whatever the word.
fn looks_for_bright(tensors: &mut HashMap<String, Tensor>) {
    for (name, value) in [("query.weight", 0.0), ("query.bias", 1.0), ("key.weight", 0.1), ("key.bias", 0.0)] {
        set(tensors, name, value);
    }
}

#[test]
fn what_the_decoder_looks_for_is_highlighted() {
    let model = model_with(looks_for_bright);
    let query = model.encode_text(QUERY).unwrap();
    let bright = patches(|row| if row == 6 { 1.0 } else { -1.0 });
    for by in [AttentionMeasure::Probability, AttentionMeasure::Contribution] {
        let method = ExplainMethod::Attention { by, layers: 2, own: false };
        let found = model.explain_by(&query, &bright, method).unwrap();
        for map in maps(&found) {
            assert!(map[5] > 0.99, "{method}: {map:?}");
        }
    }
    // Without it the decoder reads other values: only the logits that fall are highlighted, and by
    // this patch alone.
    let found = model.explain_by(&query, &bright, ExplainMethod::Occlusion).unwrap();
    let alone = maps(&found).into_iter().filter(|map| map[5] > 0.99).count();
    assert!(alone > 0, "{found:?}");
}

/// From a picture that gives the decoder nothing, no patch stands out.
#[test]
fn where_nothing_is_taken_from_the_picture_all_patches_are_equal() {
    let model = model_with(|tensors| {
        set(tensors, "value.weight", 0.0);
        set(tensors, "value.bias", 0.0);
    });
    let (query, picture) = (model.encode_text(QUERY).unwrap(), picture(&model));
    let attention = |own| ExplainMethod::Attention { by: AttentionMeasure::Contribution, layers: 2, own };
    for method in [attention(false), attention(true), ExplainMethod::Occlusion] {
        let found = model.explain_by(&query, &picture, method).unwrap();
        assert!(maps(&found).iter().all(|map| **map == vec![0.125; 8]), "{method}: {found:?}");
    }
}

#[test]
fn foreign_and_damaged_patches_are_refused() {
    let model = model();
    let query = model.encode_text(QUERY).unwrap();
    let foreign = PatchFeatures { rows: 8, width: 64, data: vec![0; 8 * 64 * 2].into() };
    let e = model.explain(&query, &foreign).unwrap_err();
    assert!(matches!(&e, EmbedError::PatchFeatures { .. }), "{e}");
    let damaged = patches(|row| if row == 3 { f32::NAN } else { 0.0 });
    for method in ExplainMethod::ALL {
        let e = model.explain_by(&query, &damaged, method).unwrap_err();
        assert!(matches!(e, EmbedError::NotFinite), "{method}: {e}");
    }
}

/// What does not fit into the model's texts has no map.
#[test]
fn words_that_were_cut_off_are_left_out() {
    let model = model();
    let query = model.encode_text(&"red sweatshirt, blue jeans, ".repeat(18)).unwrap();
    assert_eq!((query.truncated, query.ids.len()), (true, 73));
    let found = model.explain(&query, &picture(&model)).unwrap();
    let last = query.ids.len() - 1;
    assert!(found.words.iter().chain(&found.phrases).all(|part| part.pieces.end <= last));
}

/// The graph of a GPU looks where the CPU looks.
#[cfg(feature = "candle")]
#[test]
fn the_graph_looks_where_the_cpu_looks() {
    use candle_core::{DType, Device};
    use sightline_embed::kernel::Precision;
    use sightline_embed::model::{GraphNetwork, Network, TokenBatch};

    let cpu = Network::Cpu(Box::new(golden::net(Precision::F32)));
    let graph = crate::graph::model(DType::F32, &Device::Cpu);
    let graph = Network::Graph(Box::new(GraphNetwork::of(graph, Device::Cpu, Precision::F32)));
    let want = golden::tensors("cada-tiny/eval.safetensors");
    let tokens = golden::tokens(&want["input_ids"], &want["attention_mask"], false).select(&[0, 1, 4]);
    let images = golden::values(&want["image_embeds"]);
    let images = &images[..images.len() / 2];
    for by in [AttentionMeasure::Probability, AttentionMeasure::Contribution] {
        let (a, b) =
            (cpu.attention_maps(&tokens, images, by).unwrap(), graph.attention_maps(&tokens, images, by).unwrap());
        assert_eq!((a.len(), b.len()), (2, 2));
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a.len(), tokens.lengths().iter().sum::<usize>() * 9);
            assert!(golden::distance(a, b) < 1e-4, "{by:?}");
        }
    }
    // Windows are left out on either.
    let fewer = &images[..3 * 7 * 64];
    let one = TokenBatch::new(&tokens.ids().chunks(tokens.tokens()).map(|t| &t[..4]).collect::<Vec<_>>(), 0, None);
    let logits = |network: &Network| network.match_logits(&one, fewer).unwrap().concat();
    assert!(golden::distance(&logits(&cpu), &logits(&graph)) < 1e-4);
}
