//! Inputs of both encoders: patches cut out of pixels, and positions added to patches and words.
//!
//! candle's permutation walks pixels one by one and its broadcast sum has a gradient that sums over
//! a strided view; here each is one pass over memory.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::grads::{pass_gradient, pass_sparse_gradient};
use super::{contiguous, with_values};

/// Cuts pixels `[batch, channels, height, width]` into patches `[batch, patches, channels * side *
/// side]`, row by row. f32 on the CPU, like everything in this file; pixels get no gradient.
///
/// # Errors
/// A height or width that is not a multiple of `side`, or pixels that track a gradient.
pub fn patches(pixels: &Tensor, side: usize) -> Result<Tensor> {
    let (_, _, height, width) = pixels.dims4()?;
    if side == 0 || height % side != 0 || width % side != 0 {
        bail!("patches of {side} do not cover {height} x {width} pixels");
    }
    if pixels.track_op() {
        bail!("patches give pixels no gradient");
    }
    pixels.contiguous()?.apply_op1(PatchesOp { side })
}

struct PatchesOp {
    side: usize,
}

impl CustomOp1 for PatchesOp {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn cpu_fwd(&self, pixels: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let (side, picture) = (self.side, channels * height * width);
        let pixels = contiguous("patches", pixels, layout)?;
        let (cols, patch) = (width / side, channels * side * side);
        let mut out = vec![0f32; pixels.len()];
        out.par_chunks_mut(picture.max(1)).zip(pixels.par_chunks(picture.max(1))).for_each(|(out, pixels)| {
            for (line, pixels) in pixels.chunks_exact(width).enumerate() {
                let (channel, y) = (line / height, line % height);
                let first = y / side * cols * patch + channel * side * side + y % side * side;
                for (col, run) in pixels.chunks_exact(side).enumerate() {
                    out[first + col * patch..][..side].copy_from_slice(run);
                }
            }
        });
        Ok((CpuStorage::F32(out), (batch, height / side * cols, patch).into()))
    }
}

/// Puts the class token `[1, 1, width]` before `patches` `[batch, patches, width]` and adds
/// `positions` `[1, 1 + patches, width]`: returns `[batch, 1 + patches, width]`, f32.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn class_and_positions(patches: &Tensor, class: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let (_, n, width) = patches.dims3()?;
    if class.elem_count() != width || positions.elem_count() != (n + 1) * width {
        bail!("class {:?} and positions {:?} for {:?}", class.shape(), positions.shape(), patches.shape());
    }
    patches.contiguous()?.apply_op3(&class.contiguous()?, &positions.contiguous()?, ClassAndPositionsOp)
}

struct ClassAndPositionsOp;

fn add(to: &mut [f32], other: &[f32]) {
    to.iter_mut().zip(other).for_each(|(a, b)| *a += b);
}

impl CustomOp3 for ClassAndPositionsOp {
    fn name(&self) -> &'static str {
        "class-and-positions"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        class: &CpuStorage,
        lc: &Layout,
        positions: &CpuStorage,
        lp: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, n, width) = lx.shape().dims3()?;
        let name = "class-and-positions";
        let (x, class, positions) =
            (contiguous(name, x, lx)?, contiguous(name, class, lc)?, contiguous(name, positions, lp)?);
        let mut out = Vec::with_capacity(batch * (n + 1) * width);
        for item in x.chunks_exact(n * width) {
            out.extend(class.iter().chain(item).zip(positions).map(|(x, position)| x + position));
        }
        Ok((CpuStorage::F32(out), (batch, n + 1, width).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        class: &Tensor,
        positions: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, n, width) = x.dims3()?;
        let (dx, sum) = with_values(&grad.contiguous()?, |grad| {
            let (mut dx, mut sum) = (Vec::with_capacity(x.elem_count()), vec![0f32; (n + 1) * width]);
            for item in grad.chunks_exact((n + 1) * width) {
                dx.extend_from_slice(&item[width..]);
                add(&mut sum, item);
            }
            (dx, sum)
        })?;
        Ok((pass_gradient(x, dx)?, pass_gradient(class, sum[..width].to_vec())?, pass_gradient(positions, sum)?))
    }
}

/// Word embeddings of `ids` (`batch` texts of `n` tokens each) plus the embeddings of their
/// positions: `[batch, n, width]`. The row `padding` of `table` gets no gradient from this op.
///
/// # Errors
/// An id beyond the table, more tokens than positions.
pub fn text_input(table: &Tensor, positions: &Tensor, ids: &[u32], n: usize, padding: u32) -> Result<Tensor> {
    let (rows, _) = table.dims2()?;
    if n == 0 || n > positions.dim(0)? || !ids.len().is_multiple_of(n) {
        bail!("{} ids in texts of {n} tokens, but only {} positions", ids.len(), positions.dim(0)?);
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        bail!("id {id} is beyond the {rows} rows of the embedding");
    }
    let op = TextInputOp { ids: ids.to_vec(), n, padding };
    table.contiguous()?.apply_op2(&positions.contiguous()?, op)
}

struct TextInputOp {
    ids: Vec<u32>,
    n: usize,
    padding: u32,
}

impl CustomOp2 for TextInputOp {
    fn name(&self) -> &'static str {
        "text-input"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        lt: &Layout,
        positions: &CpuStorage,
        lp: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = lt.shape().dims2()?;
        let (table, positions) = (contiguous("text-input", table, lt)?, contiguous("text-input", positions, lp)?);
        let mut out = Vec::with_capacity(self.ids.len() * width);
        for (i, id) in self.ids.iter().enumerate() {
            let (word, position) = (&table[*id as usize * width..][..width], &positions[i % self.n * width..][..width]);
            out.extend(word.iter().zip(position).map(|(a, b)| a + b));
        }
        Ok((CpuStorage::F32(out), (self.ids.len() / self.n, self.n, width).into()))
    }

    fn bwd(
        &self,
        table: &Tensor,
        positions: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = table.dim(1)?;
        let grad = grad.contiguous()?;
        let words = with_values(&grad, |grad| {
            pass_sparse_gradient(table, |sum| {
                for (id, row) in self.ids.iter().zip(grad.chunks_exact(width)).filter(|(id, _)| **id != self.padding) {
                    add(&mut sum[*id as usize * width..][..width], row);
                }
            })
        })??;
        let positions = with_values(&grad, |grad| {
            pass_sparse_gradient(positions, |sum| grad.chunks_exact(self.n * width).for_each(|text| add(sum, text)))
        })??;
        Ok((words, positions))
    }
}
