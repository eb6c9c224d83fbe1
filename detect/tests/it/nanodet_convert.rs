//! Conversion from TF.js to safetensors, with a made-up model, whole and broken in every way that
//! can happen at set-up.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use sightline_detect::DetectError;
use sightline_detect::convert::tfjs_to_safetensors;
use sightline_detect::nanodet::{LAYERS, verify};

type Named<'a> = (String, TensorView<'a>);

/// A value of the made-up model, exact in half precision.
fn value(layer: usize, index: usize) -> f32 {
    ((layer * 31 + index * 7) % 512) as f32 / 256.0 - 1.0
}

struct Source {
    _folder: tempfile::TempDir,
    json: PathBuf,
    bin: PathBuf,
    out: PathBuf,
    model: Value,
    bytes: Vec<u8>,
}

impl Source {
    /// Weights as `float16`, biases plain, and a constant in between that belongs to no layer.
    fn new() -> Self {
        let (mut weights, mut bytes) = (Vec::new(), Vec::new());
        for (l, layer) in LAYERS.iter().enumerate() {
            let s = layer.shape;
            let f16 = json!({"dtype": "float16", "original_dtype": "float32"});
            let shape = [s.kernel, s.kernel, s.inputs, s.outputs];
            weights.push(json!({"name": layer.tfjs_weight, "shape": shape, "dtype": "float32", "quantization": f16}));
            for i in 0..shape.iter().product() {
                bytes.extend(half::f16::from_f32(value(l, i)).to_le_bytes());
            }
            weights.push(json!({"name": format!("perm_{l}"), "shape": [4], "dtype": "int32"}));
            bytes.extend([0u8; 16]);
            weights.push(json!({"name": layer.tfjs_bias, "shape": [s.outputs], "dtype": "float32"}));
            for i in 0..s.outputs {
                bytes.extend((value(l, i) + 0.001).to_le_bytes());
            }
        }
        let model = json!({
            "format": "graph-model", "modelTopology": {},
            "weightsManifest": [{"paths": ["nanodet.bin"], "weights": weights}],
        });
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        let (json, bin, out) = (at("nanodet.json"), at("nanodet.bin"), at("out.safetensors"));
        let source = Self { _folder: folder, json, bin, out, model, bytes };
        source.write();
        source
    }

    fn write(&self) {
        std::fs::write(&self.json, self.model.to_string()).unwrap();
        std::fs::write(&self.bin, &self.bytes).unwrap();
    }

    fn entries(&mut self) -> &mut Vec<Value> {
        self.model["weightsManifest"][0]["weights"].as_array_mut().unwrap()
    }

    /// Converts; expects an error about `file` that contains `what`, and no output.
    fn refuse(&self, file: &Path, what: &str) {
        let error = tfjs_to_safetensors(&self.json, &self.bin, &self.out).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&file.display().to_string()), "{text:?} does not name {}", file.display());
        assert!(text.contains(what), "{text:?} does not say {what:?}");
        assert!(!self.out.exists(), "an output was written in spite of {text:?}");
        let left = std::fs::read_dir(self.out.parent().unwrap()).unwrap().count();
        assert_eq!(left, 2, "something was left behind");
    }
}

#[test]
fn converts_names_shapes_order_and_quantization() {
    let source = Source::new();
    tfjs_to_safetensors(&source.json, &source.bin, &source.out).unwrap();
    verify(&source.out).unwrap();
    let bytes = std::fs::read(&source.out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 68);
    for (l, layer) in LAYERS.iter().enumerate() {
        let s = layer.shape;
        let read = |name: String| -> Vec<f32> {
            let data = file.tensor(&name).unwrap().data().to_vec();
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let weight = read(format!("{}.weight", layer.name));
        for (i, v) in weight.iter().enumerate() {
            // [out][in][ky][kx] here, [ky][kx][in][out] there.
            let tap = i % (s.kernel * s.kernel);
            let (o, c) = (i / (s.kernel * s.kernel * s.inputs), i / (s.kernel * s.kernel) % s.inputs);
            assert_eq!(*v, value(l, (tap * s.inputs + c) * s.outputs + o), "{} value {i}", layer.name);
        }
        let bias = read(format!("{}.bias", layer.name));
        assert!(bias.iter().enumerate().all(|(i, v)| *v == value(l, i) + 0.001));
    }
    // Converting again gives the same bytes, over the old file.
    tfjs_to_safetensors(&source.json, &source.bin, &source.out).unwrap();
    assert_eq!(std::fs::read(&source.out).unwrap(), bytes);
}

#[test]
fn affine_quantization_is_undone() {
    let mut source = Source::new();
    let last = &LAYERS[33];
    let bias = source.entries().last_mut().unwrap();
    bias["quantization"] = json!({"dtype": "uint8", "scale": 0.5, "min": -2.0});
    let keep = source.bytes.len() - 4 * last.shape.outputs;
    source.bytes.truncate(keep);
    source.bytes.extend((0..last.shape.outputs).map(|i| i as u8));
    source.write();
    tfjs_to_safetensors(&source.json, &source.bin, &source.out).unwrap();
    let bytes = std::fs::read(&source.out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor("head.gfl_cls.2.bias").unwrap().data().to_vec();
    assert_eq!(data[..4], (-2.0f32).to_le_bytes());
    assert_eq!(data[4 * 100..4 * 101], 48.0f32.to_le_bytes());
}

#[test]
fn truncated_or_longer_values_are_refused() {
    let mut source = Source::new();
    source.bytes.pop();
    source.write();
    source.refuse(&source.bin, "cut short: unknown_72");
    source.bytes.truncate(1000);
    source.write();
    source.refuse(&source.bin, "cut short: PartitionedCall/split needs bytes 0..1728");
    let mut source = Source::new();
    source.bytes.push(0);
    source.write();
    source.refuse(&source.bin, "the manifest describes");
}

#[test]
fn broken_manifests_are_refused() {
    let source = Source::new();
    std::fs::write(&source.json, &source.model.to_string()[..5000]).unwrap();
    source.refuse(&source.json, "not a TF.js model");
    std::fs::write(&source.json, "<html>not found</html>").unwrap();
    source.refuse(&source.json, "not a TF.js model");

    let broken = |change: &dyn Fn(&mut Source), what: &str| {
        let mut source = Source::new();
        change(&mut source);
        source.write();
        source.refuse(&source.json, what);
    };
    broken(&|s| s.model["format"] = json!("layers-model"), "\"graph-model\" is needed");
    broken(&|s| s.entries()[0]["name"] = json!("other"), "PartitionedCall/split is missing");
    broken(&|s| s.entries()[0]["shape"] = json!([3, 3, 32, 3]), "PartitionedCall/split has the shape [3, 3, 32, 3]");
    broken(&|s| s.entries()[2]["dtype"] = json!("int32"), "unknown_0 is \"int32\"");
    broken(&|s| s.entries()[2]["dtype"] = json!("string"), "unknown_0: unknown dtype \"string\"");
    broken(&|s| s.entries()[1]["name"] = json!("unknown_0"), "unknown_0 is there twice");
    broken(&|s| s.entries()[1]["shape"] = json!([1u64 << 62, 1u64 << 62]), "perm_0: impossible shape");
    broken(
        &|s| s.entries()[0]["quantization"] = json!({"dtype": "uint16"}),
        "PartitionedCall/split: quantization without scale and min",
    );
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let mut source = Source::new();
    let end = source.bytes.len();
    source.bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    source.write();
    source.refuse(&source.bin, "head.gfl_cls.2.bias has values that are not finite");
}

#[test]
fn missing_files_are_named() {
    let source = Source::new();
    let absent = source.json.with_file_name("absent.json");
    let error = tfjs_to_safetensors(&absent, &source.bin, &source.out).unwrap_err();
    assert!(matches!(&error, DetectError::Io { path, .. } if *path == absent), "{error}");
    let inside_a_file = source.json.join("folder.safetensors");
    assert!(matches!(tfjs_to_safetensors(&source.json, &source.bin, &inside_a_file), Err(DetectError::Io { .. })));
}

#[test]
fn the_folder_is_made() {
    let source = Source::new();
    let out = source.json.with_file_name("new").join("folder").join("weights.safetensors");
    tfjs_to_safetensors(&source.json, &source.bin, &out).unwrap();
    verify(&out).unwrap();
}

/// Errors of `verify` and loading for other files.
#[test]
fn wrong_safetensors_are_refused() {
    let source = Source::new();
    tfjs_to_safetensors(&source.json, &source.bin, &source.out).unwrap();
    let good = std::fs::read(&source.out).unwrap();
    let refuse = |bytes: &[u8], what: &str| {
        std::fs::write(&source.out, bytes).unwrap();
        let error = verify(&source.out).unwrap_err().to_string();
        assert!(
            error.starts_with(&source.out.display().to_string()) && error.contains(what),
            "{error:?}, not {what:?}"
        );
    };
    refuse(&good[..good.len() - 1], "not a whole safetensors file");
    refuse(b"", "not a whole safetensors file");
    let file = SafeTensors::deserialize(&good).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<Named<'_>>)| {
        let mut tensors = file.tensors();
        change(&mut tensors);
        safetensors::serialize(tensors, None).unwrap()
    };
    let at = |t: &[Named<'_>], name: &str| t.iter().position(|(n, _)| n == name).unwrap();
    let bias = "backbone.stages.0.conv.bias";
    refuse(&changed(&|t| drop(t.remove(at(t, bias)))), "backbone.stages.0.conv.bias is missing");
    let zeros = [0u8; 128];
    let wrong_shape = |t: &mut Vec<Named<'_>>| {
        let i = at(t, bias);
        t[i].1 = TensorView::new(Dtype::F32, vec![31], &[0u8; 124]).unwrap();
    };
    refuse(&changed(&wrong_shape), "backbone.stages.0.conv.bias has the shape [31], not [32]");
    let extra = TensorView::new(Dtype::F32, vec![32], &zeros).unwrap();
    let mut tensors = file.tensors();
    tensors.push(("extra".into(), extra));
    refuse(&safetensors::serialize(tensors, None).unwrap(), "it holds 69 tensors, NanoDet-g has 68");
    std::fs::write(&source.out, &good).unwrap();
    verify(&source.out).unwrap();
}
