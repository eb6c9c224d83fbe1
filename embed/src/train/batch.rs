//! Batches: which pictures and captions stand together, and how pictures are varied.
//!
//! A batch depends on the seed and the step alone, so that a resumed run sees what an uninterrupted one would.

use candle_core::{Device, Result, Tensor};
use rand::Rng;
use rand::rngs::StdRng;

use super::attributes::{self, Labels};
use super::pool::Pool;
use super::tagger::{Spans, TaggedCaption};
use crate::model::{Architecture, Preprocess, TokenBatch};
use crate::synth::caption;
use crate::synth::stream;

/// Turns a text into ids with ``[CLS]`` and ``[SEP]``, cut to the model's length, and says where its attributes are.
pub type Tokenize<'a> = &'a (dyn Fn(&str) -> TaggedCaption + Sync);

/// One training batch of B pairs.
pub struct Batch {
    /// Normalised pixels `[B, 3, H, W]`.
    pub pixels: Tensor,
    /// One caption per picture.
    pub tokens: TokenBatch,
    /// Where attributes stand in each caption, for masking.
    pub spans: Vec<Spans>,
    /// Identity per pair.
    pub identities: Vec<u32>,
    /// Attributes per picture, for the auxiliary heads.
    pub labels: Vec<Labels>,
}

/// Chooses (identity, view) for one batch: siblings stand together often, so that a batch holds hard negatives, and an
/// identity sometimes comes twice, with another view.
pub fn choose(pool: &Pool, size: usize, rng: &mut StdRng) -> Vec<(u64, u64)> {
    let mut chosen = Vec::with_capacity(size + 2);
    while chosen.len() < size {
        let index = rng.random_range(0..pool.identities);
        let view = rng.random_range(0..pool.views);
        chosen.push((index, view));
        if rng.random::<f32>() < 0.12 && pool.views > 1 {
            chosen.push((index, (view + 1) % pool.views));
        }
        let partner = match (pool.first + index) % 4 {
            2 if index + 1 < pool.identities => Some(index + 1),
            3 if index > 0 => Some(index - 1),
            _ => None,
        };
        if let Some(partner) = partner.filter(|_| rng.random::<f32>() < 0.6) {
            chosen.push((partner, rng.random_range(0..pool.views)));
        }
    }
    chosen.truncate(size);
    chosen
}

/// Builds the batch of `step`.
///
/// # Errors
/// When candle fails.
pub fn build(
    pool: &Pool,
    arch: &Architecture,
    prep: &Preprocess,
    tokenize: Tokenize<'_>,
    seed: u64,
    step: u64,
    size: usize,
) -> Result<Batch> {
    let mut rng = stream(seed, 0xBA7C_0000, step);
    let chosen = choose(pool, size, &mut rng);
    let [h, w] = pool.size;
    let mut pixels = vec![0f32; size * 3 * h * w];
    let (mut texts, mut spans) = (Vec::with_capacity(size), Vec::with_capacity(size));
    let mut labels = Vec::with_capacity(size);
    for (&(index, view), out) in chosen.iter().zip(pixels.chunks_exact_mut(3 * h * w)) {
        vary(pool.picture(index, view), pool.size, prep, out, &mut rng);
        let person = pool.corpus.person(pool.first + index);
        let tagged = tokenize(&caption(&person, &mut rng));
        texts.push(tagged.ids);
        spans.push(tagged.spans);
        labels.push(attributes::labels(&person));
    }
    Ok(Batch {
        pixels: Tensor::from_vec(pixels, (size, 3, h, w), &Device::Cpu)?,
        tokens: TokenBatch::new(&texts, arch.pad_token_id, None),
        spans,
        identities: chosen.iter().map(|(index, _)| *index as u32).collect(),
        labels,
    })
}

/// Flip, shifted and rescaled window, light and colour, erased rectangle; then (value - mean) / std, channel by channel.
fn vary(bytes: &[u8], [h, w]: [usize; 2], prep: &Preprocess, out: &mut [f32], rng: &mut StdRng) {
    let mut u = |lo: f32, hi: f32| lo + (hi - lo) * rng.random::<f32>();
    let flip = u(0.0, 1.0) < 0.5;
    let (sx, sy) = (u(0.9, 1.1), u(0.9, 1.1));
    let (ox, oy) = (u(-0.06, 0.06) * w as f32, u(-0.05, 0.05) * h as f32);
    let gain: [f32; 3] = {
        let all = u(0.85, 1.15);
        [all * u(0.95, 1.05), all * u(0.95, 1.05), all * u(0.95, 1.05)]
    };
    let lift = u(-12.0, 12.0);
    let erase = u(0.0, 1.0) < 0.35;
    let (eh, ew) = (u(0.05, 0.4) * h as f32, u(0.1, 0.6) * w as f32);
    let (ey, ex) = (u(0.0, 1.0) * (h as f32 - eh), u(0.0, 1.0) * (w as f32 - ew));
    let fill = [u(0.0, 255.0), u(0.0, 255.0), u(0.0, 255.0)];
    let plane = h * w;
    for y in 0..h {
        let fy = ((y as f32 + 0.5 - h as f32 * 0.5) * sy + h as f32 * 0.5 + oy - 0.5).clamp(0.0, h as f32 - 1.001);
        let (y0, ty) = (fy as usize, fy.fract());
        for x in 0..w {
            let column = if flip { w - 1 - x } else { x };
            let fx =
                ((column as f32 + 0.5 - w as f32 * 0.5) * sx + w as f32 * 0.5 + ox - 0.5).clamp(0.0, w as f32 - 1.001);
            let (x0, tx) = (fx as usize, fx.fract());
            let hidden = erase && (y as f32) >= ey && (y as f32) < ey + eh && (x as f32) >= ex && (x as f32) < ex + ew;
            let at = (y0 * w + x0) * 3;
            for c in 0..3 {
                let value = if hidden {
                    fill[c]
                } else {
                    let p = |offset: usize| f32::from(bytes[at + offset + c]);
                    let top = p(0) * (1.0 - tx) + p(3) * tx;
                    let bottom = p(w * 3) * (1.0 - tx) + p(w * 3 + 3) * tx;
                    ((top * (1.0 - ty) + bottom * ty) * gain[c] + lift).clamp(0.0, 255.0)
                };
                out[c * plane + y * w + x] = (value / 255.0 - prep.mean[c]) / prep.std[c];
            }
        }
    }
}

/// Pixels of pictures without variation: `[n, 3, H, W]`.
///
/// # Errors
/// When candle fails.
pub fn plain(pictures: &[&[u8]], [h, w]: [usize; 2], prep: &Preprocess) -> Result<Tensor> {
    let plane = h * w;
    let mut pixels = vec![0f32; pictures.len() * 3 * plane];
    for (bytes, out) in pictures.iter().zip(pixels.chunks_exact_mut(3 * plane)) {
        for (i, rgb) in bytes.chunks_exact(3).enumerate() {
            for c in 0..3 {
                out[c * plane + i] = (f32::from(rgb[c]) / 255.0 - prep.mean[c]) / prep.std[c];
            }
        }
    }
    Tensor::from_vec(pixels, (pictures.len(), 3, h, w), &Device::Cpu)
}
