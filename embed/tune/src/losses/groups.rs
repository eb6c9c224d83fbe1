//! Means over groups of neighbouring tokens, for the local half of ATP (the paper's Table V).

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// Groups of neighbouring tokens. The first group starts at token 1; groups follow each other at
/// `stride` until one reaches the last token (the paper's table V).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Number of tokens in a group.
    pub size: usize,
    /// Tokens from the start of one group to the start of the next; below `size`, groups overlap.
    pub stride: usize,
    /// Leaves padding out of the means, and groups of nothing but padding out of the loss. The
    /// reference does neither.
    pub masked: bool,
}

impl Groups {
    /// Groups of `size` tokens that follow each other without overlap.
    pub fn of(size: usize, masked: bool) -> Self {
        Self { size, stride: size, masked }
    }

    /// Number of groups that cover `tokens` tokens, including `[CLS]`.
    fn count(&self, tokens: usize) -> usize {
        match tokens.saturating_sub(1) {
            0 => 0,
            n => 1 + n.saturating_sub(self.size).div_ceil(self.stride.max(1)),
        }
    }

    /// Means of the groups of `fused` `[rows, tokens, width]`, f32, whose texts have `lengths`
    /// tokens without padding: `[groups, width]`, f32, and the row of each group.
    ///
    /// # Errors
    /// When candle fails.
    pub fn means(&self, fused: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>)> {
        let (rows, tokens, width) = fused.dims3()?;
        let groups = self.count(tokens);
        let mut weights = vec![0f32; rows * groups * tokens];
        let mut kept = Vec::new();
        let mut owner = Vec::new();
        for (row, length) in lengths.iter().enumerate().take(rows) {
            let end = if self.masked { tokens.min(*length) } else { tokens };
            for group in 0..self.count(end) {
                let from = 1 + group * self.stride;
                let to = (from + self.size).min(end);
                let at = (row * groups + group) * tokens;
                weights[at + from..at + to].fill(1.0 / (to - from) as f32);
                kept.push((row * groups + group) as u32);
                owner.push(row);
            }
        }
        let weights = Tensor::from_vec(weights, (rows, groups, tokens), fused.device())?;
        let all = weights.matmul(fused)?.reshape((rows * groups, width))?;
        let kept = Tensor::new(kept, fused.device())?;
        Ok((all.index_select(&kept, 0)?, owner))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every token after the first is in a group, groups lie within the text, and without
        /// overlap each mean of the positions is the middle of its group.
        #[test]
        fn groups_cover_a_text(length in 2usize..40, size in 1usize..40, less in 0usize..40) {
            let stride = size.saturating_sub(less).max(1);
            let places = Tensor::arange(0f32, length as f32, &Device::Cpu).and_then(|t| t.reshape((1, length, 1)));
            let groups = Groups { size, stride, masked: true };
            let (means, owner) = groups.means(&places.expect("a tensor"), &[length]).expect("means");
            let means = means.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
            prop_assert_eq!(means.len(), owner.len());
            let mut covered = 0;
            for (group, mean) in means.iter().enumerate() {
                let from = 1 + group * stride;
                let to = (from + size).min(length);
                prop_assert!(from <= covered + 1 && to > covered);
                prop_assert!((mean - (from + to - 1) as f32 / 2.0).abs() < 1e-3);
                covered = to - 1;
            }
            prop_assert_eq!(covered, length - 1);
        }
    }
}
