//! The evaluation protocols from pictures and words on disk to ranks: the reference's own scores,
//! every preset, dumps.

use std::path::Path;

use candle_core::{Device, Tensor};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Calibration, Evidence, Network, QueryBank};
use sightline_embed::net::WeightFile;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::{Model, ModelFolder};
use sightline_tune::dataset::Dataset;
use sightline_tune::evaluate::{EvalStage, LocalScore, Scores, dump, ranks, score_gallery};
use sightline_tune::gallery::Gallery;

use crate::{folder, golden};

/// The six pictures and captions of the golden data in CUHK-PEDES layout, one person each.
fn dataset(root: &Path) -> Gallery {
    std::fs::create_dir_all(root.join("imgs")).unwrap();
    let mut items = Vec::new();
    for (i, (picture, caption)) in folder::pictures().into_iter().zip(folder::captions()).enumerate() {
        let name = format!("{i}.png");
        let (w, h) = (picture.width(), picture.height());
        image::RgbImage::from_raw(w, h, picture.data().to_vec()).unwrap().save(root.join("imgs").join(&name)).unwrap();
        items.push(serde_json::json!({"split": "test", "captions": [caption], "file_path": name, "id": i + 1}));
    }
    std::fs::write(root.join("reid_raw.json"), serde_json::to_string(&items).unwrap()).unwrap();
    Gallery::of_entries(Dataset::CuhkPedes.read(root, "test").unwrap())
}

fn scores(gallery: &Gallery, k: usize) -> Scores {
    scores_with(gallery, k, &[]).0
}

/// The same with a query bank of `bank`, if it holds a text.
fn scores_with(gallery: &Gallery, k: usize, bank: &[&str]) -> (Scores, Option<QueryBank>) {
    let dir = folder::model();
    let (arch, prep) = (golden::arch(), golden::config().preprocess);
    let file = WeightFile::read(&dir.path().join("model.safetensors")).unwrap();
    let network = Network::load(file, &arch, &sightline_embed::model::Device::Cpu, Precision::F32).unwrap();
    let tokenizer = CaptionTokenizer::load(&dir.path().join("tokenizer.json"), &arch).unwrap();
    let texts = tokenizer.ids(&gallery.captions).unwrap();
    let bank: Vec<Vec<u32>> = bank.iter().map(|c| tokenizer.encode(c).unwrap().ids).collect();
    let bank = QueryBank::of(&network, &bank).unwrap();
    let pixels = |range| gallery.pixels(range, arch.image_size, &prep);
    (score_gallery(&network, &texts, gallery.len(), pixels, k, bank.as_ref(), |_, _, _| {}).unwrap(), bank)
}

fn matrix(rows: &[Vec<f32>]) -> Tensor {
    Tensor::new(rows.to_vec(), &Device::Cpu).unwrap()
}

#[test]
fn pictures_and_words_give_the_scores_of_the_reference() {
    let root = tempfile::tempdir().unwrap();
    let gallery = dataset(root.path());
    let want = golden::tensors("cada-tiny/eval.safetensors");
    for (k, form, name) in [
        (0, LocalScore::Reference, "score_global"),
        (3, LocalScore::Reference, "score_k3"),
        (6, LocalScore::Reference, "score_k6"),
        (32, LocalScore::Reference, "score_k6"),
        (3, LocalScore::Paper, "score_paper_k3"),
    ] {
        let scores = scores(&gallery, k);
        let local = golden::max_diff(&matrix(&scores.local(&form)), &want[name]);
        let cosine = golden::max_diff(&matrix(&scores.cosine), &want["cosine_t2i"]);
        println!("{name}: {local:.1e} of {:.0e}; cosine {cosine:.1e}", golden::tolerance(name));
        assert!(local <= golden::tolerance(name) && cosine <= golden::tolerance("cosine_t2i"));
        assert!(!scores.half && scores.top_k.iter().all(|j| j.len() == k.min(6)));
    }
}

#[test]
fn the_product_ranks_by_calibrated_probability() {
    let root = tempfile::tempdir().unwrap();
    let gallery = dataset(root.path());
    let scores = scores(&gallery, 4);
    let fitted = Calibration { temperature: 0.3, bias: -0.4, similarity: 2.0, ..Calibration::default() };
    let rows = scores.local(&LocalScore::Sightline(fitted.clone()));
    for (row, (cosine, top_k)) in rows.iter().zip(scores.cosine.iter().zip(&scores.top_k)) {
        for (image, score) in row.iter().enumerate() {
            match top_k.iter().find(|j| j.0 == image) {
                Some(j) => {
                    let pair = Evidence { logits: j.1, cosine: cosine[image], hubness: 0.0 };
                    assert!((*score - fitted.probability(&pair)).abs() < 1e-6);
                }
                None => assert_eq!(*score, cosine[image] - 2.0),
            }
        }
    }
    let pairs = scores.pairs(&gallery.text_ids, &gallery.image_ids);
    assert_eq!(pairs.len(), 24);
    assert!(pairs.iter().filter(|p| p.1).count() <= 6);
}

#[test]
fn hubness_counts_in_a_search_as_in_an_evaluation() {
    let root = tempfile::tempdir().unwrap();
    let gallery = dataset(root.path());
    let (scores, bank) =
        scores_with(&gallery, 6, &["a man in a blue coat", "a woman", "someone with a bag and a red hat"]);
    for (image, hubness) in scores.hubness.iter().enumerate() {
        let (least, most) =
            scores.cosine.iter().fold((1f32, -1f32), |(l, m), row| (l.min(row[image]), m.max(row[image])));
        assert!(*hubness > least - 0.5 && *hubness < most + 0.5, "{hubness}");
    }
    let less = scores.without_hubness(2).expect("there is a bank");
    assert!((less[3] - (scores.cosine[2][3] - scores.hubness[3])).abs() < 1e-6);
    let dir = folder::model();
    let mut config = golden::config();
    (config.calibration.similarity, config.calibration.hubness) = (2.0, -3.0);
    let form = LocalScore::Sightline(config.calibration.clone());
    std::fs::write(dir.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    let open = || Model::load(&ModelFolder::open(dir.path()).unwrap(), "cpu");
    let e = open().expect_err("no bank").to_string();
    assert!(e.contains("query-bank.safetensors"), "{e}");
    bank.unwrap().save(&dir.path().join("query-bank.safetensors")).unwrap();
    let model = open().unwrap();
    let patches: Vec<_> =
        model.embed_images(&folder::pictures()).unwrap().into_iter().map(|features| features.patches).collect();
    for (caption, row) in gallery.captions.iter().zip(scores.local(&form)) {
        let query = model.encode_text(caption).unwrap();
        for (score, want) in model.match_scores(&query, &patches).unwrap().iter().flatten().zip(row) {
            assert!((score.probability - want).abs() < 3e-3, "{} instead of {want}", score.probability);
        }
    }
}

/// The same caption twice is computed once and answered twice; order and batch do not count.
#[test]
fn repeated_captions_get_the_same_row() {
    let root = tempfile::tempdir().unwrap();
    let mut gallery = dataset(root.path());
    let before = scores(&gallery, 3);
    let (captions, ids) = (gallery.captions.clone(), gallery.text_ids.clone());
    gallery.captions.extend(captions.into_iter().rev());
    gallery.text_ids.extend(ids.into_iter().rev());
    let after = scores(&gallery, 3);
    for i in 0..6 {
        assert_eq!(after.cosine[i], after.cosine[11 - i]);
        assert_eq!(after.top_k[i], after.top_k[11 - i]);
        assert_eq!(after.cosine[i], before.cosine[i]);
    }
}

#[test]
fn dumped_matrices_give_the_same_ranks() {
    let root = tempfile::tempdir().unwrap();
    let gallery = dataset(root.path());
    let scores = scores(&gallery, 3);
    let local = scores.local(&LocalScore::Reference);
    let path = root.path().join("scores.safetensors");
    dump(&path, &scores.cosine, Some(&local), &gallery.text_ids, &gallery.image_ids).unwrap();
    let stored = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let rows = |name: &str| stored[name].to_vec2::<f32>().unwrap();
    let ids = |name: &str| stored[name].to_vec1::<i64>().unwrap().into_iter().map(|i| i as u32).collect::<Vec<_>>();
    assert_eq!((rows("cosine_t2i"), rows("score_local")), (scores.cosine.clone(), local.clone()));
    let again = ranks(&rows("score_local"), &ids("text_ids"), &ids("image_ids"));
    assert_eq!(again, ranks(&local, &gallery.text_ids, &gallery.image_ids));
    dump(&path, &scores.cosine, None, &gallery.text_ids, &gallery.image_ids).unwrap();
    let stored = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    assert!(!stored.contains_key("score_local"));
    let e = dump(Path::new("no/such/x"), &scores.cosine, None, &gallery.text_ids, &gallery.image_ids).unwrap_err();
    assert!(e.to_string().contains("no/such"), "{e}");
}

#[test]
fn every_stage_is_told_to_its_end() {
    let root = tempfile::tempdir().unwrap();
    let gallery = dataset(root.path());
    let (arch, prep) = (golden::arch(), golden::config().preprocess);
    let texts = vec![vec![101, 110, 102], vec![101, 111, 112, 102]];
    let told = std::cell::RefCell::new(std::collections::HashMap::new());
    let pixels = |range| gallery.pixels(range, arch.image_size, &prep);
    score_gallery(
        &Network::Cpu(Box::new(golden::net(Precision::F32))),
        &texts,
        6,
        pixels,
        2,
        None,
        |stage, done, of| {
            told.borrow_mut().insert(stage, (done, of));
        },
    )
    .unwrap();
    let told = told.into_inner();
    assert_eq!(
        (told[&EvalStage::Pictures], told[&EvalStage::Texts], told[&EvalStage::Pairs]),
        ((6, 6), (2, 2), (2, 2))
    );
}
