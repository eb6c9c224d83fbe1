//! Resizes position embeddings to another patch grid (specification, section 3).

use candle_core::{Result, Tensor, bail};
use sightline_embed::model::Grid;

/// Resizes `pos_embed` `[1, 1 + from.len(), width]` to `[1, 1 + to.len(), width]`, f32. The class
/// token stays unchanged; the patch positions are resized bicubically (a = -0.75) with
/// `align_corners = false` and without antialiasing, as in the reference, but to any rectangle.
///
/// # Errors
/// A `pos_embed` whose shape is not that of the grid `from`, or an empty grid `to`.
pub fn resize_pos_embed(pos_embed: &Tensor, from: Grid, to: Grid) -> Result<Tensor> {
    let (one, rows, width) = pos_embed.dims3()?;
    if one != 1 || rows != from.len() + 1 || to.is_empty() {
        bail!("position embedding {:?} is not of the grid {}x{}", pos_embed.shape(), from.rows, from.cols);
    }
    if from == to {
        return Ok(pos_embed.clone());
    }
    let all = pos_embed.flatten_all()?.to_vec1::<f32>()?;
    let (cls, patches) = all.split_at(width);
    let (ys, xs) = (taps(from.rows, to.rows), taps(from.cols, to.cols));
    let mut out = cls.to_vec();
    for y in &ys {
        for x in &xs {
            for c in 0..width {
                let row = |j: usize| -> f32 {
                    x.iter().map(|(i, w)| w * patches[(j * from.cols + i) * width + c]).sum::<f32>()
                };
                out.push(y.iter().map(|(j, w)| w * row(*j)).sum());
            }
        }
    }
    Tensor::from_vec(out, (1, to.len() + 1, width), pos_embed.device())
}

/// Four source positions (clamped to the edge) and their weights for every target position.
fn taps(from: usize, to: usize) -> Vec<[(usize, f32); 4]> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            let at = (i as f32 + 0.5) * scale - 0.5;
            let (floor, t) = (at.floor(), at - at.floor());
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            let place = |k: usize| (floor as i64 + k as i64 - 1).clamp(0, from as i64 - 1) as usize;
            [0, 1, 2, 3].map(|k| (place(k), weights[k]))
        })
        .collect()
}

/// Keys' cubic convolution kernel with a = -0.75 (PyTorch's), for distances up to 1.
fn near(t: f32) -> f32 {
    const A: f32 = -0.75;
    ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0
}

/// The same kernel for distances from 1 to 2.
fn far(t: f32) -> f32 {
    const A: f32 = -0.75;
    ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A
}
