//! Weights: names and shapes of the published model, both `.pth` forms, every float type, and what
//! is refused.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Shape, Tensor};
use sightline_embed::EmbedError;
use sightline_embed::graph::WordPredictor;
use sightline_embed::model::{Architecture, Grid};
use sightline_tune::pos_embed::resize_pos_embed;
use sightline_tune::trainee::Frozen;
use sightline_tune::weights::{Selection, assign, read, required, select, trainable};

use crate::golden;

fn stored_shapes(file: &str) -> BTreeMap<String, Shape> {
    let json = golden::json(file);
    let dims = |t: &serde_json::Value| -> Vec<usize> {
        t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect()
    };
    let all = json["tensors"].as_array().unwrap().iter();
    all.map(|t| (t["name"].as_str().unwrap().to_owned(), dims(t).into())).collect()
}

fn count(shapes: &BTreeMap<String, Shape>) -> usize {
    shapes.values().map(Shape::elem_count).sum()
}

#[test]
fn names_and_shapes_of_the_published_model() {
    let stored = stored_shapes("cada_base_224.json");
    let ours = required(&Architecture::cada_base(), WordPredictor::Own).unwrap();
    for (name, shape) in &ours {
        assert_eq!(stored.get(name), Some(shape), "{name}");
    }
    // The rest are the integer buffers and the second spelling of the two tied tensors.
    let rest: Vec<&String> = stored.keys().filter(|n| !ours.contains_key(*n)).collect();
    let is_twin = |n: &&&String| n.contains("predictions.decoder.") || n.ends_with("position_ids");
    assert!(rest.len() == 4 && rest.iter().all(|n| is_twin(&n)), "{rest:?}");
    assert_eq!((stored.len(), ours.len(), count(&ours)), (799, 795, 361_335_104));
    assert_eq!(count(&required(&Architecture::cada_base(), WordPredictor::None).unwrap()), 223_453_956);
    // What the serving network asks for is the same list.
    let served = sightline_embed::net::required(&Architecture::cada_base()).unwrap();
    let graph = required(&Architecture::cada_base(), WordPredictor::None).unwrap();
    let graph: BTreeMap<String, Vec<usize>> = graph.into_iter().map(|(name, s)| (name, s.into_dims())).collect();
    assert_eq!(served, graph);
    println!("795 tensors, 361,335,104 parameters; 223,453,956 for inference");
}

#[test]
fn blip_gives_all_but_the_local_head() {
    let blip = stored_shapes("blip_pretrain_base_224.json");
    let ours = required(&Architecture::cada_base(), WordPredictor::Own).unwrap();
    let missing: Vec<&str> = ours.keys().filter(|n| !blip.contains_key(*n)).map(String::as_str).collect();
    assert_eq!(missing, ["itm_local_head.bias", "itm_local_head.weight"]);
    assert!(ours.iter().all(|(n, s)| blip.get(n).is_none_or(|b| b == s)));
}

#[test]
fn both_checkpoint_forms_hold_the_same() {
    let plain = read(&golden::path("cada-tiny/weights.pth")).unwrap();
    let trained = read(&golden::path("cada-tiny/weights_trainpy_form.pth")).unwrap();
    assert_eq!((plain.len(), trained.len()), (157, 157));
    for (name, t) in &plain {
        assert_eq!(golden::max_diff(t, &trained[name]), 0.0, "{name}");
    }
}

#[test]
fn half_precision_files_load_as_f32() {
    let dir = tempfile::tempdir().unwrap();
    let plain = read(&golden::path("cada-tiny/weights.pth")).unwrap();
    for (dtype, limit) in [(DType::F32, 0.0), (DType::F16, 2e-3), (DType::BF16, 2e-2)] {
        let path = dir.path().join(format!("{dtype:?}.safetensors"));
        let cast: std::collections::HashMap<String, Tensor> =
            plain.iter().map(|(n, t)| (n.clone(), t.to_dtype(dtype).unwrap())).collect();
        candle_core::safetensors::save(&cast, &path).unwrap();
        let back = read(&path).unwrap();
        for (name, t) in &back {
            assert_eq!(t.dtype(), DType::F32);
            assert!(golden::max_diff(t, &plain[name]) <= limit, "{name} as {dtype:?}");
        }
        load(&path, &golden::arch()).unwrap();
    }
}

fn load(path: &Path, arch: &Architecture) -> Result<Selection, EmbedError> {
    select(read(path)?, &required(arch, WordPredictor::None)?, &path.display().to_string())
}

fn refused(path: &Path, arch: &Architecture) -> EmbedError {
    load(path, arch).unwrap_err()
}

#[test]
fn bad_files_are_refused_with_their_reason() {
    let (dir, arch) = (tempfile::tempdir().unwrap(), golden::arch());
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for name in ["empty.safetensors", "empty.pth"] {
        let e = refused(&file(name, b""), &arch);
        assert!(matches!(e, EmbedError::EmptyWeights { .. }) && e.to_string().contains(name), "{e}");
    }
    for name in ["noise.safetensors", "noise.pth"] {
        let e = refused(&file(name, &[7; 4096]), &arch);
        assert!(matches!(e, EmbedError::Unreadable { .. }), "{e}");
    }
    assert!(matches!(refused(&dir.path().join("absent.safetensors"), &arch), EmbedError::Io { .. }));
    let whole = std::fs::read(golden::path("cada-tiny/weights.pth")).unwrap();
    assert!(matches!(refused(&file("cut.pth", &whole[..whole.len() / 2]), &arch), EmbedError::Unreadable { .. }));
    let other = dir.path().join("other.safetensors");
    let zeros = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    candle_core::safetensors::save(&[("foo.weight", zeros)].into_iter().collect(), &other).unwrap();
    let e = refused(&other, &arch);
    assert!(matches!(e, EmbedError::NothingMapped { found: 1, .. }) && e.to_string().contains("foo.weight"), "{e}");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let (arch, mut tensors) = (golden::arch(), read(&golden::path("cada-tiny/weights.pth")).unwrap());
    let needed = required(&arch, WordPredictor::None).unwrap();
    assert!(select(tensors.clone(), &needed, "f").unwrap().unused.iter().all(|n| n.starts_with("text_decoder.")));
    let wide = Tensor::zeros((2, 65), DType::F32, &Device::Cpu).unwrap();
    let kept = tensors.insert("itm_head.weight".into(), wide).unwrap();
    let e = select(tensors.clone(), &needed, "f").unwrap_err().to_string();
    assert!(e.contains("itm_head.weight: expected [2, 64], found [2, 65]"), "{e}");
    tensors.insert("itm_head.weight".into(), kept);
    tensors.remove("text_proj.bias");
    let e = select(tensors, &needed, "f").unwrap_err().to_string();
    assert!(e.contains("text_proj.bias [32]"), "{e}");
}

#[test]
fn variables_take_weights_and_say_which_they_lack() {
    let (arch, mut tensors) = (golden::arch(), read(&golden::path("cada-tiny/weights.pth")).unwrap());
    let (_, variables) = trainable(&arch, WordPredictor::Own, &Device::Cpu, Frozen::default()).unwrap();
    assert_eq!(assign(&variables, &tensors, "f").unwrap(), Vec::<String>::new());
    let now = variables.data().lock().unwrap()["text_proj.weight"].as_tensor().clone();
    assert_eq!(golden::max_diff(&now, &tensors["text_proj.weight"]), 0.0);
    tensors.retain(|n, _| !n.starts_with("itm_local_head"));
    assert_eq!(assign(&variables, &tensors, "f").unwrap(), ["itm_local_head.bias", "itm_local_head.weight"]);
    tensors.clear();
    assert!(matches!(assign(&variables, &tensors, "f"), Err(EmbedError::NothingMapped { .. })));
}

#[test]
fn position_embeddings_resize_to_any_rectangle() {
    let stored = golden::tensors("pos_embed.safetensors");
    let square = Grid { rows: 14, cols: 14 };
    for (name, rows, cols) in [
        ("pos_embed_24x24", 24, 24),
        ("pos_embed_8x8", 8, 8),
        ("rect_correct_24x8", 24, 8),
        ("rect_correct_28x7", 28, 7),
    ] {
        let got = resize_pos_embed(&stored["pos_embed_14x14"], square, Grid { rows, cols }).unwrap();
        let distance = golden::max_diff(&got, &stored[name]);
        println!("{name}: {distance:.1e}");
        assert!(distance < 5e-6, "{name}: {distance:.1e}");
    }
    assert!(resize_pos_embed(&stored["pos_embed_8x8"], square, Grid { rows: 2, cols: 2 }).is_err());
}
