//! CADA (Cross-Modal Adaptive Dual Association for text-to-image person retrieval): one code for inference, where the
//! weights are plain tensors, and for training, where they are variables of a `VarMap`.

mod bert;
mod cada;
mod calibration;
mod config;
mod decode;
mod folder;
mod pos_embed;
pub mod preprocess;
mod query_bank;
mod tokens;
mod vit;
pub mod weights;

pub use bert::{Bert, BertLayer, MlmDecoder, Pass};
pub use cada::{Cada, Decoder};
pub use calibration::{Calibration, Evidence, shift_odds};
pub use config::{Architecture, ModelConfig, Preprocess};
pub use decode::{decode_image, decode_image_within};
pub use folder::{DEFAULT_MODEL, ModelFolder, QUERY_BANK, resolve_model_folder};
pub use pos_embed::{Grid, resize_pos_embed};
pub use query_bank::{LOGIT_SCALE, QueryBank};
pub use tokens::TokenBatch;
pub use vit::{Vit, VitBlock};
