//! Conversion of a TF.js graph model to safetensors, once, at set-up: the published NanoDet-g
//! weights come as a TF.js model (a JSON manifest and one file of raw values). The detector later
//! loads a file that we wrote, with upstream's names, and checks it in full.
//!
//! Format of the source:
//! <https://github.com/tensorflow/tfjs/tree/master/tfjs-converter#format-conversion-details>; the
//! manifest lists name, shape, dtype and quantization of each weight, in the order of their bytes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;

use crate::DetectError;
pub use crate::nanodet::verify;
use crate::nanodet::{LAYERS, Layer, tensors_of};

#[derive(Deserialize)]
struct GraphModel {
    format: String,
    #[serde(rename = "weightsManifest")]
    manifest: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    weights: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    quantization: Option<Quantization>,
}

/// Encoding of the bytes when it differs from `dtype`: `float16`, or `uint8`/`uint16` as `value *
/// scale + min`.
#[derive(Deserialize)]
struct Quantization {
    dtype: String,
    scale: Option<f32>,
    min: Option<f32>,
}

/// The bytes of one weight and their description.
struct Stored<'a> {
    entry: &'a Entry,
    bytes: &'a [u8],
}

/// Converts NanoDet-g from a TF.js model (`json`, and `bin` with the values) to safetensors at
/// `out`: `f32`, named as upstream, convolutions `[out, in, k, k]`. `out` is written atomically.
///
/// # Errors
/// When a file cannot be read or written, or the source is not a complete NanoDet-g; the error
/// names the file and the tensor.
pub fn tfjs_to_safetensors(json: &Path, bin: &Path, out: &Path) -> Result<(), DetectError> {
    let read = |path: &Path| fs::read(path).map_err(|source| DetectError::Io { path: path.into(), source });
    let wrong = |path: &Path, reason: String| DetectError::Weights { path: path.into(), reason };
    let model: GraphModel =
        serde_json::from_slice(&read(json)?).map_err(|e| wrong(json, format!("not a TF.js model: {e}")))?;
    if model.format != "graph-model" {
        return Err(wrong(json, format!("a TF.js \"graph-model\" is needed, this is a {:?}", model.format)));
    }
    let bytes = read(bin)?;
    let stored = split(&model, &bytes).map_err(|e| match e {
        SplitError::Manifest(reason) => wrong(json, reason),
        SplitError::Length(reason) => wrong(bin, reason),
    })?;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for layer in LAYERS.iter() {
        let (weight, bias) = layer_values(layer, &stored).map_err(|reason| wrong(json, reason))?;
        for ((name, shape), values) in tensors_of(layer).into_iter().zip([weight, bias]) {
            if !values.iter().all(|v| v.is_finite()) {
                return Err(wrong(bin, format!("{name} has values that are not finite")));
            }
            tensors.push((name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
    }
    let mut views = Vec::new();
    for (name, shape, data) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|e| wrong(json, format!("{name}: {e}")))?;
        views.push((name, view));
    }
    let file = safetensors::serialize(views, None).map_err(|e| wrong(out, e.to_string()))?;
    write_whole(out, &file)
}

enum SplitError {
    Manifest(String),
    Length(String),
}

/// Finds the bytes of every weight. They must fill the file exactly.
fn split<'a>(model: &'a GraphModel, bytes: &'a [u8]) -> Result<HashMap<&'a str, Stored<'a>>, SplitError> {
    let mut all = HashMap::new();
    let mut start = 0usize;
    for entry in model.manifest.iter().flat_map(|g| &g.weights) {
        let kind = entry.quantization.as_ref().map_or(&entry.dtype, |q| &q.dtype);
        let width = match kind.as_str() {
            "float32" | "int32" => 4,
            "float16" | "uint16" => 2,
            "uint8" | "bool" => 1,
            other => return Err(SplitError::Manifest(format!("{}: unknown dtype {other:?}", entry.name))),
        };
        let len = entry
            .shape
            .iter()
            .try_fold(width, |n: usize, &side| n.checked_mul(side))
            .and_then(|len| start.checked_add(len).map(|_| len))
            .ok_or_else(|| SplitError::Manifest(format!("{}: impossible shape {:?}", entry.name, entry.shape)))?;
        let Some(bytes) = bytes.get(start..start + len) else {
            let reason =
                format!("cut short: {} needs bytes {start}..{}, there are {}", entry.name, start + len, bytes.len());
            return Err(SplitError::Length(reason));
        };
        if all.insert(entry.name.as_str(), Stored { entry, bytes }).is_some() {
            return Err(SplitError::Manifest(format!("{} is there twice", entry.name)));
        }
        start += len;
    }
    if start == bytes.len() {
        Ok(all)
    } else {
        Err(SplitError::Length(format!("{} bytes, the manifest describes {start}", bytes.len())))
    }
}

/// Weight `[out][in][k][k]` and bias of a layer.
fn layer_values(layer: &Layer, stored: &HashMap<&str, Stored<'_>>) -> Result<(Vec<f32>, Vec<f32>), String> {
    let s = layer.shape;
    let weight = values(&layer.tfjs_weight, &[s.kernel, s.kernel, s.inputs, s.outputs], stored)?;
    let bias = values(&layer.tfjs_bias, &[s.outputs], stored)?;
    let taps = s.kernel * s.kernel;
    let mut turned = Vec::with_capacity(weight.len());
    for o in 0..s.outputs {
        for i in 0..s.inputs {
            turned.extend((0..taps).map(|tap| weight[(tap * s.inputs + i) * s.outputs + o]));
        }
    }
    Ok((turned, bias))
}

fn values(name: &str, shape: &[usize], stored: &HashMap<&str, Stored<'_>>) -> Result<Vec<f32>, String> {
    let Stored { entry, bytes } = stored.get(name).ok_or_else(|| format!("{name} is missing"))?;
    if entry.shape != shape {
        return Err(format!("{name} has the shape {:?}, not {shape:?}", entry.shape));
    }
    if entry.dtype != "float32" {
        return Err(format!("{name} is {:?}, not float32", entry.dtype));
    }
    let halves = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let Some(q) = &entry.quantization else {
        return Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
    };
    let affine = || q.scale.zip(q.min).ok_or_else(|| format!("{name}: quantization without scale and min"));
    match q.dtype.as_str() {
        "float16" => Ok(halves.map(|h| f16::from_bits(h).to_f32()).collect()),
        "uint16" => affine().map(|(scale, min)| halves.map(|v| f32::from(v) * scale + min).collect()),
        "uint8" => affine().map(|(scale, min)| bytes.iter().map(|&v| f32::from(v) * scale + min).collect()),
        other => Err(format!("{name}: unknown quantization {other:?}")),
    }
}

/// Creates the folder, writes a temporary file beside `path`, checks it, and renames it, so that a
/// reader never sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DetectError> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|source| DetectError::Io { path: folder.into(), source })?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let io = |source| DetectError::Io { path: beside.clone(), source };
        let mut file = File::create(&beside).map_err(io)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
        verify(&beside)?;
        fs::rename(&beside, path).map_err(|source| DetectError::Io { path: path.into(), source })
    })();
    if written.is_err() {
        // The first error is the one to report; removing the temporary file is best effort.
        let _ = fs::remove_file(&beside);
    }
    written
}
