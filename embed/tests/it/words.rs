//! Words that training never met, made of those that it met, with a tiny text encoder.

use candle_core::{DType, Device, IndexOp, Tensor};
use sightline_embed::train::lexicon::Lexicon;
use sightline_embed::train::meaning::{CONTEXTS, Encoder};
use sightline_embed::train::unseen::{Mixture, Taught, teach};
use tokenizers::Tokenizer;

use crate::{golden, train_init};

const TRAINED: [&str; 4] = ["a man in a red jacket", "a woman in a black coat", "a man in a white shirt", "blue jeans"];

fn encoder() -> (tempfile::TempDir, Encoder) {
    let folder = tempfile::tempdir().unwrap();
    train_init::bert(folder.path(), golden::arch().text_heads);
    let encoder = Encoder::open(folder.path()).unwrap();
    (folder, encoder)
}

fn table() -> Tensor {
    let values: Vec<f32> = (0..1200 * 4).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_vec(values, (1200, 4), &Device::Cpu).unwrap()
}

fn taught(extra: &[&str], mixture: &Mixture) -> sightline_embed::train::Result<Taught> {
    let (_folder, encoder) = encoder();
    let captions = TRAINED.iter().map(|c| (*c).to_owned());
    let extra = extra.iter().map(|w| (*w).to_owned());
    teach(golden::json("cada-tiny/tokenizer.json"), &table(), captions, extra, &Lexicon::default(), &encoder, mixture)
}

fn any() -> Mixture {
    Mixture { of: 3, least: -1.0, often: 1, ..Mixture::default() }
}

#[test]
fn unseen_words_are_mixtures_and_trained_ones_stay() {
    let done = taught(&["zorblat", "red"], &any()).unwrap();
    assert_eq!((done.added, done.embeddings.dims()), (1, &[1201, 4][..]));
    let parts = &done.made_of["zorblat"];
    assert_eq!(parts.len(), 3);
    assert!((parts.iter().map(|(_, share)| share).sum::<f32>() - 1.0).abs() < 1e-5);
    assert!(parts.iter().all(|(word, _)| TRAINED.iter().any(|c| c.contains(word.as_str())) && word != "in"));
    let tokens = Tokenizer::from_bytes(done.tokenizer.to_string().as_bytes()).unwrap();
    let ids = |text: &str| {
        tokens.encode(text, true).unwrap().get_ids().iter().filter(|i| **i > 0).copied().collect::<Vec<_>>()
    };
    assert_eq!(ids("zorblat"), [101, 1198, 102]);
    assert_eq!((tokens.token_to_id("[DEC]"), tokens.token_to_id("[ENC]")), (Some(1199), Some(1200)));
    let (old, new) = (table(), done.embeddings.to_dtype(DType::F32).unwrap());
    for caption in TRAINED {
        for id in ids(caption) {
            let row = |t: &Tensor| t.i(id as usize).unwrap();
            assert_eq!(golden::max_diff(&row(&old), &row(&new)), 0.0, "{caption}");
        }
    }
    assert_eq!(golden::max_diff(&old.i(1198..).unwrap(), &new.i(1199..).unwrap()), 0.0, "[DEC] and [ENC] moved up");
    assert!(!done.made_of.contains_key("red"));
}

#[test]
fn without_a_near_word_nothing_changes() {
    let done = taught(&["zorblat"], &Mixture { least: 1.1, ..any() }).unwrap();
    assert_eq!((done.added, done.changed), (0, 0));
    assert_eq!(golden::max_diff(&done.embeddings, &table()), 0.0);
    let e = taught(&[], &Mixture { of: 50, ..any() }).err().unwrap().to_string();
    assert!(e.contains("50"), "{e}");
}

#[test]
fn a_word_means_the_same_in_any_company() {
    let (_folder, encoder) = encoder();
    let many = encoder.vectors(&["red", "a", "jacket", "long"]).unwrap();
    let alone = encoder.vectors(&["jacket"]).unwrap();
    assert_eq!(alone[0].len(), CONTEXTS.len() * golden::arch().text_hidden_size);
    assert!(alone[0].iter().zip(&many[2]).all(|(a, b)| (a - b).abs() < 1e-4));
}
