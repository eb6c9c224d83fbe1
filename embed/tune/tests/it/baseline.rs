//! CLIP and SigLIP in Hugging Face layout with small random weights: they are read, batched and
//! ranked, and what does not fit is refused.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use sightline_figures::{Corpus, Words};
use sightline_tune::baseline::{Baseline, kind};
use sightline_tune::evaluate::ranks;
use sightline_tune::gallery::Gallery;
use tempfile::TempDir;

/// Pieces of a byte-pair vocabulary: every byte CLIP writes for ASCII letters, alone and at a
/// word's end.
fn pieces() -> Vec<String> {
    let letters = || (b'a'..=b'z').chain(b'0'..=b'9').chain(*b",-'").map(|b| char::from(b).to_string());
    let mut all: Vec<String> = letters().chain(letters().map(|l| l + "</w>")).collect();
    all.extend(["re".into(), "red</w>".into(), "<|startoftext|>".into(), "<|endoftext|>".into()]);
    all
}

fn random(dir: &Path, shapes: &[(String, Vec<usize>)]) {
    let mut tensors = HashMap::new();
    for (i, (name, shape)) in shapes.iter().enumerate() {
        let n: usize = shape.iter().product();
        // Reproducible, of mean 0 and spread 0.1; norms' weights around 1.
        let value = |j: usize| ((j * 7919 + i * 104_729) % 1009) as f32 / 1009.0 - 0.5;
        let centre = f32::from(u8::from(name.contains("norm") && name.ends_with("weight")));
        let values: Vec<f32> = (0..n).map(|j| centre + 0.35 * value(j)).collect();
        tensors.insert(name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap());
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

fn layer(all: &mut Vec<(String, Vec<usize>)>, at: &str, width: usize, inner: usize) {
    for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
        all.push((format!("{at}.self_attn.{part}.weight"), vec![width, width]));
        all.push((format!("{at}.self_attn.{part}.bias"), vec![width]));
    }
    norm(all, &format!("{at}.layer_norm1"), width);
    norm(all, &format!("{at}.layer_norm2"), width);
    mlp(all, &format!("{at}.mlp"), width, inner);
}

fn norm(all: &mut Vec<(String, Vec<usize>)>, at: &str, width: usize) {
    all.push((format!("{at}.weight"), vec![width]));
    all.push((format!("{at}.bias"), vec![width]));
}

fn mlp(all: &mut Vec<(String, Vec<usize>)>, at: &str, width: usize, inner: usize) {
    for (name, to, from) in [("fc1", inner, width), ("fc2", width, inner)] {
        all.push((format!("{at}.{name}.weight"), vec![to, from]));
        all.push((format!("{at}.{name}.bias"), vec![to]));
    }
}

/// A CLIP of two layers; its tokenizer as vocab.json and merges.txt.
fn clip() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (pieces, mut all) = (pieces(), Vec::new());
    for (part, width) in [("text_model", 16), ("vision_model", 24)] {
        (0..2).for_each(|i| layer(&mut all, &format!("{part}.encoder.layers.{i}"), width, 32));
    }
    let mut put = |name: &str, shape: &[usize]| all.push((name.to_owned(), shape.to_vec()));
    put("text_model.embeddings.token_embedding.weight", &[pieces.len(), 16]);
    put("text_model.embeddings.position_embedding.weight", &[20, 16]);
    put("vision_model.embeddings.class_embedding", &[24]);
    put("vision_model.embeddings.patch_embedding.weight", &[24, 3, 16, 16]);
    put("vision_model.embeddings.position_embedding.weight", &[5, 24]);
    put("visual_projection.weight", &[12, 24]);
    put("text_projection.weight", &[12, 16]);
    put("logit_scale", &[]);
    norm(&mut all, "text_model.final_layer_norm", 16);
    norm(&mut all, "vision_model.pre_layrnorm", 24);
    norm(&mut all, "vision_model.post_layernorm", 24);
    random(dir.path(), &all);
    let side = |hidden: usize| {
        json!({"hidden_size": hidden, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
               "hidden_act": "quick_gelu"})
    };
    let (mut text, mut vision) = (side(16), side(24));
    text["vocab_size"] = json!(pieces.len());
    text["max_position_embeddings"] = json!(20);
    vision["image_size"] = json!(32);
    vision["patch_size"] = json!(16);
    let config = json!({"model_type": "clip", "projection_dim": 12, "text_config": text, "vision_config": vision});
    write(dir.path(), "config.json", &config);
    let vocab: HashMap<&str, usize> = pieces.iter().enumerate().map(|(i, p)| (p.as_str(), i)).collect();
    write(dir.path(), "vocab.json", &json!(vocab));
    std::fs::write(dir.path().join("merges.txt"), "#version: 0.2\nr e\nre d</w>\n").unwrap();
    dir
}

/// A SigLIP of two layers with a word-level tokenizer.json.
fn siglip() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for part in ["text_model", "vision_model"] {
        (0..2).for_each(|i| layer(&mut all, &format!("{part}.encoder.layers.{i}"), 16, 32));
    }
    let mut put = |name: &str, shape: &[usize]| all.push((name.to_owned(), shape.to_vec()));
    put("text_model.embeddings.token_embedding.weight", &[10, 16]);
    put("text_model.embeddings.position_embedding.weight", &[8, 16]);
    put("text_model.head.weight", &[16, 16]);
    put("text_model.head.bias", &[16]);
    put("vision_model.embeddings.patch_embedding.weight", &[16, 3, 16, 16]);
    put("vision_model.embeddings.patch_embedding.bias", &[16]);
    put("vision_model.embeddings.position_embedding.weight", &[4, 16]);
    put("vision_model.head.probe", &[1, 1, 16]);
    put("vision_model.head.attention.in_proj_weight", &[48, 16]);
    put("vision_model.head.attention.in_proj_bias", &[48]);
    put("vision_model.head.attention.out_proj.weight", &[16, 16]);
    put("vision_model.head.attention.out_proj.bias", &[16]);
    put("logit_scale", &[1]);
    put("logit_bias", &[1]);
    norm(&mut all, "text_model.final_layer_norm", 16);
    norm(&mut all, "vision_model.post_layernorm", 16);
    norm(&mut all, "vision_model.head.layernorm", 16);
    mlp(&mut all, "vision_model.head.mlp", 16, 32);
    random(dir.path(), &all);
    let side = json!({"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4});
    let (mut text, mut vision) = (side.clone(), side);
    text["vocab_size"] = json!(10);
    text["max_position_embeddings"] = json!(8);
    vision["image_size"] = json!(32);
    vision["patch_size"] = json!(16);
    write(dir.path(), "config.json", &json!({"model_type": "siglip", "text_config": text, "vision_config": vision}));
    let words = ["<unk>", "</s>", "a", "man", "woman", "in", "red", "blue", "black", "coat"];
    let vocab: HashMap<&str, usize> = words.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    });
    write(dir.path(), "tokenizer.json", &tokenizer);
    write(dir.path(), "preprocessor_config.json", &json!({"image_mean": [0.5, 0.4, 0.3], "resample": 2}));
    dir
}

fn write(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).unwrap();
}

fn open(dir: &TempDir) -> Baseline {
    Baseline::open(dir.path(), &Device::Cpu).unwrap()
}

fn refused(dir: &TempDir) -> String {
    Baseline::open(dir.path(), &Device::Cpu).err().expect("refused").to_string()
}

fn rows(t: &Tensor) -> Vec<Vec<f32>> {
    t.to_vec2().unwrap()
}

#[test]
fn both_rank_a_whole_gallery() {
    let gallery = Gallery::drawn(&Corpus::new(8), 0..10, 2, Words::All);
    for (dir, name, width) in [(clip(), "clip", 12), (siglip(), "siglip", 16)] {
        assert_eq!(kind(dir.path()), Some(name));
        let model = open(&dir);
        assert_eq!((model.kind, model.image_size, model.id.len()), (name, 32, 16));
        let pixels = |range: std::ops::Range<usize>| pixels(&gallery, range, &model);
        let scores = model.score_gallery(&gallery.captions, gallery.len(), pixels, |_, _, _| {}).unwrap();
        assert_eq!((scores.cosine.len(), scores.cosine[0].len()), (10, 20));
        assert!(scores.top_k.iter().all(Vec::is_empty));
        assert!(scores.cosine.iter().flatten().all(|c| c.is_finite() && c.abs() <= 1.0 + 1e-5));
        let r = ranks(&scores.cosine, &gallery.text_ids, &gallery.image_ids);
        assert!(r.map > 0.0 && r.rank10 <= 100.0);
        // A batch is its parts.
        let batch = pixels(0..3).unwrap();
        let together = rows(&model.images(&batch).unwrap());
        let alone = rows(&model.images(&batch.narrow(0, 2, 1).unwrap()).unwrap());
        assert_eq!(together[2].len(), width);
        assert!(together[2].iter().zip(&alone[0]).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn texts_are_told_apart_padded_and_cut() {
    for (dir, known) in [(clip(), true), (siglip(), false)] {
        let model = open(&dir);
        let texts: Vec<String> =
            ["a man in red", "a woman in blue", "a man in red ", &"red coat ".repeat(60)].map(str::to_owned).to_vec();
        let features = rows(&model.texts(&texts).unwrap());
        assert_eq!(features[0], features[2]);
        assert!(features[0] != features[1] && features[0] != features[3]);
        // Case and, for SigLIP, punctuation make no difference; for CLIP punctuation does.
        let dressed = rows(&model.texts(&["A Man, in red".to_owned()]).unwrap());
        let moved = dressed[0].iter().zip(&features[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert_eq!(moved > 1e-4, known, "{} moved by {moved}", model.kind);
    }
}

#[test]
fn preparation_follows_the_folder() {
    assert_eq!(open(&clip()).preprocess.mean[0], 0.481_454_66);
    let prep = open(&siglip()).preprocess;
    assert_eq!((prep.mean, prep.std), ([0.5, 0.4, 0.3], [0.5; 3]));
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = clip();
    let good: Value = serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    let change = |f: &dyn Fn(&mut Value)| {
        let mut config = good.clone();
        f(&mut config);
        config
    };
    write(dir.path(), "config.json", &change(&|c| c["text_config"]["hidden_act"] = json!("gelu")));
    assert!(refused(&dir).contains("gelu"));
    write(dir.path(), "config.json", &change(&|c| c["vision_config"]["hidden_size"] = json!(28)));
    assert!(refused(&dir).contains("do not fit"));
    write(dir.path(), "config.json", &change(&|c| c["model_type"] = json!("blip")));
    assert_eq!(kind(dir.path()), None);
    assert!(refused(&dir).contains("model_type"));
    write(dir.path(), "config.json", &good);
    // The end piece must have the highest id.
    let mut vocab: Value = serde_json::from_slice(&std::fs::read(dir.path().join("vocab.json")).unwrap()).unwrap();
    let (end, start) = (vocab["<|endoftext|>"].clone(), vocab["<|startoftext|>"].clone());
    (vocab["<|endoftext|>"], vocab["<|startoftext|>"]) = (start, end);
    write(dir.path(), "vocab.json", &vocab);
    assert!(refused(&dir).contains("highest id"));
    std::fs::remove_file(dir.path().join("vocab.json")).unwrap();
    assert!(refused(&dir).contains("vocab.json"));
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refused(&dir).contains("model.safetensors"));
    let dir = siglip();
    candle_core::safetensors::save(
        &HashMap::from([("x", Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap())]),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    assert!(refused(&dir).contains("do not fit"));
}

fn pixels(gallery: &Gallery, range: std::ops::Range<usize>, model: &Baseline) -> sightline_tune::Result<Tensor> {
    let (n, values) = (range.len(), gallery.pixels(range, [32, 32], &model.preprocess)?);
    Ok(Tensor::from_vec(values, (n, 3, 32, 32), &Device::Cpu)?)
}
