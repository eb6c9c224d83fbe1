//! Linear layers and norms of a stack: weights packed into the kernel's tiles once per pass, and
//! the gradients of the parameters.

use candle_core::{Error, Result, Tensor};
use rayon::prelude::*;
use sightline_embed::graph::{LayerNorm, Linear};
use sightline_embed::kernel::{Buffer, Epilogue, Mat, Precision, layer_norm_grad, product};
use sightline_embed::net::{Dense, Norm, rows_per_chunk};

use super::{values, with_values};

/// Product that the weights are packed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// `x Wᵀ + b`
    Forward,
    /// `g W`
    Backward,
}

/// Weight and bias of each layer.
pub(super) fn parameters(layers: &[Linear]) -> impl Iterator<Item = &Tensor> {
    layers.iter().flat_map(|l| [&l.weight, &l.bias])
}

/// Number of outputs of all layers together, and of inputs.
fn dims(layers: &[Linear]) -> Result<(usize, usize)> {
    let mut outputs = 0;
    for layer in layers {
        outputs += layer.weight.dim(0)?;
    }
    Ok((outputs, layers.first().map_or(Ok(0), |l| l.weight.dim(1))?))
}

/// Combines several layers on one input into a single layer with concatenated outputs.
pub(super) fn dense(layers: &[Linear], direction: Direction, precision: Precision) -> Result<Dense> {
    let (outputs, inputs) = dims(layers)?;
    let bias = match direction {
        Direction::Forward => layers.iter().map(|l| values(&l.bias)).collect::<Result<Vec<_>>>()?.concat(),
        Direction::Backward => Vec::new(),
    };
    let make = |weight: &[f32]| -> Result<Dense> {
        let weight = Mat::new(weight, outputs, inputs).map_err(Error::wrap)?;
        let weight = if direction == Direction::Forward { weight } else { weight.t() };
        Dense::new(weight, bias, precision).map_err(Error::wrap)
    };
    match layers {
        [one] => with_values(&one.weight, make)?,
        many => {
            let mut all = Vec::with_capacity(outputs * inputs);
            for layer in many {
                with_values(&layer.weight, |w| all.extend_from_slice(w))?;
            }
            make(&all)
        }
    }
}

/// Gradients of `layers` in the order weight, bias, weight, bias and so on. `g` is the gradient of
/// their outputs, `x` their input, and `bias` the gradient of all their biases, which is split.
/// Every gradient is empty if all layers are constant.
pub(super) fn gradients(
    layers: &[Linear],
    g: &[f32],
    x: &[f32],
    bias: &[f32],
    precision: Precision,
) -> Result<Vec<Vec<f32>>> {
    if layers.iter().all(|l| !l.weight.track_op() && !l.bias.track_op()) {
        return Ok(vec![Vec::new(); 2 * layers.len()]);
    }
    let (outputs, inputs) = dims(layers)?;
    let rows = g.len() / outputs.max(1);
    let g = Mat::new(g, rows, outputs).map_err(Error::wrap)?;
    let x = Mat::new(x, rows, inputs).map_err(Error::wrap)?;
    let whole = product(g.t(), x, precision, Epilogue::default(), 0).map_err(Error::wrap)?;
    if let [_] = layers {
        return Ok(vec![whole, bias.to_vec()]);
    }
    let (mut all, mut from) = (Vec::with_capacity(2 * layers.len()), 0);
    for layer in layers {
        let to = from + layer.weight.dim(0)?;
        all.push(whole[from * inputs..to * inputs].to_vec());
        all.push(bias[from..to].to_vec());
        from = to;
    }
    Ok(all)
}

/// Copies the parameters of a norm.
pub(super) fn norm(layer: &LayerNorm) -> Result<Norm> {
    Ok(Norm { weight: values(&layer.weight)?, bias: values(&layer.bias)?, eps: layer.eps as f32 })
}

/// The gradients of a norm's weight and bias, summed row by row.
pub(super) struct NormSums {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl NormSums {
    pub(super) fn zeros(norm: &Norm) -> Self {
        Self { weight: vec![0.0; norm.weight.len()], bias: vec![0.0; norm.weight.len()] }
    }

    /// Writes the gradient `dx` of whole rows and adds to the sums.
    pub(super) fn backward(&mut self, norm: &Norm, x: &[f32], g: &[f32], dx: &mut [f32]) {
        layer_norm_grad(x, &norm.weight, g, norm.eps, dx, &mut self.weight, &mut self.bias);
    }
}

/// Backward pass of a single norm, on all threads. Returns the gradient of its input, and those of
/// its weight and bias.
pub(super) fn norm_backward(norm: &Norm, x: &[f32], g: &[f32]) -> (Buffer, Vec<Vec<f32>>) {
    let mut dx = Buffer::take(x.len());
    let d = norm.weight.len().max(1);
    let grain = rows_per_chunk(x.len() / d, rayon::current_num_threads()) * d;
    let parts = (dx.par_chunks_mut(grain), x.par_chunks(grain), g.par_chunks(grain)).into_par_iter();
    let sums = parts.map(|(dx, x, g)| {
        let mut sums = NormSums::zeros(norm);
        sums.backward(norm, x, g, dx);
        vec![sums.weight, sums.bias]
    });
    let sums = total(sums.collect());
    (dx, sums)
}

/// Sums over rows, one vector per parameter.
pub(super) type Sums = Vec<Vec<f32>>;

/// Adds the sums of all chunks in the order of the rows, so that the result does not depend on
/// which thread was faster.
pub(super) fn total(parts: Vec<Sums>) -> Sums {
    let mut parts = parts.into_iter();
    let mut all = parts.next().unwrap_or_default();
    for part in parts {
        for (sum, part) in all.iter_mut().zip(part) {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }
    all
}
