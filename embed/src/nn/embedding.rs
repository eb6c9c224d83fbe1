//! Embedding look-up whose padding row gets no gradient, as PyTorch's `padding_idx`.
//!
//! Without that rule the row of `[PAD]` drifts during training and the losses leave the reference's after one step.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use super::{contiguous, ours};

/// Rows `ids` of `table` `[rows, width]` -> `[ids, width]`, f32. Rows equal to `padding` give no gradient.
///
/// # Errors
/// An id beyond the table.
pub fn embedding(table: &Tensor, ids: &[u32], padding: Option<u32>) -> Result<Tensor> {
    let rows = table.dim(0)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        bail!("id {id} is beyond the {rows} rows of the embedding");
    }
    if ours(table) {
        return table.contiguous()?.apply_op1(Lookup { ids: ids.to_vec(), padding });
    }
    let index = Tensor::new(ids, table.device())?;
    let Some(padding) = padding.filter(|_| table.track_op()) else { return table.index_select(&index, 0) };
    // A padded position reads the detached table, so that nothing flows back from it.
    let live = index.ne(padding)?.to_dtype(DType::F32)?.unsqueeze(1)?;
    let padded = live.affine(-1.0, 1.0)?;
    let live = table.index_select(&index, 0)?.broadcast_mul(&live)?;
    live + table.detach().index_select(&index, 0)?.broadcast_mul(&padded)?
}

/// The transpose of the look-up: a table `[rows, width]` of zeros to whose row `ids[i]` row i of `values` is added.
///
/// # Errors
/// When `values` is not `[ids, width]` or an id is beyond the table.
pub fn scatter_rows(values: &Tensor, ids: &[u32], rows: usize, skip: Option<u32>) -> Result<Tensor> {
    let (n, width) = values.dims2()?;
    if n != ids.len() || ids.iter().any(|id| *id as usize >= rows) {
        bail!("{} ids do not fit values {:?} and a table of {rows} rows", ids.len(), values.shape());
    }
    let flat = values.flatten_all()?.to_vec1::<f32>()?;
    let mut table = vec![0f32; rows * width];
    for (id, value) in ids.iter().zip(flat.chunks_exact(width)).filter(|(id, _)| Some(**id) != skip) {
        let row = &mut table[*id as usize * width..][..width];
        row.iter_mut().zip(value).for_each(|(t, v)| *t += v);
    }
    Tensor::from_vec(table, (rows, width), values.device())
}

struct Lookup {
    ids: Vec<u32>,
    padding: Option<u32>,
}

impl CustomOp1 for Lookup {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let table = contiguous("embedding", table, layout)?;
        let mut out = Vec::with_capacity(self.ids.len() * width);
        for id in &self.ids {
            out.extend_from_slice(&table[*id as usize * width..][..width]);
        }
        Ok((CpuStorage::F32(out), (self.ids.len(), width).into()))
    }

    fn bwd(&self, table: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        scatter_rows(grad, &self.ids, table.dim(0)?, self.padding).map(Some)
    }
}
