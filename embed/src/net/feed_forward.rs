//! Feed-forward sublayer: `x + W2 gelu(W1 norm(x))`, or `norm(x + W2 gelu(W1 x))`.

use rayon::prelude::*;

use super::chunks::{Intermediate, rows_per_chunk, saved_buffer, saved_pieces};
use super::dense::{Dense, Norm};
use super::rows::Rows;
use super::{NormPlace, ShapeError};
use crate::kernel::{Buffer, Epilogue, gelu_into};

/// Two linear layers with GELU between them, residual and norm.
#[derive(Debug)]
pub struct FeedForward {
    /// Position of the norm.
    pub place: NormPlace,
    /// Layer norm.
    pub norm: Norm,
    /// Linear layer to the hidden width.
    pub first: Dense,
    /// Linear layer back to the width of the rows.
    pub second: Dense,
}

/// Rows per thread below which a product of few rows is split over the threads by its columns: each
/// thread then reads a part of the weights instead of all of them.
const WIDE_BELOW: usize = 128;

/// Intermediates of a feed-forward sublayer that the backward pass reads.
#[derive(Debug, Default)]
pub struct FeedForwardSaved {
    /// Hidden values before GELU.
    pub hidden: Buffer,
    /// Input of the norm in [`NormPlace::After`]; else empty.
    pub sum: Buffer,
}

impl FeedForward {
    pub(super) fn check(&self, width: usize) -> Result<(), ShapeError> {
        let (first, second) = (&self.first, &self.second);
        if first.inputs() != width || second.outputs() != width || first.outputs() != second.inputs() {
            return Err(ShapeError(format!(
                "a feed-forward layer {} -> {}, {} -> {} was given rows of {width}",
                first.inputs(),
                first.outputs(),
                second.inputs(),
                second.outputs()
            )));
        }
        self.norm.check(width)
    }

    /// `x`, of rows laid out as `at` -> the same shape; with `save` also the intermediates that the
    /// backward pass reads.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn forward(&self, at: &Rows, x: &[f32], save: bool) -> Result<(Buffer, Option<FeedForwardSaved>), ShapeError> {
        self.check(at.width)?;
        let (d, hidden) = (at.width, self.first.outputs());
        let after = self.place == NormPlace::After;
        let threads = rayon::current_num_threads();
        // Few rows: every product is split over the threads by columns. Many rows: each thread
        // takes its rows through the whole sublayer.
        let wide = at.count() < WIDE_BELOW * threads;
        let rows = if wide { at.count().max(1) } else { rows_per_chunk(at.count(), threads) };
        let sizes: Vec<usize> = (0..at.count()).step_by(rows).map(|from| rows.min(at.count() - from)).collect();
        let times = |width: usize| sizes.iter().map(|rows| rows * width).collect::<Vec<_>>();
        let mut y = Buffer::take(at.numbers());
        let mut saved_hidden = saved_buffer(at.count() * hidden, save);
        let mut saved_sum = saved_buffer(if after { at.numbers() } else { 0 }, save);
        let parts = (
            x.par_chunks((rows * d).max(1)),
            y.par_chunks_mut((rows * d).max(1)),
            saved_pieces(&mut saved_hidden, &times(hidden)),
            saved_pieces(&mut saved_sum, &times(d)),
        );
        parts.into_par_iter().with_max_len(1).try_for_each(|(x, y, u, sum)| {
            let threads = usize::from(!wide);
            let mut h = Buffer::take(x.len() / d.max(1) * hidden);
            let mut normed = Buffer::take(if after { 0 } else { x.len() });
            let input = if after {
                x
            } else {
                self.norm.run(x, &mut normed, wide);
                &normed
            };
            match u {
                Some(u) => {
                    self.first.apply(input, u, self.first.bias(), threads)?;
                    gelu_into(u, &mut h);
                }
                None => self.first.apply(input, &mut h, Epilogue { gelu: true, ..self.first.bias() }, threads)?,
            }
            if after {
                let mut sum = Intermediate::new(sum, x.len());
                self.second.apply(&h, &mut sum, self.second.bias_plus(x)?, threads)?;
                self.norm.run(&sum, y, wide);
                Ok(())
            } else {
                self.second.apply(&h, y, self.second.bias_plus(x)?, threads)
            }
        })?;
        let saved = saved_hidden.zip(saved_sum).map(|(hidden, sum)| FeedForwardSaved { hidden, sum });
        Ok((y, saved))
    }
}
