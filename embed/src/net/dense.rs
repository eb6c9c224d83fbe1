//! Linear layers and norms with their weights in the form that the kernels read.

use rayon::prelude::*;

use super::ShapeError;
use crate::kernel::{Add, Buffer, Epilogue, Mat, MatMut, PackedWeights, Precision, layer_norm};

/// Linear layer `y = x Wᵀ + b`; its weights are packed once.
#[derive(Debug)]
pub struct Dense {
    weights: PackedWeights,
    bias: Vec<f32>,
}

impl Dense {
    /// Packs `weight` `[outputs, inputs]`. An empty `bias` means none.
    ///
    /// # Errors
    /// A bias of another length than the weight has rows.
    pub fn new(weight: Mat<'_>, bias: Vec<f32>, precision: Precision) -> Result<Self, ShapeError> {
        if !bias.is_empty() && bias.len() != weight.rows() {
            return Err(ShapeError(format!("a bias of {} numbers for {} outputs", bias.len(), weight.rows())));
        }
        Ok(Self { weights: PackedWeights::new(weight, precision), bias })
    }

    /// Numbers per output row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.weights.outputs()
    }

    /// Numbers per input row.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.weights.inputs()
    }

    /// The bias as an epilogue of [`Dense::apply`].
    #[must_use]
    pub fn bias(&self) -> Epilogue<'_> {
        Epilogue::bias((!self.bias.is_empty()).then_some(&self.bias[..]))
    }

    /// An epilogue that adds the bias and then `x`, a residual with rows of the output's width.
    ///
    /// # Errors
    /// When `x` does not consist of whole rows.
    pub fn bias_plus<'a>(&'a self, x: &'a [f32]) -> Result<Epilogue<'a>, ShapeError> {
        let rows = x.len() / self.outputs().max(1);
        Ok(Epilogue { add: Add::Matrix(Mat::new(x, rows, self.outputs())?), ..self.bias() })
    }

    /// `out = epilogue(x Wᵀ)` for whole rows; `threads` as in [`crate::kernel::matmul`].
    ///
    /// # Errors
    /// When `x` and `out` are not the same number of whole rows.
    pub fn apply(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue<'_>, threads: usize) -> Result<(), ShapeError> {
        let rows = out.len() / self.outputs().max(1);
        let x = Mat::new(x, rows, self.inputs())?;
        let out = MatMut::new(out, rows, self.outputs())?;
        Ok(self.weights.forward(x, out, epilogue, threads)?)
    }

    /// `x Wᵀ + b` for whole rows, on all threads.
    ///
    /// # Errors
    /// As [`Dense::apply`].
    pub fn forward(&self, x: &[f32]) -> Result<Buffer, ShapeError> {
        let mut out = Buffer::take(x.len() / self.inputs().max(1) * self.outputs());
        self.apply(x, &mut out, self.bias(), 0)?;
        Ok(out)
    }
}

/// Layer norm over rows.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Factor of every column.
    pub weight: Vec<f32>,
    /// Summand of every column.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    /// Rows per task of [`Norm::forward_all`].
    const ROWS: usize = 32;

    /// `y = norm(x)` for whole rows, on the calling thread.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        layer_norm(x, &self.weight, &self.bias, self.eps, y);
    }

    /// [`Norm::forward`] on all threads.
    pub fn forward_all(&self, x: &[f32], y: &mut [f32]) {
        let grain = Self::ROWS * self.weight.len().max(1);
        y.par_chunks_mut(grain).zip(x.par_chunks(grain)).for_each(|(y, x)| self.forward(x, y));
    }

    /// [`Norm::forward_all`] if `parallel`, else [`Norm::forward`].
    pub(super) fn run(&self, x: &[f32], y: &mut [f32], parallel: bool) {
        if parallel { self.forward_all(x, y) } else { self.forward(x, y) }
    }

    /// Checks that rows have this norm's width.
    pub(super) fn check(&self, width: usize) -> Result<(), ShapeError> {
        match self.weight.len() {
            own if own == width && self.bias.len() == own => Ok(()),
            own => Err(ShapeError(format!("a norm of width {own} was given rows of {width}"))),
        }
    }
}
