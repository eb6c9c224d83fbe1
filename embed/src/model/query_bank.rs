//! A bank of texts that tells how much a picture is everybody's neighbour (its hubness).
//!
//! In a space of features a few pictures lie near nearly every text and come up in answers they do not belong to. NDF
//! trains softmax(cosine / 0.02) over the texts of a batch to say which of them is a picture's; at a search there is no
//! batch, and the cosine alone leaves out what stands below that fraction. The bank takes the batch's place, as the
//! inverted softmax (Smith et al., ICLR 2017) and query bank normalisation (Bogolin et al., CVPR 2022) do for other models.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor};

use super::{Cada, TokenBatch};
use crate::EmbedError;
use crate::nn::l2_normalize;

/// 1 / 0.02, NDF's temperature: factor on cosines (paper, section 3.2).
pub const LOGIT_SCALE: f64 = 50.0;

/// The only tensor of the file.
const NAME: &str = "text_features";
/// Texts in one pass.
const BATCH: usize = 32;

/// Global features of texts, L2-normalised, f32.
#[derive(Clone, Debug)]
pub struct QueryBank {
    /// One text a column, `[embed_dim, texts]`: as it is multiplied with.
    columns: Tensor,
}

impl QueryBank {
    /// Of `texts` (token ids) as `model` sees them, rounded to f16 as the file holds them. Texts should be such as will be
    /// searched for, of persons that will not. None of no text.
    ///
    /// # Errors
    /// When candle fails.
    pub fn of(model: &Cada, texts: &[Vec<u32>]) -> Result<Option<Self>> {
        if texts.is_empty() {
            return Ok(None);
        }
        let mut sorted: Vec<&Vec<u32>> = texts.iter().collect();
        // By length, so that a batch holds hardly any padding; the sum does not ask for an order.
        sorted.sort();
        sorted.sort_by_key(|ids| ids.len());
        let mut features = Vec::new();
        for some in sorted.chunks(BATCH) {
            let tokens = TokenBatch::new(some, model.arch().pad_token_id, None);
            let feature = l2_normalize(&model.text_proj(&model.text_embeds(&tokens, None)?)?)?.detach();
            features.push(feature.to_dtype(DType::F16)?.to_dtype(DType::F32)?);
        }
        Self::new(&Tensor::cat(&features, 0)?).map(Some)
    }

    /// Of features `[texts, embed_dim]`.
    fn new(features: &Tensor) -> Result<Self> {
        Ok(Self { columns: features.t()?.contiguous()? })
    }

    /// Reads a model folder's bank.
    ///
    /// # Errors
    /// A missing or unreadable file, or features of another width than `dim`.
    pub fn load(path: &Path, dim: usize, device: &Device) -> std::result::Result<Self, EmbedError> {
        let bad = |message: String| EmbedError::Unreadable { path: path.to_owned(), format: "a query bank", message };
        std::fs::metadata(path).map_err(EmbedError::io(path))?;
        let tensors = candle_core::safetensors::load(path, device).map_err(|e| bad(e.to_string()))?;
        let features = tensors.get(NAME).ok_or_else(|| bad(format!("it holds no {NAME}")))?.to_dtype(DType::F32)?;
        match features.dims() {
            [texts, width] if *texts > 0 && *width == dim => Ok(Self::new(&features)?),
            dims => Err(bad(format!("{NAME} is {dims:?}, not [texts, {dim}]"))),
        }
    }

    /// Writes it to `path`, f16.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> std::result::Result<(), EmbedError> {
        let features = self.columns.t()?.contiguous()?.to_dtype(DType::F16)?;
        Ok(candle_core::safetensors::save(&HashMap::from([(NAME, features)]), path)?)
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.columns.dim(1).unwrap_or_default()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hubness of pictures with L2-normalised global features `[n, embed_dim]`: 0.02 log mean exp(cosine / 0.02) over the
    /// bank, in units of the cosine. It lies between their mean and their largest cosine with a text of the bank.
    ///
    /// # Errors
    /// Features of another width.
    pub fn hubness(&self, features: &Tensor) -> Result<Vec<f32>> {
        let cosines = features.to_dtype(DType::F32)?.matmul(&self.columns)?;
        let scaled = (cosines * LOGIT_SCALE)?;
        let log_mean = (scaled.log_sum_exp(D::Minus1)? - (self.len() as f64).ln())?;
        (log_mean / LOGIT_SCALE)?.to_vec1::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank() -> QueryBank {
        let rows: Vec<f32> = (0..6u32).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
        let rows = Tensor::from_vec(rows, (6, 2), &Device::Cpu).expect("a tensor");
        QueryBank::new(&rows).expect("a bank")
    }

    #[test]
    fn hubness_is_a_soft_maximum_of_the_cosines() {
        let pictures = Tensor::new(&[[1f32, 0.0], [0.0, -1.0]], &Device::Cpu).expect("a tensor");
        let got = bank().hubness(&pictures).expect("it fits");
        for (got, picture) in got.iter().zip([[1f64, 0.0], [0.0, -1.0]]) {
            let cosines = (0..6).map(|i| f64::from(i).cos() * picture[0] + f64::from(i).sin() * picture[1]);
            let want = (cosines.map(|c| (50.0 * c).exp()).sum::<f64>() / 6.0).ln() / 50.0;
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} instead of {want}");
        }
    }

    #[test]
    fn a_bank_survives_its_file_and_a_wrong_one_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("query-bank.safetensors");
        let missing = QueryBank::load(&path, 2, &Device::Cpu).expect_err("absent").to_string();
        assert!(missing.contains("query-bank.safetensors"), "{missing}");
        bank().save(&path).expect("written");
        let pictures = Tensor::new(&[[0.6f32, 0.8]], &Device::Cpu).expect("a tensor");
        let read = QueryBank::load(&path, 2, &Device::Cpu).expect("it is sound");
        let (a, b) = (bank().hubness(&pictures).expect("fits"), read.hubness(&pictures).expect("fits"));
        assert!((a[0] - b[0]).abs() < 1e-3 && read.len() == 6 && !read.is_empty());
        let other = QueryBank::load(&path, 3, &Device::Cpu).expect_err("another width").to_string();
        assert!(other.contains("[6, 2]") && other.contains("[texts, 3]"), "{other}");
        std::fs::write(&path, b"nothing").expect("written");
        assert!(QueryBank::load(&path, 2, &Device::Cpu).expect_err("damaged").to_string().contains("a query bank"));
    }
}
