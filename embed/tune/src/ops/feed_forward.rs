//! The feed-forward sublayer's tensors, and its backward pass.

use candle_core::{Error, Result, Tensor};
use rayon::prelude::*;
use sightline_embed::graph::{LayerNorm, Linear};
use sightline_embed::kernel::{Add, Buffer, Epilogue, Mat, Precision, add_assign, column_sums, gelu_grad};
use sightline_embed::net::{FeedForward, FeedForwardSaved, NormPlace, Rows, rows_per_chunk};

use super::dense::{Direction, NormSums, Sums, dense, gradients, norm, parameters, total};
use super::stack::Gradients;

/// Two linear layers with GELU between them, residual and norm.
#[derive(Clone, Debug)]
pub struct FeedForwardTensors {
    /// Pre-norm (ViT) or post-norm (BERT).
    pub place: NormPlace,
    /// Layer norm of `width`.
    pub norm: LayerNorm,
    /// Layer from the width to the hidden width.
    pub first: Linear,
    /// Layer from the hidden width to the width.
    pub second: Linear,
}

/// An epilogue that adds the residual `x`, rows of `width` numbers.
pub(super) fn residual(x: &[f32], width: usize) -> Result<Epilogue<'_>> {
    let x = Mat::new(x, x.len() / width.max(1), width).map_err(Error::wrap)?;
    Ok(Epilogue { add: Add::Matrix(x), ..Epilogue::default() })
}

impl FeedForwardTensors {
    pub(super) fn parameters(&self) -> Vec<&Tensor> {
        let linear = [&self.first, &self.second].into_iter().flat_map(|l| parameters(std::slice::from_ref(l)));
        [&self.norm.weight, &self.norm.bias].into_iter().chain(linear).collect()
    }

    pub(super) fn prepacked(&self, precision: Precision) -> Result<FeedForward> {
        let forward = |layer| dense(std::slice::from_ref(layer), Direction::Forward, precision);
        Ok(FeedForward {
            place: self.place,
            norm: norm(&self.norm)?,
            first: forward(&self.first)?,
            second: forward(&self.second)?,
        })
    }

    pub(super) fn backward(
        &self,
        at: &Rows,
        (x, saved): (&[f32], &FeedForwardSaved),
        g: &[f32],
        precision: Precision,
    ) -> Result<Gradients> {
        let (u, sum) = (&saved.hidden, &saved.sum);
        let norm = norm(&self.norm)?;
        let backward = |layer| dense(std::slice::from_ref(layer), Direction::Backward, precision);
        let (first, second) = (backward(&self.first)?, backward(&self.second)?);
        let (d, hidden) = (at.width, self.first.weight.dim(0)?);
        let rows = rows_per_chunk(at.count(), rayon::current_num_threads());
        let (wide, tall) = (rows * d, rows * hidden);
        let (mut dx, mut du, mut h) = (Buffer::take(at.numbers()), Buffer::take(u.len()), Buffer::take(u.len()));
        // Post-norm: the gradient of the sum. Pre-norm: the normalised input, computed again.
        let mut between = Buffer::take(at.numbers());
        let parts = (
            (x.par_chunks(wide), g.par_chunks(wide), u.par_chunks(tall)),
            (dx.par_chunks_mut(wide), du.par_chunks_mut(tall), h.par_chunks_mut(tall), between.par_chunks_mut(wide)),
        );
        let chunks = (parts.0.into_par_iter(), parts.1.into_par_iter()).into_par_iter().with_max_len(1).enumerate();
        let sums = chunks.map(|(i, ((x, g, u), (dx, du, h, between)))| -> Result<Sums> {
            let mut norm_sums = NormSums::zeros(&norm);
            let last_bias = match self.place {
                NormPlace::Before => {
                    second.apply(g, du, Epilogue::default(), 1).map_err(Error::wrap)?;
                    gelu_grad(u, du, h);
                    norm.forward(x, between);
                    let mut inner = Buffer::take(x.len());
                    first.apply(du, &mut inner, Epilogue::default(), 1).map_err(Error::wrap)?;
                    norm_sums.backward(&norm, x, &inner, dx);
                    add_assign(dx, g);
                    column_sums(g, d)
                }
                NormPlace::After => {
                    norm_sums.backward(&norm, &sum[i * wide..][..x.len()], g, between);
                    second.apply(between, du, Epilogue::default(), 1).map_err(Error::wrap)?;
                    gelu_grad(u, du, h);
                    first.apply(du, dx, residual(between, d)?, 1).map_err(Error::wrap)?;
                    column_sums(between, d)
                }
            };
            Ok(vec![norm_sums.weight, norm_sums.bias, column_sums(du, hidden), last_bias])
        });
        let mut all = total(sums.collect::<Result<_>>()?);
        let biases = all.split_off(2);
        let (input, outer) = if self.place == NormPlace::Before { (&between[..], g) } else { (x, &between[..]) };
        all.extend(gradients(std::slice::from_ref(&self.first), &du, input, &biases[0], precision)?);
        all.extend(gradients(std::slice::from_ref(&self.second), outer, &h, &biases[1], precision)?);
        Ok(Gradients { input: dx, parameters: all })
    }
}
