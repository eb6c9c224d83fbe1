//! Drops and restores the padding of a batch of texts.
//!
//! A batch is padded to its longest text, so that nearly half of its rows are padding. Layers that
//! work row by row get only the real rows.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{contiguous, with_values};

/// Concatenates the first `lengths[i]` rows of every item of `x` `[batch, tokens, width]` to `[sum
/// of lengths, width]`. CPU only, f32.
///
/// # Errors
/// Lengths that do not fit the batch.
pub fn drop_padding(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    check(batch, tokens, lengths)?;
    x.contiguous()?.apply_op1(MoveRows { lengths: lengths.into(), tokens, width, into: RowLayout::WithoutPadding })
}

/// The inverse of [`drop_padding`], with zeros in rows of padding: `[sum of lengths, width]` ->
/// `[batch, tokens, width]`. CPU only, f32.
///
/// # Errors
/// Lengths that do not fit the rows.
pub fn restore_padding(x: &Tensor, lengths: &[usize], tokens: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    check(lengths.len(), tokens, lengths)?;
    if lengths.iter().sum::<usize>() != rows {
        bail!("{rows} rows are not those of texts of {lengths:?}");
    }
    x.contiguous()?.apply_op1(MoveRows { lengths: lengths.into(), tokens, width, into: RowLayout::WithPadding })
}

fn check(batch: usize, tokens: usize, lengths: &[usize]) -> Result<()> {
    if lengths.len() != batch || lengths.iter().any(|l| *l > tokens) {
        bail!("{batch} texts of at most {tokens} tokens cannot have the lengths {lengths:?}");
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum RowLayout {
    WithoutPadding,
    WithPadding,
}

struct MoveRows {
    lengths: Arc<[usize]>,
    tokens: usize,
    width: usize,
    into: RowLayout,
}

impl MoveRows {
    fn without_padding(&self, x: &[f32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.lengths.iter().sum::<usize>() * self.width);
        for (item, length) in x.chunks_exact(self.tokens * self.width).zip(self.lengths.iter()) {
            out.extend_from_slice(&item[..length * self.width]);
        }
        out
    }

    fn with_padding(&self, x: &[f32]) -> Vec<f32> {
        let (mut out, mut from) = (Vec::with_capacity(self.lengths.len() * self.tokens * self.width), 0);
        for (i, length) in self.lengths.iter().enumerate() {
            out.extend_from_slice(&x[from..from + length * self.width]);
            out.resize((i + 1) * self.tokens * self.width, 0.0);
            from += length * self.width;
        }
        out
    }

    fn shape(&self, layout: RowLayout) -> Shape {
        match layout {
            RowLayout::WithoutPadding => (self.lengths.iter().sum::<usize>(), self.width).into(),
            RowLayout::WithPadding => (self.lengths.len(), self.tokens, self.width).into(),
        }
    }
}

impl CustomOp1 for MoveRows {
    fn name(&self) -> &'static str {
        "drop_padding"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous("drop_padding", x, layout)?;
        let out = if self.into == RowLayout::WithoutPadding { self.without_padding(x) } else { self.with_padding(x) };
        Ok((CpuStorage::F32(out), self.shape(self.into)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = |g: &[f32]| {
            if self.into == RowLayout::WithoutPadding { self.with_padding(g) } else { self.without_padding(g) }
        };
        let values = with_values(&grad.contiguous()?, back)?;
        Tensor::from_vec(values, x.shape(), x.device()).map(Some)
    }
}
