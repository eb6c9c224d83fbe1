//! The model and auxiliary heads that a run trains, and the initialisation of their variables.

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::Rng;
use rand::rngs::StdRng;

use super::attributes::AttributeHeads;
use super::losses::TruthHead;
use super::optimizer::{AdamW, AdamWConfig};
use super::{Result, streams};
use sightline_embed::graph::{Cada, WordPredictor};
use sightline_embed::model::{Architecture, Network};
use sightline_figures::stream;

/// Multiplier of the FNV-1 hash (64 bits), which turns a variable's name into the number of its
/// random stream.
const FNV_PRIME: u64 = 1_099_511_628_211;

/// Variables that a run does not train: always a backbone, since its tokens are computed once, and
/// the word embeddings and lowest layers of a text encoder that was trained elsewhere.
/// Cross-attention is never frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// Number of frozen layers of the text transformer; 0 freezes neither layers nor embeddings.
    pub text_layers: usize,
}

impl Frozen {
    /// Whether the variable `name` is frozen.
    pub fn has(self, name: &str) -> bool {
        if name.starts_with(crate::backbone::PREFIX) {
            return true;
        }
        let Some(own) = name.strip_prefix("text_encoder.").filter(|_| self.text_layers > 0) else { return false };
        let Some(layer) = own.strip_prefix("encoder.layer.") else { return own.starts_with("embeddings.") };
        let number = layer.split('.').next().and_then(|number| number.parse::<usize>().ok());
        number.is_some_and(|number| number < self.text_layers) && !layer.contains("crossattention")
    }
}

/// Whether the variable `name` comes from a text encoder that was trained elsewhere.
pub fn of_text_encoder(name: &str) -> bool {
    name.starts_with("text_encoder.") && !name.contains("crossattention")
}

/// Model, heads and variables of a run.
pub struct Trainee {
    /// The model.
    pub model: Cada,
    /// The auxiliary heads.
    pub heads: AttributeHeads,
    /// Maps the cosine of a phrase and a picture to the logit of the phrase's truth.
    pub truth: TruthHead,
    /// All variables; names of the heads' variables begin with `attributes.` and `truth.`.
    pub variables: VarMap,
    /// Variables that are not trained.
    pub frozen: Frozen,
}

impl Trainee {
    /// Initialises variables at random from `seed`: matrices as Glorot and Bengio (2010), patch
    /// positions as sines and cosines. Training is too short to learn either from the usual N(0,
    /// 0.02).
    ///
    /// # Errors
    /// When the architecture contradicts itself.
    pub fn new(arch: &Architecture, seed: u64) -> Result<Self> {
        Self::with_decoder(arch, WordPredictor::None, seed)
    }

    /// Initialises a trainee like [`Trainee::new`], with a word predictor for ARA.
    ///
    /// # Errors
    /// When the architecture contradicts itself.
    pub fn with_decoder(arch: &Architecture, decoder: WordPredictor, seed: u64) -> Result<Self> {
        Self::with_frozen(arch, decoder, seed, Frozen::default())
    }

    /// Initialises a trainee like [`Trainee::with_decoder`], with some variables `frozen`.
    ///
    /// # Errors
    /// When the architecture contradicts itself.
    pub fn with_frozen(arch: &Architecture, decoder: WordPredictor, seed: u64, frozen: Frozen) -> Result<Self> {
        let (model, variables) = crate::weights::trainable(arch, decoder, &Device::Cpu, frozen)?;
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let heads = AttributeHeads::new(arch.vision_width, vb.pp("attributes"))?;
        let truth = TruthHead::new(vb.pp("truth"))?;
        {
            let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (name, var) in data.iter().filter(|(_, var)| var.rank() >= 2) {
                let index = name.bytes().fold(0u64, |h, b| h.wrapping_mul(FNV_PRIME) ^ u64::from(b));
                let mut rng = stream(seed, streams::INITIAL_VARIABLES, index);
                let (outputs, inputs) = (var.dim(0)?, var.elem_count() / var.dim(0)?);
                let table = name.contains("embeddings") || name.ends_with("cls_token");
                let spread = if table { 0.04 } else { (2.0 / (inputs + outputs) as f32).sqrt() };
                let mut values: Vec<f32> = (0..var.elem_count()).map(|_| spread * normal(&mut rng)).collect();
                if name.ends_with("pos_embed") {
                    values = places(arch, &mut rng);
                }
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
            }
        }
        Ok(Self { model, heads, truth, variables, frozen })
    }

    /// The current model as a serving network, in the current precision of the thread.
    ///
    /// # Errors
    /// A missing variable that the network needs.
    pub fn network(&self) -> Result<Network> {
        Ok(crate::weights::network(self.model.arch(), &self.variables)?)
    }

    /// Creates an optimiser of all trained variables, with weight decay `decay` and default
    /// settings otherwise.
    pub fn optimizer(&self, decay: f64) -> AdamW {
        self.optimizer_with(AdamWConfig { decay, ..AdamWConfig::default() })
    }

    /// Creates an optimiser of all variables except the frozen ones.
    pub fn optimizer_with(&self, config: AdamWConfig) -> AdamW {
        let data = self.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all = data.iter().filter(|(name, _)| !self.frozen.has(name));
        AdamW::new(all.map(|(name, var)| (name.clone(), var.clone())).collect(), config)
    }
}

/// Initial patch positions `[1 + patches, width]`: sines and cosines of the row and the column of
/// the grid, and a little noise. A colour's position decides which garment has it, so positions
/// must differ from the first step.
fn places(arch: &Architecture, rng: &mut StdRng) -> Vec<f32> {
    let (grid, width) = (arch.grid(), arch.vision_width);
    let quarter = width / 4;
    let mut values: Vec<f32> = (0..arch.patch_rows() * width).map(|_| 0.04 * normal(rng)).collect();
    for (patch, row) in values[width..].chunks_exact_mut(width).enumerate() {
        let (y, x) = ((patch / grid.cols) as f32, (patch % grid.cols) as f32);
        for (i, value) in row.iter_mut().enumerate() {
            let angle = |at: f32| at * 1.5 / 24f32.powf((i % quarter) as f32 / quarter as f32);
            *value += 0.3
                * match i / quarter.max(1) {
                    0 => angle(y).sin(),
                    1 => angle(y).cos(),
                    2 => angle(x).sin(),
                    _ => angle(x).cos(),
                };
        }
    }
    values
}

/// One draw of the standard normal distribution (Box and Muller).
fn normal(rng: &mut StdRng) -> f32 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
