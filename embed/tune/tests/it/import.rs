//! Importing checkpoints: the folder computes what the reference did, and what does not fit is
//! refused by name.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, Network, TokenBatch, WORD_HEAD, WordHead, WordPredictor};
use sightline_embed::net::WeightFile;
use sightline_embed::{Embedder, Model, ModelFolder};
use sightline_tune::import::{ImportOptions, ImportReport, import, map};
use sightline_tune::weights;

use crate::{folder, golden};

fn plan(checkpoint: PathBuf, out: &Path) -> ImportOptions {
    ImportOptions {
        checkpoint,
        tokenizer: golden::path("cada-tiny/tokenizer.json"),
        config: Some(golden::path("cada-tiny/config.json")),
        image: None,
        word_head: false,
        dtype: DType::F32,
        name: "tiny".into(),
        out: out.to_owned(),
        force: false,
    }
}

fn refused(plan: &ImportOptions) -> String {
    let e = import(plan).unwrap_err().to_string();
    assert!(!plan.out.exists(), "a folder was left behind by: {e}");
    e
}

/// Saves the golden weights, changed, as safetensors.
fn changed(dir: &Path, change: impl Fn(&mut HashMap<String, Tensor>)) -> PathBuf {
    let mut tensors = weights::read(&golden::path("cada-tiny/weights.pth")).unwrap();
    change(&mut tensors);
    let path = dir.join("changed.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path
}

/// As a BLIP checkpoint looks: momentum copies, queues, temperature, no head for token groups.
fn as_blip(tensors: &mut HashMap<String, Tensor>) {
    let copies: Vec<(String, Tensor)> = tensors
        .iter()
        .filter(|(name, _)| !name.starts_with("text_decoder.") && !name.starts_with("itm_"))
        .map(|(name, t)| {
            let (part, rest) = name.split_once('.').unwrap();
            (format!("{part}_m.{rest}"), (t * 2.0).unwrap())
        })
        .collect();
    tensors.extend(copies);
    for name in ["image_queue", "text_queue"] {
        tensors.insert(name.into(), Tensor::zeros((32, 10), DType::F32, &Device::Cpu).unwrap());
    }
    tensors.insert("temp".into(), Tensor::new(0.07f32, &Device::Cpu).unwrap());
    tensors.retain(|name, _| !name.starts_with("itm_local_head."));
}

/// score_k3 of the reference's evaluation, by the imported folder.
fn score_k3(dir: &Path) -> Tensor {
    let file = WeightFile::read(&dir.join("model.safetensors")).unwrap();
    let network = Network::load(file, &golden::arch(), &sightline_embed::model::Device::Cpu, Precision::F32).unwrap();
    let stored = golden::tensors("cada-tiny/eval.safetensors");
    let pixels = golden::values(&golden::tensors("cada-tiny/preprocess.safetensors")["pixel_values"]);
    let texts: TokenBatch = golden::tokens(&stored["input_ids"], &stored["attention_mask"], false);
    let images = network.encode_images(&pixels).unwrap();
    let (width, text_features) = (golden::arch().embed_dim, network.text_features(&texts).unwrap());
    let mut all = Vec::new();
    for (text, feature) in text_features.chunks(width).enumerate() {
        let dot = |image: &[f32]| image.iter().zip(feature).map(|(a, b)| a * b).sum::<f32>();
        let row: Vec<f32> = images.features.chunks(width).map(dot).collect();
        let logits = network.match_logits(&texts.select(&[text; 6]), &images.patches).unwrap();
        let mut order: Vec<usize> = (0..6).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let score = |i: usize| if order[..3].contains(&i) { row[i] + logits[i][1] } else { row[i] - 100.0 };
        all.extend((0..6).map(score));
    }
    Tensor::from_vec(all, (6, 6), &Device::Cpu).unwrap()
}

#[test]
fn every_form_of_checkpoint_gives_the_scores_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let want = &golden::tensors("cada-tiny/eval.safetensors")["score_k3"];
    let safetensors = changed(dir.path(), |_| {});
    for (i, file) in
        [golden::path("cada-tiny/weights.pth"), golden::path("cada-tiny/weights_trainpy_form.pth"), safetensors]
            .into_iter()
            .enumerate()
    {
        let out = dir.path().join(format!("models/{i}"));
        let done = import(&plan(file.clone(), &out)).unwrap();
        assert_eq!((done.form, done.resized_from, done.fresh.len()), ("CADA", None, 0));
        assert!(done.unused.is_empty() && done.dropped["word predictor"] > 50, "{done:?}");
        let distance = golden::max_diff(&score_k3(&out), want);
        println!("{}: score_k3 {distance:.1e} from the reference", file.file_name().unwrap().to_string_lossy());
        assert!(distance <= golden::tolerance("score_k3"));
        let opened = ModelFolder::open(&out).unwrap();
        assert_eq!((opened.id, opened.config.name.as_str()), (done.model_id, "tiny"));
        assert!(out.join("selftest.safetensors").is_file() && !out.join(WORD_HEAD).exists());
        Embedder::start(&out, &folder::config()).unwrap();
        // A service under another user reads the weights as well as the configuration.
        let mode = |file: &str| std::fs::metadata(out.join(file)).unwrap().permissions().mode();
        for file in ["model.safetensors", "selftest.safetensors"] {
            assert_eq!(mode(file), mode("config.json"), "{file}");
        }
    }
}

#[test]
fn the_word_predictor_is_kept_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("with");
    let done = import(&ImportOptions { word_head: true, ..plan(golden::path("cada-tiny/weights.pth"), &out) }).unwrap();
    assert!(done.dropped.is_empty(), "{done:?}");
    let folder = ModelFolder::open(&out).unwrap();
    assert_eq!(folder.config.word_head, Some(WordHead { predictor: WordPredictor::Own, causal: true }));
    let model = Model::load(&folder, "cpu").unwrap();
    let patches = model.embed_images(&folder::pictures()[..1]).unwrap().swap_remove(0).patches;
    let named = model.attributes(&patches, "a man in a [MASK] coat").unwrap();
    assert!(named.len() == 1 && named[0].words.len() == 3, "{named:?}");
    let blip = changed(dir.path(), as_blip);
    let e = refused(&ImportOptions { word_head: true, ..plan(blip, &dir.path().join("blip")) });
    assert!(e.contains("writes captions"), "{e}");
    let without = changed(dir.path(), |tensors| tensors.retain(|name, _| !name.starts_with("text_decoder.cls.")));
    let e = refused(&ImportOptions { word_head: true, ..plan(without, &dir.path().join("without")) });
    assert!(e.contains("text_decoder.cls.predictions"), "{e}");
}

#[test]
fn another_picture_size_resizes_the_position_embedding() {
    let dir = tempfile::tempdir().unwrap();
    for (image, dtype) in [([96, 48], DType::F32), ([64, 64], DType::F16)] {
        let out = dir.path().join(format!("{}", image[0] + image[1]));
        let plan = ImportOptions { image: Some(image), dtype, ..plan(golden::path("cada-tiny/weights.pth"), &out) };
        let done = import(&plan).unwrap();
        assert_eq!((done.image_size, done.resized_from), (image, Some([4, 2])));
        let embedder = Embedder::start(&out, &folder::config()).unwrap();
        let patches = embedder.embed_images_blocking(folder::pictures()).unwrap().remove(0).patches;
        assert_eq!(patches.rows as usize, 1 + image[0] * image[1] / 256);
    }
    let out = dir.path().join("odd");
    let e = refused(&ImportOptions { image: Some([100, 32]), ..plan(golden::path("cada-tiny/weights.pth"), &out) });
    assert!(e.contains("100x32") && e.contains("patch_size 16"), "{e}");
}

#[test]
fn blip_lacks_the_local_head_and_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("blip");
    let done = import(&plan(changed(dir.path(), as_blip), &out)).unwrap();
    assert_eq!((done.form, done.fresh.len()), ("BLIP", 2), "{done:?}");
    assert_eq!((done.dropped["queues"], done.dropped["temperature"]), (2, 1));
    assert!(done.dropped["momentum copies"] > 50);
    let provenance = ModelFolder::open(&out).unwrap().config.provenance;
    assert_eq!(provenance["imported"]["drawn_afresh"].as_array().unwrap().len(), 2);
    // What CADA and BLIP share is untouched.
    assert!(golden::max_diff(&score_k3(&out), &golden::tensors("cada-tiny/eval.safetensors")["score_k3"]) < 5e-5);
}

/// The published names and shapes of both, without the weights: tensors that are one zero each.
#[test]
fn the_published_models_map_whole() {
    for (file, form, fresh) in [("cada_base_224.json", "CADA", 0), ("blip_pretrain_base_224.json", "BLIP", 2)] {
        let stored = golden::json(file);
        let mut tensors = HashMap::new();
        for t in stored["tensors"].as_array().unwrap() {
            let dims: Vec<usize> =
                t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
            let zero = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap().broadcast_as(dims).unwrap();
            tensors.insert(t["name"].as_str().unwrap().to_owned(), zero);
        }
        let mut arch = Architecture::cada_base();
        let report: ImportReport = map(tensors, &mut arch, None, true, Path::new(file)).unwrap().report;
        assert_eq!((report.form, report.fresh.len(), report.parameters), (form, fresh, 223_453_956));
        assert!(report.unused.is_empty(), "{:?}", report.unused);
        assert_eq!(arch.image_size, [224, 224]);
    }
}

#[test]
fn what_does_not_fit_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let lacking = changed(dir.path(), |t| {
        t.remove("itm_head.bias");
        t.insert("something.else".into(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    });
    let e = refused(&plan(lacking, &out));
    assert!(e.contains("itm_head.bias") && e.contains("changed.safetensors"), "{e}");
    let foreign = changed(dir.path(), |t| {
        *t = HashMap::from([("backbone.conv1".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap())]);
    });
    let e = refused(&plan(foreign, &out));
    assert!(e.contains("no tensor of") && e.contains("backbone.conv1"), "{e}");
    let one_local = changed(dir.path(), |t| {
        t.remove("itm_local_head.bias");
    });
    assert!(refused(&plan(one_local, &out)).contains("itm_local_head.bias"));
    let nan = changed(dir.path(), |t| {
        let nan = (t["text_proj.weight"].zeros_like().unwrap() / 0.0).unwrap();
        t.insert("text_proj.weight".into(), nan);
    });
    assert!(refused(&plan(nan, &out)).contains("text_proj.weight"));
    let collapsed = changed(dir.path(), |t| {
        let zero = t["vision_proj.weight"].zeros_like().unwrap();
        t.insert("vision_proj.weight".into(), zero);
    });
    assert!(refused(&plan(collapsed, &out)).contains("pictures"));
    // Dimensions of another model, another tokenizer, files that are not there.
    let e = refused(&ImportOptions { config: None, ..plan(golden::path("cada-tiny/weights.pth"), &out) });
    assert!(e.contains("visual_encoder.pos_embed") && e.contains("width 768"), "{e}");
    let e = refused(&ImportOptions {
        tokenizer: golden::path("tokenizer.json"),
        ..plan(golden::path("cada-tiny/weights.pth"), &out)
    });
    assert!(e.contains("golden/tokenizer.json") && e.contains("[ENC]"), "{e}");
    assert!(refused(&plan(dir.path().join("no.pth"), &out)).contains("no.pth"));
}

#[test]
fn unused_tensors_are_told_and_a_folder_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let more = changed(dir.path(), |t| {
        t.insert("extra.weight".into(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    });
    assert_eq!(import(&plan(more.clone(), &out)).unwrap().unused, ["extra.weight"]);
    let e = import(&plan(more.clone(), &out)).unwrap_err().to_string();
    assert!(e.contains("--force"), "{e}");
    std::fs::write(out.join("stale"), b"x").unwrap();
    import(&ImportOptions { force: true, ..plan(more, &out) }).unwrap();
    assert!(!out.join("stale").exists() && ModelFolder::open(&out).is_ok());
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// The tokenizer of bert-base-uncased has neither `[DEC]` nor `[ENC]`; the reference adds them at
/// its end.
#[test]
fn a_plain_tokenizer_gets_its_two_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let mut json = golden::json("cada-tiny/tokenizer.json");
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|piece, _| piece != "[DEC]" && piece != "[ENC]");
    let kept = |t: &serde_json::Value| !["[DEC]", "[ENC]"].contains(&t["content"].as_str().unwrap());
    json["added_tokens"].as_array_mut().unwrap().retain(kept);
    let path = dir.path().join("plain.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let out = dir.path().join("model");
    let plan = ImportOptions { tokenizer: path, ..plan(golden::path("cada-tiny/weights.pth"), &out) };
    let done = import(&plan).unwrap();
    assert_eq!(done.added_pieces, ["[DEC]", "[ENC]"]);
    let embedder = Embedder::start(&out, &folder::config()).unwrap();
    assert!(embedder.encode_text_blocking(&folder::captions()[0]).is_ok());
}
