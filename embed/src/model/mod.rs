//! Parts of a model: folder and configuration, networks on a device, calibration, query bank,
//! preprocessing.

mod backbone;
mod calibration;
mod config;
mod decode;
mod folder;
mod former;
mod network;
pub mod preprocess;
mod query_bank;
mod tokens;
mod word_head;

pub use backbone::{Backbone, BlockShape};
pub use calibration::{
    Calibration, Evidence, PhraseCalibration, WholeCalibration, log_odds, raise_to_whole, shift_odds, sigmoid,
};
pub use config::{Architecture, Grid, ModelConfig, Preprocess, TextPooling};
pub use decode::{decode_image, decode_image_within};
pub use folder::{DEFAULT_MODEL, ModelFolder, QUERY_BANK, resolve_model_folder};
pub use former::model_of_data;
#[cfg(feature = "candle")]
pub use network::GraphNetwork;
pub use network::{Encoded, Logits, Network, l2_normalize};
pub use query_bank::{LOGIT_SCALE, QueryBank};
pub use tokens::TokenBatch;
pub use word_head::{WORD_HEAD, WORD_HEAD_PREFIX, WordHead, WordPredictor};

/// Device that a model computes on.
#[derive(Clone, Debug)]
pub enum Device {
    /// The CPU of this machine.
    Cpu,
    /// A candle device: an NVIDIA GPU.
    #[cfg(feature = "candle")]
    Candle(candle_core::Device),
}

impl Device {
    /// Whether it is the CPU.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// The same device for candle's tensors.
    #[cfg(feature = "candle")]
    #[must_use]
    pub fn candle(&self) -> candle_core::Device {
        match self {
            Self::Cpu => candle_core::Device::Cpu,
            Self::Candle(device) => device.clone(),
        }
    }
}
