//! Linear layers inside a stack: weights made ready once a pass, products by one thread on a chunk of rows, and the
//! weights' gradients by all threads.

use candle_core::{Error, Result, Tensor};

use super::super::{Linear, values, with_values};
use crate::kernel::{Engine, Epilogue, Mat, MatMut, PackedWeights, Precision, matmul_on, product};

/// Which product the weights are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// `x Wᵀ + b`
    Forward,
    /// `g W`
    Backward,
}

/// Layers on one input, side by side: one product instead of several.
pub(super) struct Dense {
    form: Form,
    bias: Vec<f32>,
    outputs: usize,
    inputs: usize,
    direction: Direction,
}

enum Form {
    Packed(PackedWeights),
    Plain(Vec<f32>),
}

/// Weight and bias of each layer.
pub(super) fn parameters(layers: &[Linear]) -> impl Iterator<Item = &Tensor> {
    layers.iter().flat_map(|l| [l.weight(), l.bias()])
}

/// Outputs of all layers together, and their inputs.
pub(super) fn dims(layers: &[Linear]) -> Result<(usize, usize)> {
    let mut outputs = 0;
    for layer in layers {
        outputs += layer.weight().dim(0)?;
    }
    Ok((outputs, layers.first().map_or(Ok(0), |l| l.weight().dim(1))?))
}

impl Dense {
    pub(super) fn read(layers: &[Linear], direction: Direction, precision: Precision) -> Result<Self> {
        let (outputs, inputs) = dims(layers)?;
        let exact = Engine::for_precision(precision) == Engine::Exact;
        let make = |weight: &[f32]| -> Result<Form> {
            if exact {
                return Ok(Form::Plain(weight.to_vec()));
            }
            let weight = Mat::new(weight, outputs, inputs).map_err(Error::wrap)?;
            let weight = if direction == Direction::Forward { weight } else { weight.t() };
            Ok(Form::Packed(PackedWeights::new(weight, precision)))
        };
        let form = match layers {
            [one] => with_values(one.weight(), make)??,
            many => {
                let mut all = Vec::with_capacity(outputs * inputs);
                for layer in many {
                    with_values(layer.weight(), |w| all.extend_from_slice(w))?;
                }
                make(&all)?
            }
        };
        let mut bias = Vec::with_capacity(outputs);
        for layer in layers {
            bias.extend(values(layer.bias())?);
        }
        Ok(Self { form, bias, outputs, inputs, direction })
    }

    /// Numbers a row has after the product.
    pub(super) fn out(&self) -> usize {
        if self.direction == Direction::Forward { self.outputs } else { self.inputs }
    }

    /// The bias as an epilogue (forward).
    pub(super) fn bias(&self) -> Epilogue<'_> {
        Epilogue::bias(Some(&self.bias))
    }

    /// `out = epilogue(x Wᵀ)` or `epilogue(x W)` of whole rows, on this thread.
    pub(super) fn apply(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue<'_>) -> Result<()> {
        let n = self.out();
        let k = self.outputs + self.inputs - n;
        let rows = out.len() / n.max(1);
        let x = Mat::new(x, rows, k).map_err(Error::wrap)?;
        let out = MatMut::new(out, rows, n).map_err(Error::wrap)?;
        match &self.form {
            Form::Packed(packed) => packed.forward(x, out, epilogue, 1),
            Form::Plain(weight) => {
                let weight = Mat::new(weight, self.outputs, self.inputs).map_err(Error::wrap)?;
                let weight = if self.direction == Direction::Forward { weight.t() } else { weight };
                matmul_on(Engine::Exact, x, weight, out, epilogue, 1)
            }
        }
        .map_err(Error::wrap)
    }
}

/// Gradients of the weights of `layers`, whose outputs' gradient is `g` and whose input is `x`, with their biases'
/// gradient `bias` cut into parts: weight, bias, weight, bias... Empty ones where all layers are constant.
pub(super) fn gradients(
    layers: &[Linear],
    g: &[f32],
    x: &[f32],
    bias: &[f32],
    precision: Precision,
) -> Result<Vec<Vec<f32>>> {
    if layers.iter().all(|l| !l.weight().track_op() && !l.bias().track_op()) {
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
        let to = from + layer.weight().dim(0)?;
        all.push(whole[from * inputs..to * inputs].to_vec());
        all.push(bias[from..to].to_vec());
        from = to;
    }
    Ok(all)
}
