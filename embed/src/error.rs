//! Errors of loading and running a model. Each message says what to fix.

use std::path::PathBuf;

/// Error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// Rows or weights that do not fit each other.
    #[error("the model's arithmetic failed: {0}")]
    Shape(#[from] crate::net::ShapeError),
    /// Shapes that do not fit in a graph, or an error of the GPU.
    #[cfg(feature = "candle")]
    #[error("the model's arithmetic failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// A file in the safetensors format that cannot be written.
    #[error("{path}: {message}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Message of the writer.
        message: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// No model folder in any of the places searched.
    #[error("there is no model folder {name:?}; looked for config.json in: {}", list(tried))]
    NoModel {
        /// Requested name.
        name: PathBuf,
        /// Places searched.
        tried: Vec<PathBuf>,
    },
    /// `config.json` is not a valid model configuration.
    #[error("{path} is not a valid model configuration: {message}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Weights file without a byte in it.
    #[error("{path} is empty (0 bytes); the download or copy has probably failed")]
    EmptyWeights {
        /// The file.
        path: PathBuf,
    },
    /// File in an unknown format, or a damaged one.
    #[error("{path} cannot be read as {format}: {message}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Format it was read as.
        format: &'static str,
        /// Message of the reader.
        message: String,
    },
    /// Checkpoint in which no tensor has a name that CADA uses.
    #[error("no tensor of {origin} maps to CADA: it holds {found} tensors{example}, and none has a name CADA uses")]
    NothingMapped {
        /// The file, or a name for it.
        origin: String,
        /// Number of its tensors.
        found: usize,
        /// One of their names, in parentheses.
        example: String,
    },
    /// A model folder without the head that predicts words.
    #[error("this model predicts no words: its folder has no word head (word-head.safetensors)")]
    NoWordHead,
    /// Template in which no word can be predicted.
    #[error("no word can be predicted of the template {template:?}: {message}")]
    Template {
        /// The template as given.
        template: String,
        /// What is wrong with the template.
        message: String,
    },
    /// Tensors that the architecture needs and the file lacks.
    #[error("{origin} lacks {} tensor(s) the architecture needs: {}", names.len(), brief(names))]
    MissingTensors {
        /// The file, or a name for it.
        origin: String,
        /// Names of the tensors, with the expected shapes.
        names: Vec<String>,
    },
    /// Tensors of another shape or type than the architecture needs.
    #[error("{origin} does not fit the architecture in {} tensor(s): {}", tensors.len(), brief(tensors))]
    WrongShapes {
        /// The file, or a name for it.
        origin: String,
        /// `name: expected [..], found [..]`
        tensors: Vec<String>,
    },
    /// `tokenizer.json` cannot be used.
    #[error("{path} is not a usable tokenizer: {message}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Query without a known word: nothing to search for.
    #[error("the query holds no word that can be searched for")]
    EmptyQuery,
    /// The requested device is not available.
    #[error("device {requested:?} cannot be used: {message}")]
    Device {
        /// Device as configured.
        requested: String,
        /// Reason, and what would help.
        message: String,
    },
    /// The model computes wrong results.
    #[error("the model's start-up self-test failed: {0}")]
    SelfTest(String),
    /// Patch features of another model.
    #[error("patch features of {found} do not fit this model, which has {expected}")]
    PatchFeatures {
        /// Rows x width of this model.
        expected: String,
        /// Rows x width (and bytes) given.
        found: String,
    },
    /// The model returned NaN or infinity: its weights are damaged, or arithmetic overflowed.
    #[error("the model gave features that are not finite numbers")]
    NotFinite,
    /// An image with no pixel.
    #[error("an image of {width}x{height} pixels cannot be embedded")]
    EmptyImage {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// Bytes that are neither JPEG nor PNG.
    #[error("it is neither JPEG nor PNG")]
    NotAPicture,
    /// A picture with more pixels than accepted.
    #[error("it has {width} x {height} pixels; at most {max} in all are accepted: scale it down")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Number of pixels accepted.
        max: u64,
    },
    /// A JPEG or PNG that is damaged or too large.
    #[error("the picture cannot be decoded: {0}")]
    Decode(#[from] image::ImageError),
    /// A job made the model panic. The inference thread goes on; the job is lost.
    #[error("the model panicked: {0}")]
    Panicked(String),
    /// The inference thread has ended.
    #[error("the inference thread has stopped")]
    Stopped,
}

impl EmbedError {
    /// An I/O error with its path, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Message of a caught panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

/// The first few items, and how many more there are.
fn brief(items: &[String]) -> String {
    const SHOWN: usize = 5;
    let rest = items.len().saturating_sub(SHOWN);
    let head = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if rest == 0 { head } else { format!("{head}; and {rest} more") }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
