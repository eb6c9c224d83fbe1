//! The embedder from raw pixels and raw words to features and probabilities, its self-test, and
//! what it refuses.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use half::f16;
use sightline_core::config::{EmbedConfig, EmbedPrecision};
use sightline_core::{PatchFeatures, RgbImage};
use sightline_embed::{EmbedError, Embedder, ImageFeatures, MatchScore, Model, ModelFolder, SelfTest, write_self_test};

use crate::{folder, golden};

fn start(dir: &Path) -> Result<Embedder, EmbedError> {
    Embedder::start(dir, &folder::config())
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Raw pictures and raw sentences in, the reference's features and logits out (patch features pass
/// through f16).
#[test]
fn end_to_end_equals_the_reference() {
    let dir = folder::model();
    let embedder = start(dir.path()).unwrap();
    let want = golden::tensors("cada-tiny/eval.safetensors");
    let rows = |name: &str| want[name].to_vec2::<f32>().unwrap();
    let images = embedder.embed_images_blocking(folder::pictures()).unwrap();
    let (image_feats, text_feats, logits) = (rows("image_feats"), rows("text_feats"), rows("itm_logits"));
    for (got, want) in images.iter().zip(&image_feats) {
        assert!(distance(&got.feature, want) < 5e-5);
        assert_eq!((got.patches.rows, got.patches.width, got.patches.data.len()), (9, 64, 9 * 64 * 2));
    }
    let patches: Vec<PatchFeatures> = images.into_iter().map(|i| i.patches).collect();
    let mut worst: f32 = 0.0;
    for (t, caption) in folder::captions().iter().enumerate() {
        let query = embedder.encode_text_blocking(caption).unwrap();
        assert!(distance(&query.feature, &text_feats[t]) < 5e-5, "{caption}");
        let scores = embedder.match_scores_blocking(&query, patches.clone()).unwrap();
        for (i, score) in scores.iter().enumerate() {
            let (score, want) = (score.as_ref().unwrap(), &logits[t * 6 + i]);
            worst = worst.max((score.logit - want[1]).abs());
            let probability = 1.0 / (1.0 + (want[0] - want[1]).exp());
            assert!((score.probability - probability).abs() < 5e-3);
        }
    }
    println!("match logits through f16 patch features: {worst:.1e} from the reference");
    assert!(worst < 1e-2);
}

/// bf16 (where the CPU has it) keeps features and probabilities where they are, passes the
/// self-test and says its name.
#[test]
fn automatic_precision_stays_close() {
    let dir = folder::model();
    write_self_test(dir.path()).unwrap();
    let exact = start(dir.path()).unwrap();
    let auto = EmbedConfig { precision: EmbedPrecision::Auto, ..folder::config() };
    let auto = Embedder::start(dir.path(), &auto).unwrap();
    let answers = |e: &Embedder| {
        let query = e.encode_text_blocking("a man in a black coat").unwrap();
        let images = e.embed_images_blocking(folder::pictures()).unwrap();
        let features: Vec<Vec<f32>> = images.iter().map(|i| i.feature.clone()).chain([query.feature.clone()]).collect();
        let scores = e.match_scores_blocking(&query, images.into_iter().map(|i| i.patches).collect()).unwrap();
        let scores: Vec<MatchScore> = scores.into_iter().map(Option::unwrap).collect();
        (features, scores)
    };
    let ((fa, sa), (fb, sb)) = (answers(&exact), answers(&auto));
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let worst = fa.iter().zip(&fb).map(|(a, b)| cosine(a, b)).fold(1.0, f32::min);
    let moved = sa.iter().zip(&sb).map(|(a, b)| (a.probability - b.probability).abs()).fold(0.0, f32::max);
    println!("{}: cosine to f32 at least {worst:.5}, probabilities moved by at most {moved:.4}", auto.info().dtype);
    assert_eq!(exact.info().dtype, "f32");
    assert!(worst > 0.999 && moved < 0.02);
}

#[test]
fn says_honestly_what_runs() {
    let dir = folder::model();
    let embedder = start(dir.path()).unwrap();
    let info = embedder.info();
    assert_eq!((info.device.as_str(), info.image_size, info.feature_dim), ("cpu", [64, 32], 32));
    assert_eq!((info.patch_rows, info.patch_width, info.id.len()), (9, 64, 16));
    assert!(!info.calibration.calibrated && embedder.is_alive());
}

/// Features must be told apart by weights, tokenizer, dimensions and preprocessing; a new
/// calibration changes none.
/// Replaces the weights in a model folder, and nothing else.
fn write_weights(dir: &Path, change: impl Fn(&mut HashMap<String, Tensor>)) {
    let mut tensors = golden::weights();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

#[test]
fn the_id_follows_what_moves_features() {
    let dir = folder::model();
    let id = || ModelFolder::open(dir.path()).unwrap().id;
    let first = id();
    let mut config = golden::config();
    config.calibration.temperature = 3.0;
    std::fs::write(dir.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(id(), first);
    config.preprocess.mean[0] += 0.1;
    std::fs::write(dir.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    let second = id();
    write_weights(dir.path(), |t| {
        t.insert("itm_head.bias".into(), Tensor::new(&[0.5f32, 0.0], &candle_core::Device::Cpu).unwrap());
    });
    assert!(second != first && id() != second);
}

#[test]
fn calibration_reaches_the_answer() {
    let dir = folder::model();
    let ask = || {
        let e = start(dir.path()).unwrap();
        let query = e.encode_text_blocking("a red jacket").unwrap();
        let patches = e.embed_images_blocking(folder::pictures()).unwrap().into_iter().map(|i| i.patches).collect();
        let scores = e.match_scores_blocking(&query, patches).unwrap();
        scores.into_iter().map(Option::unwrap).collect::<Vec<MatchScore>>()
    };
    let plain = ask();
    let mut config = golden::config();
    (config.calibration.temperature, config.calibration.bias) = (4.0, 1.0);
    std::fs::write(dir.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    for (a, b) in plain.iter().zip(ask()) {
        let z = (a.probability / (1.0 - a.probability)).ln() / 4.0 + 1.0;
        assert!((b.probability - 1.0 / (1.0 + (-z).exp())).abs() < 1e-4 && a.logit == b.logit);
    }
}

#[test]
fn the_self_test_passes_where_it_was_written_and_catches_what_changed() {
    let dir = folder::model();
    assert_eq!(start(dir.path()).unwrap().info().self_test, SelfTest::SpreadOnly);
    write_self_test(dir.path()).unwrap();
    assert_eq!(start(dir.path()).unwrap().info().self_test, SelfTest::Compared);
    // Other weights than those the golden answers were made with.
    write_weights(dir.path(), |t| {
        let moved = (t["vision_proj.weight"].roll(1, 1)).unwrap();
        t.insert("vision_proj.weight".into(), moved);
    });
    let e = start(dir.path()).unwrap_err();
    assert!(matches!(&e, EmbedError::SelfTest(m) if m.contains("image_feature")), "{e}");
    // Another picture preparation.
    write_weights(dir.path(), |_| {});
    start(dir.path()).unwrap();
    let mut config = golden::config();
    config.preprocess.std = [0.01; 3];
    std::fs::write(dir.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    assert!(matches!(start(dir.path()), Err(EmbedError::SelfTest(_))));
}

/// A stored answer that is empty or too short must not pass because it compares nothing.
#[test]
fn stored_answers_of_another_length_fail_the_self_test() {
    let dir = folder::model();
    write_self_test(dir.path()).unwrap();
    let file = dir.path().join("selftest.safetensors");
    let stored = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    for name in ["image_feature", "text_feature", "logits"] {
        for length in [0, 1] {
            let mut changed = stored.clone();
            changed.insert(name.to_owned(), stored[name].narrow(0, 0, length).unwrap());
            candle_core::safetensors::save(&changed, &file).unwrap();
            let e = start(dir.path()).unwrap_err();
            assert!(matches!(&e, EmbedError::SelfTest(m) if m.contains(name)), "{length} numbers of {name}: {e}");
        }
    }
    candle_core::safetensors::save(&stored, &file).unwrap();
    assert_eq!(start(dir.path()).unwrap().info().self_test, SelfTest::Compared);
}

#[test]
fn constant_features_fail_the_self_test() {
    for (name, part) in [("vision_proj.weight", "pictures"), ("text_proj.weight", "sentences")] {
        let dir = folder::model_with(|t| {
            let zero = t[name].zeros_like().unwrap();
            t.insert(name.into(), zero);
        });
        let e = start(dir.path()).unwrap_err();
        assert!(matches!(&e, EmbedError::SelfTest(m) if m.contains(part)), "{e}");
    }
    let dir = folder::model_with(|t| {
        let nan = (t["visual_encoder.norm.weight"].zeros_like().unwrap() / 0.0).unwrap();
        t.insert("visual_encoder.norm.weight".into(), nan);
    });
    assert!(matches!(start(dir.path()), Err(EmbedError::NotFinite)));
}

#[test]
fn broken_model_folders_are_refused() {
    assert!(matches!(start(Path::new("/nowhere/at/all")), Err(EmbedError::NoModel { .. })));
    let dir = folder::model();
    let write = |file: &str, bytes: &[u8]| std::fs::write(dir.path().join(file), bytes).unwrap();
    write("model.safetensors", b"");
    assert!(matches!(start(dir.path()), Err(EmbedError::EmptyWeights { .. })));
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let e = start(dir.path()).unwrap_err();
    assert!(matches!(&e, EmbedError::Io { .. }) && e.to_string().contains("model.safetensors"), "{e}");
    write("config.json", b"{\"architecture\": {}}");
    let e = start(dir.path()).unwrap_err();
    assert!(matches!(&e, EmbedError::Config { .. }) && e.to_string().contains("image_size"), "{e}");
}

#[test]
fn an_absent_device_is_an_error() {
    let dir = folder::model();
    let cfg = EmbedConfig { device: "cuda:42".into(), ..folder::config() };
    let e = Embedder::start(dir.path(), &cfg).unwrap_err();
    assert!(matches!(&e, EmbedError::Device { .. }) && e.to_string().contains("cuda:42"), "{e}");
}

#[test]
fn bad_questions_are_refused_and_the_thread_lives_on() {
    let dir = folder::model();
    let e = start(dir.path()).unwrap();
    assert!(matches!(e.encode_text_blocking("\u{1f600}"), Err(EmbedError::EmptyQuery)));
    let query = e.encode_text_blocking(&"red jacket ".repeat(5_000)).unwrap();
    assert!(query.truncated && query.ids.len() == 73);
    let odd = PatchFeatures { rows: 9, width: 64, data: vec![0u8; 10].into() };
    assert!(matches!(e.match_scores_blocking(&query, vec![odd]), Err(EmbedError::PatchFeatures { .. })));
    let nothing = RgbImage::new(0, 0, Vec::new()).unwrap();
    assert!(matches!(e.embed_images_blocking(vec![nothing]), Err(EmbedError::EmptyImage { .. })));
    assert!(e.match_scores_blocking(&query, vec![]).unwrap().is_empty());
    assert!(e.embed_images_blocking(vec![]).unwrap().is_empty());
    assert!(e.is_alive() && e.encode_text_blocking("a red jacket").is_ok());
}

/// A damaged picture has no score, whatever it is damaged with, and moves no other picture's.
#[test]
fn poisoned_patch_features_have_no_score() {
    let dir = folder::model();
    let e = start(dir.path()).unwrap();
    let query = e.encode_text_blocking("a red jacket").unwrap();
    let mut patches: Vec<PatchFeatures> =
        e.embed_images_blocking(folder::pictures()).unwrap().into_iter().map(|i| i.patches).collect();
    let sound = e.match_scores_blocking(&query, patches.clone()).unwrap();
    for (at, value) in [(1, f16::NAN), (4, f16::NEG_INFINITY)] {
        let mut data = patches[at].data.to_vec();
        let last = data.len() - 2;
        data[last..].copy_from_slice(&value.to_le_bytes());
        patches[at].data = data.into();
    }
    for (i, (score, sound)) in e.match_scores_blocking(&query, patches).unwrap().iter().zip(&sound).enumerate() {
        assert_eq!(score, if i == 1 || i == 4 { &None } else { sound }, "picture {i}");
    }
}

/// Patch features are stored in f16. A picture whose features it cannot hold is refused, not stored
/// with infinities.
#[test]
fn patch_features_beyond_f16_are_refused() {
    let pictures = folder::pictures();
    let embed = |dir: &Path, pictures: &[RgbImage]| {
        // Without the self-test, whose own pictures may overflow as well.
        Model::load(&ModelFolder::open(dir).unwrap(), "cpu").unwrap().embed_images(pictures)
    };
    let largest = |features: &ImageFeatures| {
        let values = features.patches.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32().abs());
        values.fold(0.0, f32::max)
    };
    let plain = embed(folder::model().path(), &pictures).unwrap();
    let mut order: Vec<usize> = (0..pictures.len()).collect();
    order.sort_by(|a, b| largest(&plain[*b]).total_cmp(&largest(&plain[*a])));
    let (first, second) = (largest(&plain[order[0]]), largest(&plain[order[1]]));
    assert!(first > 1.002 * second, "{first} {second}: f16 could not tell them apart");
    // The final norm scales the patch features: the largest of one picture alone is now beyond
    // 65,504.
    let scale = f64::from(65_504.0 / ((first + second) / 2.0));
    let scaled = folder::model_with(|t| {
        for name in ["visual_encoder.norm.weight", "visual_encoder.norm.bias"] {
            let larger = (&t[name] * scale).unwrap();
            t.insert(name.into(), larger);
        }
    });
    for (i, picture) in pictures.iter().enumerate() {
        let alone = embed(scaled.path(), std::slice::from_ref(picture));
        if i == order[0] {
            assert!(matches!(alone, Err(EmbedError::NotFinite)), "picture {i}");
        } else {
            assert!(largest(&alone.unwrap()[0]).is_finite(), "picture {i}");
        }
    }
    assert!(matches!(embed(scaled.path(), &pictures), Err(EmbedError::NotFinite)));
}

/// Many callers at once, async and blocking, each get their own answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_do_not_mix() {
    let dir = folder::model();
    let e = start(dir.path()).unwrap();
    let captions = folder::captions();
    let mut alone = Vec::new();
    for c in &captions {
        alone.push(e.encode_text(c).await.unwrap());
    }
    let crops = {
        let e = e.clone();
        let pictures = folder::pictures().into_iter().cycle().take(24).collect();
        tokio::task::spawn_blocking(move || e.embed_crops_blocking(pictures).unwrap())
    };
    let tasks: Vec<_> = (0..48)
        .map(|i| {
            let (e, text) = (e.clone(), captions[i % 6].clone());
            tokio::spawn(async move { e.encode_text(&text).await.unwrap() })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), alone[i % 6]);
    }
    let together = crops.await.unwrap();
    assert_eq!(together.len(), 24);
    for (i, f) in together.iter().enumerate() {
        assert!(distance(&f.feature, &together[i % 6].feature) < 1e-5);
    }
}
