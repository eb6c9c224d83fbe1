//! Linear layers and norms with their weights in the form that the kernels read.

use rayon::prelude::*;

use super::ShapeError;
use crate::kernel::{Add, Buffer, Epilogue, Mat, MatMut, PackedWeights, Precision, layer_norm};

/// `y = x Wᵀ + b`, the weights packed once.
#[derive(Debug)]
pub struct Dense {
    weights: PackedWeights,
    bias: Vec<f32>,
}

impl Dense {
    /// Packs `weight` (outputs x inputs). A bias of no numbers is none.
    ///
    /// # Errors
    /// A bias of another length than the weight has rows.
    pub fn new(weight: Mat<'_>, bias: Vec<f32>, precision: Precision) -> Result<Self, ShapeError> {
        if !bias.is_empty() && bias.len() != weight.rows() {
            return Err(ShapeError(format!("a bias of {} numbers for {} outputs", bias.len(), weight.rows())));
        }
        Ok(Self { weights: PackedWeights::new(weight, precision), bias })
    }

    /// Numbers a row has after the layer.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.weights.outputs()
    }

    /// Numbers a row has before it.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.weights.inputs()
    }

    /// The bias as an epilogue of [`Dense::apply`].
    #[must_use]
    pub fn bias(&self) -> Epilogue<'_> {
        Epilogue::bias((!self.bias.is_empty()).then_some(&self.bias[..]))
    }

    /// The bias, then the sum with `x`, rows of the output's width: a residual.
    ///
    /// # Errors
    /// When `x` is no whole rows.
    pub fn bias_plus<'a>(&'a self, x: &'a [f32]) -> Result<Epilogue<'a>, ShapeError> {
        let rows = x.len() / self.outputs().max(1);
        Ok(Epilogue { add: Add::Matrix(Mat::new(x, rows, self.outputs())?), ..self.bias() })
    }

    /// `out = epilogue(x Wᵀ)` of whole rows; `threads` as in [`crate::kernel::matmul`].
    ///
    /// # Errors
    /// When the slices are not as many whole rows of this layer.
    pub fn apply(&self, x: &[f32], out: &mut [f32], epilogue: Epilogue<'_>, threads: usize) -> Result<(), ShapeError> {
        let rows = out.len() / self.outputs().max(1);
        let x = Mat::new(x, rows, self.inputs())?;
        let out = MatMut::new(out, rows, self.outputs())?;
        Ok(self.weights.forward(x, out, epilogue, threads)?)
    }

    /// `x Wᵀ + b` of whole rows, on all threads.
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
    /// Floor of the variance.
    pub eps: f32,
}

impl Norm {
    /// Rows one task of [`Norm::forward_all`] handles.
    const ROWS: usize = 32;

    /// `y = norm(x)` of whole rows, on this thread.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        layer_norm(x, &self.weight, &self.bias, self.eps, y);
    }

    /// The same on all threads.
    pub fn forward_all(&self, x: &[f32], y: &mut [f32]) {
        let grain = Self::ROWS * self.weight.len().max(1);
        y.par_chunks_mut(grain).zip(x.par_chunks(grain)).for_each(|(y, x)| self.forward(x, y));
    }

    /// [`Norm::forward`] or [`Norm::forward_all`].
    pub(super) fn run(&self, x: &[f32], y: &mut [f32], parallel: bool) {
        if parallel { self.forward_all(x, y) } else { self.forward(x, y) }
    }

    /// That rows are of this norm's width.
    pub(super) fn check(&self, width: usize) -> Result<(), ShapeError> {
        match self.weight.len() {
            own if own == width && self.bias.len() == own => Ok(()),
            own => Err(ShapeError(format!("a norm of width {own} was given rows of {width}"))),
        }
    }
}
