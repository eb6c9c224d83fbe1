//! The whole search with the real model code: the tiny reference model's pictures go through
//! embedder, indexer, engine and gallery, and its sentences through the two-stage search, compared
//! with the reference's own features and logits.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use half::f16;
use serde_json::{Value, json};
use sightline_core::config::{EmbedConfig, EmbedPrecision, ScoreForm, SearchConfig};
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Config, Discard, IndexEvent, RgbImage};
use sightline_embed::Embedder;
use sightline_embed::model::ModelConfig;
use sightline_search::{
    Coverage, EdgeOptions, EdgeStore, EncodeError, Filter, FolderGallery, Gallery, GalleryEntry, Hit, IndexerOptions,
    Journals, PictureKey, QueryEncoder, SearchError, SearchRequest, Searcher, Sink, VectorStore, indexer,
};
use sightline_testing::{repository, tiny_weights, write_tiny_model};

use crate::support::{at, camera, progress, sighting};

/// Golden data of the embedder, made with the authors' code.
fn golden(name: &str) -> PathBuf {
    repository("embed/tests/golden").join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap()
}

/// Loads the tiny model; `calibration` is added to its configuration if given.
fn embedder(calibration: Option<Value>) -> Embedder {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_model(dir.path(), &tiny_weights());
    if let Some(calibration) = calibration {
        let path = dir.path().join("config.json");
        // The reference's flat form has no field for it.
        let mut config = ModelConfig::read(&path).unwrap();
        config.calibration = serde_json::from_value(calibration).unwrap();
        std::fs::write(path, serde_json::to_string(&config).unwrap()).unwrap();
    }
    // The reference computed in f32; bf16 moves the tiny model's cosines by some thousandths.
    let config = EmbedConfig { precision: EmbedPrecision::F32, ..Config::layered(None, []).unwrap().embed };
    Embedder::start(dir.path(), &config).unwrap()
}

fn pictures() -> Vec<RgbImage> {
    let stored = tensors("cada-tiny/preprocess.safetensors");
    let picture = |i: usize| {
        let t = &stored[&format!("raw_{i}")];
        let (h, w, _) = t.dims3().unwrap();
        RgbImage::new(w as u32, h as u32, t.flatten_all().unwrap().to_vec1::<u8>().unwrap()).unwrap()
    };
    (0..6).map(picture).collect()
}

fn sentences() -> Vec<String> {
    let text = std::fs::read_to_string(golden("tokenizer_cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    cases["cases"].as_array().unwrap()[..6].iter().map(|c| c["raw"].as_str().unwrap().to_owned()).collect()
}

/// The six pictures of the reference in a store and a gallery; each is a track of its own, born at
/// its number.
struct World {
    embedder: Embedder,
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    World::of(embedder(None))
}

impl World {
    fn of(embedder: Embedder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (id, width) = (embedder.info().id.clone(), embedder.info().feature_dim);
        let store: Arc<dyn VectorStore> =
            Arc::new(EdgeStore::open(&folder.path().join("vectors"), &id, width, &EdgeOptions::default()).unwrap());
        let gallery: Arc<dyn Gallery> = Arc::new(FolderGallery::open(&folder.path().join("gallery"), &id).unwrap());

        let (queue, coverage) = (Queue::new(16), Coverage::default());
        let features = embedder.embed_images_blocking(pictures()).unwrap();
        for (i, f) in features.iter().enumerate() {
            let mut s = sighting("gate", i as i64, 0, i as i64, f.feature.clone());
            (s.patches, s.model_id) = (f.patches.clone(), id.clone());
            queue.push_wait(IndexEvent::Sighting(Box::new(s))).unwrap();
        }
        queue.push_wait(IndexEvent::Progress(progress("gate", 0, 9, true))).unwrap();
        queue.close();
        let options = IndexerOptions::default();
        let journals = Journals::in_memory();
        let sink = Sink { store: &*store, gallery: &*gallery, coverage: &coverage, journals: &journals };
        indexer::run(&queue, sink, &Discard, &options, &Shutdown::new()).unwrap();
        let gate = coverage.get(&camera("gate")).unwrap();
        assert_eq!((gate.indexed, gate.rejected, gate.ended), (6, 0, true));
        World { embedder, store, gallery, _folder: folder }
    }
}

fn key(hit: &Hit) -> PictureKey {
    PictureKey { id: hit.sighting_id, crop: hit.crop }
}

/// A broken worker can damage bytes before their checksum is computed: NaN in one picture, infinity
/// in another. All other pictures are found and scored as before.
#[test]
fn poisoned_patch_features_cost_their_own_pictures_alone() {
    let World { embedder, store, gallery, _folder } = world();
    let ask = SearchRequest { query: Some(sentences()[0].clone()), limit: 10, ..SearchRequest::default() };
    let config =
        SearchConfig { rerank: 6, max_limit: 50, confident_probability: 0.0, score: ScoreForm::Raw, concurrent: 1 };
    let searcher = Searcher::new(Arc::new(embedder), store, Arc::clone(&gallery), config).unwrap();
    let whole = searcher.search_blocking(&ask).unwrap();
    let best = &whole.hits[0].clone();
    let middle = &whole.hits[2].clone();
    for (hit, value) in [(best, f16::NAN), (middle, f16::INFINITY)] {
        let mut patches = gallery.patches(key(hit)).unwrap().unwrap();
        let mut data = patches.data.to_vec();
        // In the class token and in the last patch.
        let end = data.len() - 2;
        for at in [0, end] {
            data[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        patches.data = data.into();
        gallery.put(&[GalleryEntry { key: key(hit), jpeg: Bytes::from_static(b"jpeg"), patches }]).unwrap();
    }
    let answer = searcher.search_blocking(&ask).unwrap();
    let scores = |hits: &[Hit]| hits.iter().map(|h| (h.sighting_id, h.match_logit)).collect::<Vec<_>>();
    let poisoned = |h: &Hit| h.sighting_id == best.sighting_id || h.sighting_id == middle.sighting_id;
    let (mut behind, sound): (Vec<Hit>, Vec<Hit>) = whole.hits.iter().cloned().partition(poisoned);
    assert_eq!(scores(&answer.hits[..4]), scores(&sound));
    behind.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    for (hit, was) in answer.hits[4..].iter().zip(&behind) {
        assert_eq!((hit.sighting_id, hit.match_logit, hit.probability), (was.sighting_id, None, None));
        assert_eq!(hit.score, hit.similarity);
    }
    assert!(
        answer.degraded.iter().any(|d| d.contains("2 of 6") && d.contains("2 not finite")),
        "{:?}",
        answer.degraded
    );
}

/// `calibration` of a model that judges phrases; the number of persons is left over from an older
/// fit.
fn judging() -> Value {
    let whole = json!({ "phrases": 1.0, "logit": 0.0, "cosine": 0.0, "bias": 0.0 });
    let phrases = json!({ "cosine": 4.0, "local": 0.5, "bias": -0.5, "whole": whole });
    json!({ "temperature": 1.0, "bias": 0.0, "persons": 200.0, "phrases": phrases })
}

#[test]
fn phrases_go_from_the_model_into_the_answer() {
    let World { embedder, store, gallery, _folder } = World::of(embedder(Some(judging())));
    assert!(embedder.judges_phrases() && embedder.info().calibration.persons == 200.0);
    assert!(
        QueryEncoder::persons(&embedder).is_none(),
        "a phrase's truth does not depend on how many others there are"
    );
    let query = embedder.encode_text_blocking("a young woman in a red jacket without a backpack").unwrap();
    let config = SearchConfig {
        rerank: 6,
        max_limit: 50,
        confident_probability: 0.5,
        score: ScoreForm::Calibrated,
        concurrent: 1,
    };
    let model = embedder.clone();
    let searcher = Searcher::new(Arc::new(embedder), store, Arc::clone(&gallery), config).unwrap();
    let ask = |text: &str| {
        let request = SearchRequest { query: Some(text.to_owned()), limit: 10, ..SearchRequest::default() };
        searcher.search_blocking(&request).unwrap()
    };
    let answer = ask(&query.text);
    let asked: Vec<String> = answer.phrases.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["woman", "red jacket", "no backpack"]);
    let lost: Vec<String> = answer.not_understood.iter().map(|n| format!("{}: {}", n.text, n.why)).collect();
    assert_eq!(lost, ["young: age is not judged"]);
    for hit in &answer.hits {
        let patches = gallery.patches(key(hit)).unwrap().unwrap();
        let score = model.match_scores_blocking(&query, vec![patches]).unwrap().pop().flatten().unwrap();
        let close = |a: f32, b: f32| (a - b).abs() < 1e-5;
        assert!(
            hit.phrases.iter().zip(&score.phrases).all(|(a, b)| close(a.probability, *b)),
            "{:?} {score:?}",
            hit.phrases
        );
        assert!(hit.phrases.len() == 3 && close(hit.probability.unwrap(), score.probability), "{hit:?} {score:?}");
    }
    let wrong: f32 = answer.hits.iter().map(|hit| 1.0 - hit.probability.unwrap()).sum();
    assert!((answer.expected_wrong.unwrap() - wrong).abs() < 1e-4);

    let foreign = ask("ein mann mit mantel");
    assert!(foreign.hits.len() == 6 && foreign.hits.iter().all(|hit| hit.probability.is_none()));
    assert!(foreign.not_understood.len() == 4 && foreign.confident.is_none() && foreign.expected_wrong.is_none());
}

#[test]
fn searches_equal_the_reference() {
    let World { embedder, store, gallery, _folder } = world();
    let config =
        SearchConfig { rerank: 4, max_limit: 50, confident_probability: 0.0, score: ScoreForm::Raw, concurrent: 1 };
    let searcher = Searcher::new(Arc::new(embedder), store, gallery, config).unwrap();
    let want = tensors("cada-tiny/eval.safetensors");
    let rows = |name: &str| want[name].to_vec2::<f32>().unwrap();
    let (images, texts, logits) = (rows("image_feats"), rows("text_feats"), rows("itm_logits"));
    let (mut worst_cosine, mut worst_logit) = (0f32, 0f32);
    for (t, sentence) in sentences().into_iter().enumerate() {
        let request = SearchRequest { query: Some(sentence.clone()), limit: 10, ..SearchRequest::default() };
        let answer = searcher.search_blocking(&request).unwrap();
        assert_eq!(answer.hits.len(), 6, "{sentence}");
        // Some of the reference's sentences are longer than 72 tokens on purpose; nothing else may
        // be degraded.
        assert!(answer.degraded.iter().all(|d| d.contains("longer than the model reads")), "{:?}", answer.degraded);
        let cosine = |i: usize| images[i].iter().zip(&texts[t]).map(|(a, b)| a * b).sum::<f32>();
        let logit = |i: usize| logits[t * 6 + i][1];
        // The reference's ranking: the four nearest by cosine + logit, then the other two by
        // cosine.
        let mut order: Vec<usize> = (0..6).collect();
        order.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)));
        order[..4].sort_by(|a, b| (cosine(*b) + logit(*b)).total_cmp(&(cosine(*a) + logit(*a))));
        let got: Vec<usize> = answer.hits.iter().map(|h| h.track_id.born.as_micros() as usize).collect();
        assert_eq!(got, order, "{sentence}");
        for (rank, (hit, i)) in answer.hits.iter().zip(order).enumerate() {
            worst_cosine = worst_cosine.max((hit.similarity - cosine(i)).abs());
            assert_eq!(hit.match_logit.is_some(), rank < 4);
            if let Some(l) = hit.match_logit {
                worst_logit = worst_logit.max((l - logit(i)).abs());
            }
        }
    }
    println!("worst difference to the reference: cosine {worst_cosine:.1e}, match logit {worst_logit:.1e}");
    assert!(worst_cosine < 5e-5 && worst_logit < 1e-2);

    let by_picture =
        SearchRequest { image: Some(pictures()[3].clone()), limit: 1, filter: Filter::default(), ..Default::default() };
    let found = searcher.search_blocking(&by_picture).unwrap();
    assert_eq!(found.hits[0].captured_at, at(3));
    assert!(found.hits[0].similarity > 0.9999);
    let only_emoji = SearchRequest { query: Some("\u{1f600} \u{1f600}".to_owned()), limit: 1, ..Default::default() };
    let error = searcher.search_blocking(&only_emoji).unwrap_err();
    assert!(matches!(error, SearchError::Encode(EncodeError::EmptyQuery)), "{error}");
    let endless = SearchRequest { query: Some("red jacket ".repeat(10_000)), limit: 1, ..Default::default() };
    let answer = searcher.search_blocking(&endless).unwrap();
    assert!(answer.degraded.iter().any(|d| d.contains("longer than the model reads")), "{:?}", answer.degraded);
}
