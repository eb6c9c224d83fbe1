//! A tiny model learns 64 drawn persons by heart, by the global and the local protocol: proof that
//! every part of the objective pulls in the right direction.

use sightline_embed::graph::WordPredictor;
use sightline_embed::model::{Architecture, Preprocess, TokenBatch};
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::text::phrases::TaggedCaption;
use sightline_figures::Corpus;
use sightline_tune::atp::StatedPhrases;
use sightline_tune::batch::{Batch, Pictures, normalised_pixels};
use sightline_tune::evaluate::{self, LocalScore, Ranks, ranks};
use sightline_tune::losses::MatchTargets;
use sightline_tune::objective::{Objective, loss};
use sightline_tune::ops::backward;
use sightline_tune::pool::Pool;
use sightline_tune::run::Trainee;

use super::golden;

const PAIRS: usize = 64;
const STEPS: usize = 200;

fn arch() -> Architecture {
    Architecture {
        image_size: [48, 24],
        patch_size: 8,
        vision_width: 48,
        vision_depth: 1,
        vision_heads: 2,
        text_hidden_size: 48,
        text_layers: 1,
        text_heads: 2,
        text_intermediate: 96,
        vocab_size: 1200,
        enc_token_id: 1199,
        max_text_len: 36,
        embed_dim: 32,
        ..Architecture::cada_base()
    }
}

/// All 64 pairs: one picture and one caption of each person.
fn pairs() -> (Batch, Vec<Vec<u32>>) {
    let texts = CaptionTokenizer::load(&golden::path("cada-tiny/tokenizer.json"), &arch()).unwrap();
    let (corpus, size) = (Corpus::new(11), arch().image_size);
    let tagged: Vec<TaggedCaption> =
        (0..PAIRS as u64).map(|i| TaggedCaption::new(&texts, &corpus.caption(i, 0)).unwrap()).collect();
    let pool = Pool::new(corpus, 0, PAIRS as u64, 1, size);
    let pictures: Vec<&[u8]> = (0..PAIRS as u64).map(|i| pool.picture(i, 0)).collect();
    let ids: Vec<Vec<u32>> = tagged.iter().map(|t| t.ids.clone()).collect();
    let identities: Vec<u32> = (0..PAIRS as u32).collect();
    let batch = Batch {
        pictures: Pictures::Pixels(normalised_pixels(&pictures, size, &Preprocess::default()).unwrap()),
        tokens: TokenBatch::new(&ids, 0, None),
        spans: tagged.into_iter().map(|t| t.spans).collect(),
        targets: MatchTargets::of_identities(&identities),
        phrases: None,
        identities,
        labels: vec![[0; 15]; PAIRS],
        stated: StatedPhrases::default(),
    };
    (batch, ids)
}

fn evaluate_all(trainee: &Trainee, all: &Batch, ids: &[Vec<u32>]) -> (Ranks, Ranks) {
    let pixels = |range: std::ops::Range<usize>| -> sightline_tune::Result<Vec<f32>> {
        Ok(golden::values(&all.pictures.tensor().narrow(0, range.start, range.len())?))
    };
    let found =
        evaluate::score_gallery(&trainee.network().unwrap(), ids, PAIRS, pixels, 8, None, |_, _, _| ()).unwrap();
    let global = ranks(&found.cosine, &all.identities, &all.identities);
    (global, found.ranks(&LocalScore::Reference, &all.identities, &all.identities))
}

#[test]
fn sixty_four_pairs_are_learned_by_heart() {
    let began = std::time::Instant::now();
    let (all, ids) = pairs();
    let mut unique = ids.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), PAIRS, "two captions are the same: nobody could tell them apart");
    let trainee = Trainee::with_decoder(&arch(), WordPredictor::Shared, 5).unwrap();
    let mut objective = Objective { attributes: 0.0, ..Objective::scratch() };
    let atp = objective.atp.as_mut().unwrap();
    (atp.from, atp.pairs) = (60, None);
    objective.ara.as_mut().unwrap().from = 0;
    objective.ara.as_mut().unwrap().pairs = Some(8);
    let mut optimizer = trainee.optimizer(0.0);
    let mut words = Vec::new();
    for step in 0..STEPS {
        let (total, parts) = loss(&trainee, &objective, &all, step, 5).unwrap();
        words.extend(parts["ara"].as_f64());
        let lr = 3e-3 * ((STEPS - step) as f64 / 60.0).min(1.0);
        optimizer.step(&backward(&total).unwrap(), lr, Some(5.0), |_| false).unwrap();
    }
    let (global, local) = evaluate_all(&trainee, &all, &ids);
    let (first, last) = (words[0], words[words.len() - 1]);
    println!("{:.1} s: global {global:?}, local {local:?}, ARA {first:.2} -> {last:.2}", began.elapsed().as_secs_f64());
    assert_eq!((global.rank1, local.rank1), (100.0, 100.0));
    assert!(last < 0.5 * first, "words are not learned: {first} -> {last}");
}
