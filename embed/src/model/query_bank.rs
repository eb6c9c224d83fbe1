//! Query bank: texts that measure the hubness of a picture, which is its nearness to texts at
//! large.
//!
//! In an embedding space a few pictures lie near nearly every text and appear in answers they do
//! not belong to. NDF trains softmax(cosine / 0.02) over the texts of a batch to find the text of a
//! picture; a search has no batch, and the cosine alone lacks the denominator of the softmax. The
//! bank takes the batch's place, as the inverted softmax (Smith et al., ICLR 2017) and query bank
//! normalisation (Bogolin et al., CVPR 2022) do for other models.

use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Network, TokenBatch};
use crate::EmbedError;
use crate::kernel::{Mat, Precision};
use crate::net::{Dense, ShapeError, save_tensors, to_f32};

/// 1 / 0.02, NDF's temperature: factor on cosines (paper, section 3.2).
pub const LOGIT_SCALE: f64 = 50.0;

/// Name of the only tensor in the file.
const NAME: &str = "text_features";
/// Texts per pass of the network.
const BATCH: usize = 32;

/// Global features of texts, L2-normalised, f32.
#[derive(Debug)]
pub struct QueryBank {
    /// `[texts, embed_dim]`, packed, so that the cosines of a picture are one matrix product.
    features: Dense,
    values: Vec<f32>,
}

impl QueryBank {
    /// Computes the features of `texts` (token ids) with `network`, rounded to f16 as in the file.
    /// The texts should be like real queries, but describe persons who are not searched for.
    /// Returns `None` without a text.
    ///
    /// # Errors
    /// Texts that the network cannot read, or a device error.
    pub fn of(network: &Network, texts: &[Vec<u32>]) -> Result<Option<Self>, EmbedError> {
        if texts.is_empty() {
            return Ok(None);
        }
        let mut sorted: Vec<&Vec<u32>> = texts.iter().collect();
        // Sorted, the file does not depend on the order of `texts`, and the texts of a batch have
        // similar lengths.
        sorted.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
        let mut values = Vec::new();
        for some in sorted.chunks(BATCH) {
            let tokens = TokenBatch::new(some, network.arch().pad_token_id, None);
            values.extend(network.text_features(&tokens)?.into_iter().map(|v| f16::from_f32(v).to_f32()));
        }
        Ok(Some(Self::new(values, network.arch().embed_dim)?))
    }

    /// Packs features `[texts, width]`.
    fn new(values: Vec<f32>, width: usize) -> Result<Self, ShapeError> {
        let features = Dense::new(Mat::new(&values, values.len() / width.max(1), width)?, Vec::new(), Precision::F32)?;
        Ok(Self { features, values })
    }

    /// Reads the bank of a model folder from `path`.
    ///
    /// # Errors
    /// A missing or unreadable file, or features of another width than `dim`.
    pub fn load(path: &Path, dim: usize) -> Result<Self, EmbedError> {
        let bad = |message: String| EmbedError::Unreadable { path: path.to_owned(), format: "a query bank", message };
        let bytes = std::fs::read(path).map_err(EmbedError::io(path))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let features = tensors.tensor(NAME).map_err(|_| bad(format!("it holds no {NAME}")))?;
        match features.shape() {
            [texts, width] if *texts > 0 && *width == dim => {
                let values = to_f32(features.dtype(), features.data());
                if values.len() != texts * width {
                    return Err(bad(format!("{NAME} is of {:?}, not f16 or f32", features.dtype())));
                }
                Ok(Self::new(values, dim)?)
            }
            shape => Err(bad(format!("{NAME} is {shape:?}, not [texts, {dim}]"))),
        }
    }

    /// Writes the features to `path` as f16.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), EmbedError> {
        let bad =
            |e: safetensors::SafeTensorError| EmbedError::Safetensors { path: path.to_owned(), message: e.to_string() };
        let data: Vec<u8> = self.values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let shape = vec![self.len(), self.features.inputs()];
        let view = TensorView::new(Dtype::F16, shape, &data).map_err(bad)?;
        save_tensors(path, [(NAME, view)])
    }

    /// Number of texts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.features.outputs()
    }

    /// Whether the bank has no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hubness of pictures with L2-normalised global features `[n, embed_dim]`: 0.02 log mean
    /// exp(cosine / 0.02) over the bank, in units of the cosine. The value lies between the mean
    /// and the largest cosine of the picture with the texts of the bank.
    ///
    /// # Errors
    /// Features of another width.
    pub fn hubness(&self, features: &[f32]) -> Result<Vec<f32>, EmbedError> {
        let cosines = self.features.forward(features)?;
        let log_mean = |row: &[f32]| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|c| (f64::from(c - top) * LOGIT_SCALE).exp()).sum();
            (f64::from(top) + (sum / row.len() as f64).ln() / LOGIT_SCALE) as f32
        };
        Ok(cosines.chunks_exact(self.len()).map(log_mean).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank() -> QueryBank {
        let rows: Vec<f32> = (0..6u32).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
        QueryBank::new(rows, 2).expect("a bank")
    }

    #[test]
    fn hubness_is_a_soft_maximum_of_the_cosines() {
        let got = bank().hubness(&[1.0, 0.0, 0.0, -1.0]).expect("it fits");
        for (got, picture) in got.iter().zip([[1f64, 0.0], [0.0, -1.0]]) {
            let cosines = (0..6).map(|i| f64::from(i).cos() * picture[0] + f64::from(i).sin() * picture[1]);
            let want = (cosines.map(|c| (50.0 * c).exp()).sum::<f64>() / 6.0).ln() / 50.0;
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} instead of {want}");
        }
        assert!(
            bank().hubness(&[f32::NAN, 0.0]).expect("it fits")[0].is_nan(),
            "NaN in a feature shows in the hubness"
        );
    }

    #[test]
    fn a_bank_survives_its_file_and_a_wrong_one_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("query-bank.safetensors");
        let missing = QueryBank::load(&path, 2).expect_err("absent").to_string();
        assert!(missing.contains("query-bank.safetensors"), "{missing}");
        bank().save(&path).expect("written");
        let read = QueryBank::load(&path, 2).expect("a valid bank");
        let (a, b) = (bank().hubness(&[0.6, 0.8]).expect("fits"), read.hubness(&[0.6, 0.8]).expect("fits"));
        assert!((a[0] - b[0]).abs() < 1e-3 && read.len() == 6 && !read.is_empty());
        let other = QueryBank::load(&path, 3).expect_err("another width").to_string();
        assert!(other.contains("[6, 2]") && other.contains("[texts, 3]"), "{other}");
        std::fs::write(&path, b"nothing").expect("written");
        assert!(QueryBank::load(&path, 2).expect_err("damaged").to_string().contains("a query bank"));
    }
}
