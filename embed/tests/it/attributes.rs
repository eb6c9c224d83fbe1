//! Masked words: the network against the reference's stored scores, and what a model folder with a
//! word head answers.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, IndexOp, Tensor};
use sightline_core::PatchFeatures;
use sightline_embed::kernel::Precision;
use sightline_embed::model::{ModelConfig, WORD_HEAD, WORD_HEAD_PREFIX, WordHead, WordPredictor};
use sightline_embed::net::WordNet;
use sightline_embed::{EmbedError, MASK, Model, ModelFolder};

use crate::{folder, golden};

/// The reference's own word predictor, from the tiny reference model's weights.
fn words(kind: WordHead) -> WordNet {
    let weights = golden::weights();
    let (mut head, mut model) = (golden::Source(&weights), golden::Source(&weights));
    WordNet::new(&golden::arch(), kind, &mut head, &mut model, Precision::F32).unwrap()
}

/// Caption 1 of the stored evaluation with masked words, read with picture 1.
#[test]
fn masked_words_are_scored_as_by_the_reference() {
    let (cada, want) = (golden::net(Precision::F32), golden::tensors("cada-tiny/eval.safetensors"));
    let tokens = golden::tokens(&want["mlm_input_ids"], &want["attention_mask"].i(1..2).unwrap(), false);
    let image = golden::values(&want["image_embeds"].i(1).unwrap());
    let positions = want["mlm_positions"].to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
    let positions: Vec<(usize, usize)> = positions.into_iter().map(|token| (0, token as usize)).collect();
    for (name, causal) in [("mlm_logits_causal", true), ("mlm_logits_bidir", false)] {
        let net = words(WordHead { predictor: WordPredictor::Own, causal });
        let got = net.scores(cada.text_encoder(), &tokens, &image, &positions).unwrap();
        let (distance, limit) = (golden::distance(&got, &golden::values(&want[name])), golden::tolerance(name));
        println!("{name}: {distance:.2e} of {limit:.0e}");
        assert!(distance <= limit, "{name} is {distance:.2e} away, limit {limit:.0e}");
    }
    let net = words(WordHead { predictor: WordPredictor::Tied, causal: false });
    let e = net.scores(cada.text_encoder(), &tokens, &image, &[(0, 500)]).unwrap_err().to_string();
    assert!(e.contains("500"), "{e}");
}

/// A predictor of its own whose transformer is the text encoder's is what is tied to it, and what
/// shares all but the cross-attention with it.
#[test]
fn tied_shared_and_own_differ_in_where_weights_come_from_alone() {
    let (cada, want) = (golden::net(Precision::F32), golden::tensors("cada-tiny/eval.safetensors"));
    let tokens = golden::tokens(&want["mlm_input_ids"], &want["attention_mask"].i(1..2).unwrap(), false);
    let image = golden::values(&want["image_embeds"].i(1).unwrap());
    let mut copied = golden::weights();
    let of_encoder: Vec<(String, Tensor)> = copied
        .iter()
        .filter_map(|(name, t)| Some((format!("text_decoder.bert.{}", name.strip_prefix("text_encoder.")?), t.clone())))
        .collect();
    copied.extend(of_encoder);
    let scores = |predictor: WordPredictor, head: &HashMap<String, Tensor>| {
        let (mut head, model) = (golden::Source(head), golden::weights());
        let kind = WordHead { predictor, causal: false };
        let net = WordNet::new(&golden::arch(), kind, &mut head, &mut golden::Source(&model), Precision::F32).unwrap();
        net.scores(cada.text_encoder(), &tokens, &image, &[(0, 2), (0, 3)]).unwrap()
    };
    let own = scores(WordPredictor::Own, &copied);
    assert_eq!(scores(WordPredictor::Tied, &copied), own);
    assert_eq!(scores(WordPredictor::Shared, &copied), own);
    assert_ne!(scores(WordPredictor::Shared, &golden::weights()), own, "its cross-attention is its own");
}

/// The tiny reference model's folder with the reference's word head.
fn with_head(dir: &Path, predictor: WordPredictor) {
    let head: HashMap<String, Tensor> =
        golden::weights().into_iter().filter(|(name, _)| name.starts_with(WORD_HEAD_PREFIX)).collect();
    candle_core::safetensors::save(&head, dir.join(WORD_HEAD)).unwrap();
    let mut config = ModelConfig::read(&dir.join("config.json")).unwrap();
    config.word_head = Some(WordHead { predictor, causal: false });
    std::fs::write(dir.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
}

fn picture(model: &Model) -> PatchFeatures {
    model.embed_images(&folder::pictures()[..1]).unwrap().swap_remove(0).patches
}

#[test]
fn a_template_is_answered_word_by_word() {
    let dir = folder::model_with(|_| {});
    let before = ModelFolder::open(dir.path()).unwrap().id;
    for predictor in [WordPredictor::Own, WordPredictor::Shared, WordPredictor::Tied] {
        with_head(dir.path(), predictor);
        let opened = ModelFolder::open(dir.path()).unwrap();
        assert_eq!(opened.id, before, "a word head moves no feature");
        let model = Model::load(&opened, "cpu").unwrap();
        let picture = picture(&model);
        let found = model.attributes(&picture, "A man in a [MASK] coat and [mask], trousers.").unwrap();
        assert_eq!(found.len(), 2);
        let (ids, at) =
            model.tokenizer().encode_template("A man in a [MASK] coat and [mask], trousers.", MASK).unwrap();
        assert_eq!(found.iter().map(|word| word.piece).collect::<Vec<_>>(), at);
        assert!(at.iter().all(|at| ids[*at] == golden::arch().mask_token_id));
        for masked in &found {
            assert_eq!(masked.words.len(), 3);
            assert!(masked.words.is_sorted_by(|a, b| a.1 >= b.1), "{masked:?}");
            assert!(masked.words.iter().all(|(word, p)| *p > 0.0 && *p < 1.0 && word.chars().all(char::is_alphabetic)));
        }
        let other = PatchFeatures { data: vec![0; picture.data.len()].into(), ..picture.clone() };
        assert_ne!(model.attributes(&other, "A man in a [MASK] coat and [mask], trousers.").unwrap(), found);
    }
}

#[test]
fn what_cannot_be_answered_is_told() {
    let dir = folder::model_with(|_| {});
    let without = Model::load(&ModelFolder::open(dir.path()).unwrap(), "cpu").unwrap();
    let picture = picture(&without);
    assert!(matches!(without.attributes(&picture, "a [MASK]"), Err(EmbedError::NoWordHead)));
    with_head(dir.path(), WordPredictor::Tied);
    let model = Model::load(&ModelFolder::open(dir.path()).unwrap(), "cpu").unwrap();
    let said = |template: &str| model.attributes(&picture, template).unwrap_err().to_string();
    assert!(said("a red coat").contains("it has no [MASK]"));
    assert!(said(&"[MASK] ".repeat(90)).contains("longer"));
    assert!(said(&format!("{} [MASK]", "coat ".repeat(90))).contains("longer"));
    let damaged = PatchFeatures { data: vec![0xff; picture.data.len()].into(), ..picture.clone() };
    assert!(matches!(model.attributes(&damaged, "a [MASK]"), Err(EmbedError::NotFinite)));
    let foreign = PatchFeatures { rows: 3, ..picture.clone() };
    assert!(matches!(model.attributes(&foreign, "a [MASK]"), Err(EmbedError::PatchFeatures { .. })));
    std::fs::remove_file(dir.path().join(WORD_HEAD)).unwrap();
    let e = Model::load(&ModelFolder::open(dir.path()).unwrap(), "cpu").unwrap_err().to_string();
    assert!(e.contains(WORD_HEAD), "{e}");
}

/// What a GPU computes is what the CPU does, wherever the head's transformer comes from.
#[cfg(feature = "candle")]
#[test]
fn the_graph_scores_masked_words_as_the_cpu_does() {
    use sightline_embed::model::{Device, Network, TokenBatch};
    use sightline_embed::net::WeightFile;

    let dir = folder::model_with(|_| {});
    for (predictor, causal) in
        [(WordPredictor::Own, true), (WordPredictor::Shared, false), (WordPredictor::Tied, false)]
    {
        with_head(dir.path(), predictor);
        let load = |device: &Device| {
            let head = WeightFile::read(&dir.path().join(WORD_HEAD)).unwrap();
            let file = WeightFile::read(&dir.path().join("model.safetensors")).unwrap();
            let kind = WordHead { predictor, causal };
            Network::load_with_words(file, Some((kind, head)), &golden::arch(), device, Precision::F32).unwrap()
        };
        let (cpu, graph) = (load(&Device::Cpu), load(&Device::Candle(candle_core::Device::Cpu)));
        let pixels = golden::values(&golden::tensors("cada-tiny/preprocess.safetensors")["pixel_values"]);
        let patches = cpu.encode_images(&pixels).unwrap().patches;
        // Texts of two lengths, with the first and the second picture.
        let tokens = TokenBatch::new(&[vec![101u32, 103, 203, 103, 102], vec![101, 103, 102]], 0, None);
        let pair = &patches[..patches.len() / 3];
        let positions = [(0, 1), (0, 3), (1, 1)];
        let scores = |network: &Network| network.word_scores(&tokens, pair, &positions).unwrap().unwrap();
        let distance = golden::distance(&scores(&cpu), &scores(&graph));
        println!("{predictor:?}: {distance:.1e}");
        assert!(distance <= golden::tolerance("mlm_logits_bidir"), "{predictor:?}: {distance}");
        for network in [&cpu, &graph] {
            let e = network.word_scores(&tokens, pair, &[(1, 3)]).unwrap_err().to_string();
            assert!(e.contains("token 3 of text 1"), "{e}");
        }
    }
}
