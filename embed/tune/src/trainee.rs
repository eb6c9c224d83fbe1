//! The model and auxiliary heads that a run trains, and the initialisation of their variables.

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::Rng;
use rand::rngs::StdRng;

use super::attributes::AttributeHeads;
use super::optimizer::{AdamW, AdamWConfig};
use super::{Result, streams};
use sightline_embed::graph::{Cada, WordPredictor};
use sightline_embed::model::{Architecture, Network};
use sightline_figures::stream;

/// Multiplier of the FNV-1 hash (64 bits), which numbers a variable's stream by its name.
const FNV_PRIME: u64 = 1_099_511_628_211;

/// Model, heads and variables of a run.
pub struct Trainee {
    /// The model.
    pub model: Cada,
    /// The auxiliary heads.
    pub heads: AttributeHeads,
    /// All variables; the heads' begin with `attributes.`.
    pub variables: VarMap,
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

    /// As [`Trainee::new`], with a word predictor for ARA.
    ///
    /// # Errors
    /// When the architecture contradicts itself.
    pub fn with_decoder(arch: &Architecture, decoder: WordPredictor, seed: u64) -> Result<Self> {
        let (model, variables) = crate::weights::trainable(arch, decoder, &Device::Cpu)?;
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let heads = AttributeHeads::new(arch.vision_width, vb.pp("attributes"))?;
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
        Ok(Self { model, heads, variables })
    }

    /// The current model as a serving network, in the current precision of the thread.
    ///
    /// # Errors
    /// A variable that the network needs and that is missing.
    pub fn network(&self) -> Result<Network> {
        Ok(crate::weights::network(self.model.arch(), &self.variables)?)
    }

    /// An optimiser of all variables with weight decay `decay` and default settings otherwise.
    pub fn optimizer(&self, decay: f64) -> AdamW {
        self.optimizer_with(AdamWConfig { decay, ..AdamWConfig::default() })
    }

    /// An optimiser of all variables.
    pub fn optimizer_with(&self, config: AdamWConfig) -> AdamW {
        let data = self.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        AdamW::new(all, config)
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
