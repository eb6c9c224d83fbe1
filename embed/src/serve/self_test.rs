//! The start-up self-test: does this model, in this build, on this machine still compute what it
//! did when it was made?
//!
//! Without it two faults go unnoticed: features that hardly depend on the input (a
//! collapsed or half-loaded model), and features of wrong input (channels swapped, another
//! tokenizer, another resize). The first is caught by the spread of the features of a few synthetic
//! pictures and sentences. The second is caught by `selftest.safetensors`, which is written when
//! the model is made and holds a picture, a sentence, and their features and logits.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sightline_core::RgbImage;

use crate::net::{save_tensors, to_f32};
use crate::{EmbedError, Model, ModelFolder};

/// Smallest accepted spread (sum over dimensions of the variance over inputs) of L2-normalised
/// features. Trained models have above 0.05, a collapsed one below 1e-8.
pub const MIN_SPREAD: f64 = 1e-5;
/// Smallest accepted cosine between a stored feature and the computed one: bf16 arithmetic gives
/// 0.9999, swapped colour channels of a trained model far less.
pub const MIN_COSINE: f64 = 0.999;
/// Largest accepted difference of a match logit; bf16 arithmetic moves them by some 0.02.
pub const MAX_LOGIT_DIFFERENCE: f64 = 0.1;

const SENTENCE: &str = "a woman in a red jacket and blue jeans carries a black backpack";
const SENTENCES: [&str; 4] =
    ["a man in a black coat", "a girl with a yellow dress", SENTENCE, "two white shoes, grey trousers"];

/// Outcome of a model's self-test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum SelfTest {
    /// It was not run.
    #[default]
    #[serde(rename = "not run")]
    NotRun,
    /// Features depend on the input. The model folder has no stored answers
    /// (`selftest.safetensors`) to compare them with.
    #[serde(rename = "spread only")]
    SpreadOnly,
    /// Features and logits equal the stored answers.
    #[serde(rename = "compared")]
    Compared,
}

impl std::fmt::Display for SelfTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotRun => "not run",
            Self::SpreadOnly => "spread only",
            Self::Compared => "compared",
        })
    }
}

/// Runs the test on a loaded model. Without stored answers it checks less, and a warning says so.
///
/// # Errors
/// [`EmbedError::SelfTest`] with what is wrong.
pub fn self_test(model: &Model, folder: &ModelFolder) -> Result<SelfTest, EmbedError> {
    let images: Vec<RgbImage> = (0..4).map(synthetic).collect::<Result<_, _>>()?;
    let features: Vec<Vec<f32>> = model.embed_images(&images)?.into_iter().map(|f| f.feature).collect();
    check_spread("pictures", &features)?;
    let captions = SENTENCES.iter().map(|s| model.tokenizer().encode(s)).collect::<Result<Vec<_>, _>>()?;
    check_spread("sentences", &model.embed_captions(&captions)?)?;
    let path = folder.self_test();
    if !path.exists() {
        tracing::warn!(
            file = %path.display(),
            "the model folder has no stored answers: the self-test cannot tell whether features are what they were"
        );
        return Ok(SelfTest::SpreadOnly);
    }
    compare(model, &path)?;
    Ok(SelfTest::Compared)
}

/// Writes `selftest.safetensors` into the model folder at `path` from what the model computes now,
/// on the CPU. Call it when a model is made, never to silence a failing test.
///
/// # Errors
/// A folder that is not a whole model, or that cannot be written to.
pub fn write_self_test(path: &Path) -> Result<(), EmbedError> {
    let folder = ModelFolder::open(path)?;
    let model = Model::load(&folder, "cpu")?;
    let image = synthetic(1)?;
    let now = run(&model, &image, SENTENCE)?;
    let (h, w) = (image.height() as usize, image.width() as usize);
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let ids: Vec<u8> = now.ids.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (image_feature, text_feature, logits) = (floats(&now.image), floats(&now.text), floats(&now.logits));
    let tensors: [(&str, Dtype, Vec<usize>, &[u8]); 6] = [
        ("image", Dtype::U8, vec![h, w, 3], image.data()),
        ("text", Dtype::U8, vec![SENTENCE.len()], SENTENCE.as_bytes()),
        ("ids", Dtype::U32, vec![now.ids.len()], &ids),
        ("image_feature", Dtype::F32, vec![now.image.len()], &image_feature),
        ("text_feature", Dtype::F32, vec![now.text.len()], &text_feature),
        ("logits", Dtype::F32, vec![2], &logits),
    ];
    let path = folder.self_test();
    let bad = |e: safetensors::SafeTensorError| EmbedError::Safetensors { path: path.clone(), message: e.to_string() };
    let views = tensors.into_iter().map(|(name, dtype, shape, data)| Ok((name, TensorView::new(dtype, shape, data)?)));
    save_tensors(&path, views.collect::<Result<Vec<_>, _>>().map_err(bad)?)
}

/// Output of the model for one picture and one sentence.
struct Answers {
    ids: Vec<u32>,
    image: Vec<f32>,
    text: Vec<f32>,
    logits: [f32; 2],
}

fn run(model: &Model, image: &RgbImage, text: &str) -> Result<Answers, EmbedError> {
    let features = model.embed_images(std::slice::from_ref(image))?.swap_remove(0);
    let query = model.encode_text(text)?;
    let logits = model.match_logits(&query, std::slice::from_ref(&features.patches))?[0];
    Ok(Answers { ids: query.ids, image: features.feature, text: query.feature, logits })
}

fn compare(model: &Model, path: &Path) -> Result<(), EmbedError> {
    let bad = |what: String| EmbedError::SelfTest(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(EmbedError::io(path))?;
    let stored = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
    let get = |name: &str| stored.tensor(name).map_err(|_| bad(format!("{name} is missing")));
    let floats = |name: &str| -> Result<Vec<f32>, EmbedError> { Ok(get(name)?).map(|t| to_f32(t.dtype(), t.data())) };
    let pixels = get("image")?;
    let [h, w, 3] = *pixels.shape() else { return Err(bad(format!("image is {:?}", pixels.shape()))) };
    let image = RgbImage::new(w as u32, h as u32, pixels.data().to_vec()).map_err(|e| bad(e.to_string()))?;
    let text = String::from_utf8(get("text")?.data().to_vec()).map_err(|e| bad(e.to_string()))?;
    let now = run(model, &image, &text)?;
    let ids: Vec<u32> = get("ids")?.data().as_chunks::<4>().0.iter().copied().map(u32::from_le_bytes).collect();
    if ids != now.ids {
        return Err(bad(format!("{text:?} gives other tokens than when the model was made")));
    }
    for (name, now) in [("image_feature", &now.image), ("text_feature", &now.text)] {
        let stored = floats(name)?;
        let dot: f64 = stored.iter().zip(now).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        if stored.len() != now.len() || dot.is_nan() || dot < MIN_COSINE {
            return Err(bad(format!("{name} has moved: cosine {dot:.4} to what it was, at least {MIN_COSINE} needed")));
        }
    }
    let logits = floats("logits")?;
    if logits.len() != now.logits.len() {
        return Err(bad(format!("logits holds {} numbers, {} needed", logits.len(), now.logits.len())));
    }
    for (stored, now) in logits.iter().zip(now.logits) {
        let moved = f64::from((stored - now).abs());
        if moved.is_nan() || moved > MAX_LOGIT_DIFFERENCE {
            return Err(bad(format!("a match logit has moved from {stored:.3} to {now:.3}")));
        }
    }
    Ok(())
}

fn check_spread(what: &str, features: &[Vec<f32>]) -> Result<(), EmbedError> {
    let spread = spread(features);
    if spread >= MIN_SPREAD {
        return Ok(());
    }
    Err(EmbedError::SelfTest(format!(
        "features of {} different {what} are all but equal (spread {spread:.1e}, at least {MIN_SPREAD:.0e} needed)",
        features.len()
    )))
}

/// Sum over dimensions of the variance over rows.
fn spread(features: &[Vec<f32>]) -> f64 {
    let n = features.len() as f64;
    let width = features.first().map_or(0, Vec::len);
    (0..width)
        .map(|i| {
            let column = || features.iter().map(|f| f64::from(f[i]));
            let mean = column().sum::<f64>() / n;
            column().map(|v| (v - mean).powi(2)).sum::<f64>() / n
        })
        .sum()
}

/// A picture of coarse coloured blocks with a gradient, the same on every machine.
fn synthetic(seed: u32) -> Result<RgbImage, EmbedError> {
    let (w, h) = (50 + 7 * seed, 120 + 11 * seed);
    let mut data = Vec::with_capacity((w * h * 3) as usize);
    for y in 0..h {
        for x in 0..w {
            let block = (x / 13 + 7 * (y / 17) + 31 * seed).wrapping_mul(2_654_435_761);
            for c in 0..3 {
                data.push(((block >> (8 * c)) as u8 / 2).wrapping_add((y * 127 / h) as u8));
            }
        }
    }
    RgbImage::new(w, h, data).map_err(|e| EmbedError::SelfTest(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_tells_constant_from_varied() {
        assert_eq!(spread(&[vec![0.6, 0.8], vec![0.6, 0.8]]), 0.0);
        assert!((spread(&[vec![1.0, 0.0], vec![0.0, 1.0]]) - 0.5).abs() < 1e-9);
        assert!(check_spread("x", &[vec![0.6, 0.8], vec![0.6, 0.8]]).is_err());
    }
}
