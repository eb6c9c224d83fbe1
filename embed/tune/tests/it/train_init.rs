//! Where weights start: checkpoints of the authors, text encoders in BERT layout.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, IndexOp, Tensor};
use sightline_embed::graph::WordPredictor;
use sightline_embed::model::Architecture;
use sightline_tune::init::{TextInit, from_checkpoint, from_text_encoder};
use sightline_tune::run::Trainee;
use sightline_tune::vocabulary::CutVocabulary;
use sightline_tune::weights;

use crate::golden;

fn fresh(decoder: WordPredictor) -> Trainee {
    Trainee::with_decoder(&golden::arch(), decoder, 5).unwrap()
}

fn variable(trainee: &Trainee, name: &str) -> Tensor {
    trainee.variables.data().lock().unwrap()[name].as_tensor().detach()
}

fn stored() -> HashMap<String, Tensor> {
    weights::read(&golden::path("cada-tiny/weights.pth")).unwrap()
}

#[test]
fn a_checkpoint_of_cada_sets_every_weight() {
    let trainee = fresh(WordPredictor::Own);
    let kept = from_checkpoint(&trainee, &golden::path("cada-tiny/weights_trainpy_form.pth")).unwrap();
    assert!(kept.iter().all(|name| name.starts_with("attributes.") || name.starts_with("truth.")), "{kept:?}");
    for (name, tensor) in stored().iter().filter(|(name, _)| name.starts_with("visual_encoder")) {
        assert_eq!(golden::max_diff(&variable(&trainee, name), tensor), 0.0, "{name}");
    }
}

#[test]
fn a_checkpoint_of_blip_lacks_the_local_head_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("blip.safetensors");
    let mut blip = stored();
    blip.retain(|name, _| !name.starts_with("itm_local_head"));
    blip.insert("vision_proj_m.weight".into(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&blip, &file).unwrap();
    let kept = from_checkpoint(&fresh(WordPredictor::Own), &file).unwrap();
    let mut heads: Vec<&str> = kept.iter().filter_map(|name| name.split('.').next()).collect();
    heads.dedup();
    assert_eq!(heads, ["attributes", "itm_local_head", "truth"]);
    blip.remove("vision_proj.weight");
    candle_core::safetensors::save(&blip, &file).unwrap();
    let e = from_checkpoint(&fresh(WordPredictor::Own), &file).unwrap_err().to_string();
    assert!(e.contains("blip.safetensors") && e.contains("vision_proj.weight"), "{e}");
}

#[test]
fn patch_positions_are_resized_to_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut square = stored();
    // Nine patches of a square picture, for a model of eight.
    let pos = Tensor::ones((1, 10, 64), DType::F32, &Device::Cpu).unwrap();
    square.insert("visual_encoder.pos_embed".into(), pos);
    let file = folder.path().join("square.safetensors");
    candle_core::safetensors::save(&square, &file).unwrap();
    let trainee = fresh(WordPredictor::None);
    from_checkpoint(&trainee, &file).unwrap();
    let resized = variable(&trainee, "visual_encoder.pos_embed");
    assert_eq!(resized.dims(), [1, 9, 64]);
    assert!(golden::max_diff(&resized, &resized.ones_like().unwrap()) < 1e-6);
}

/// The golden text encoder written as Hugging Face would, with `heads` in its configuration.
pub fn bert(folder: &Path, heads: usize) -> CutVocabulary {
    let mut tensors = HashMap::new();
    for (name, tensor) in stored() {
        if let Some(bare) = name.strip_prefix("text_encoder.").filter(|bare| !bare.contains("crossattention")) {
            let rows = if bare.contains("word_embeddings") { tensor.i(..1198).unwrap() } else { tensor };
            tensors.insert(format!("bert.{bare}"), rows.contiguous().unwrap());
        }
    }
    let types = Tensor::full(0.5f32, (2, 64), &Device::Cpu).unwrap();
    tensors.insert("bert.embeddings.token_type_embeddings.weight".into(), types);
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    let arch = golden::arch();
    let config = serde_json::json!({
        "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": heads,
        "num_hidden_layers": arch.text_layers, "max_position_embeddings": arch.max_position_embeddings,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocab = golden::json("cada-tiny/tokenizer.json")["model"]["vocab"].clone();
    let mut pieces: Vec<(u64, String)> =
        vocab.as_object().unwrap().iter().map(|(piece, id)| (id.as_u64().unwrap(), piece.clone())).collect();
    pieces.sort();
    let full: Vec<String> = pieces.into_iter().filter(|(id, _)| *id < 1198).map(|(_, piece)| piece).collect();
    std::fs::write(folder.join("vocab.txt"), full.join("\n")).unwrap();
    CutVocabulary::whole(&full).unwrap()
}

#[test]
fn a_text_encoder_of_the_same_dimensions_is_taken_whole() {
    let (folder, trainee, stored) = (tempfile::tempdir().unwrap(), fresh(WordPredictor::Own), stored());
    let cut = bert(folder.path(), golden::arch().text_heads);
    assert_eq!(from_text_encoder(&trainee, folder.path(), &cut).unwrap(), TextInit::Layers(golden::arch().text_layers));
    for part in [
        "encoder.layer.1.output.dense.weight",
        "encoder.layer.0.attention.self.query.bias",
        "embeddings.LayerNorm.weight",
    ] {
        let want = &stored[&format!("text_encoder.{part}")];
        for side in ["text_encoder", "text_decoder.bert"] {
            assert_eq!(golden::max_diff(&variable(&trainee, &format!("{side}.{part}")), want), 0.0, "{side} {part}");
        }
    }
    let words = variable(&trainee, "text_encoder.embeddings.word_embeddings.weight");
    let want = &stored["text_encoder.embeddings.word_embeddings.weight"];
    assert_eq!(golden::max_diff(&words.i(..1198).unwrap(), &want.i(..1198).unwrap()), 0.0);
    assert_eq!(golden::max_diff(&words.i(1199).unwrap(), &want.i(101).unwrap()), 0.0, "[ENC] starts as [CLS]");
    // CADA has no token types: the first one is part of the positions.
    let name = "text_encoder.embeddings.position_embeddings.weight";
    let moved = (&stored[name] + 0.5).unwrap();
    assert!(golden::max_diff(&variable(&trainee, name), &moved) < 1e-6);
}

#[test]
fn of_another_text_encoder_words_alone_are_taken() {
    let (folder, trainee) = (tempfile::tempdir().unwrap(), fresh(WordPredictor::None));
    let name = "text_encoder.encoder.layer.0.output.dense.weight";
    let before = variable(&trainee, name);
    let cut = bert(folder.path(), golden::arch().text_heads * 2);
    assert_eq!(from_text_encoder(&trainee, folder.path(), &cut).unwrap(), TextInit::Words);
    assert_eq!(golden::max_diff(&variable(&trainee, name), &before), 0.0);
    let wide = Architecture { text_hidden_size: 128, text_intermediate: 512, ..golden::arch() };
    let e = from_text_encoder(&Trainee::new(&wide, 1).unwrap(), folder.path(), &cut).unwrap_err().to_string();
    assert!(e.contains("64") && e.contains("128"), "{e}");
}
