//! Everything that can go wrong around the model, each said so that it can be mended.

use std::path::PathBuf;

/// Why the model could not be loaded or asked.
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
        /// What the writer says.
        message: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// No model folder where one was looked for.
    #[error("there is no model folder {name:?}; looked for config.json in: {}", list(tried))]
    NoModel {
        /// What was asked for.
        name: PathBuf,
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// config.json does not say what a model is.
    #[error("{path} is not a valid model configuration: {message}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file of weights without a byte in it.
    #[error("{path} is empty (0 bytes); the download or copy has probably failed")]
    EmptyWeights {
        /// The file.
        path: PathBuf,
    },
    /// A file of weights in no format we read, or a damaged one.
    #[error("{path} cannot be read as {format}: {message}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it was taken for.
        format: &'static str,
        /// What the reader says.
        message: String,
    },
    /// A checkpoint in which no name is one of ours.
    #[error("no tensor of {origin} maps to CADA: it holds {found} tensors{example}, and none has a name CADA uses")]
    NothingMapped {
        /// The file, or what stands for it.
        origin: String,
        /// How many tensors are there.
        found: usize,
        /// One of their names, in parentheses.
        example: String,
    },
    /// A model folder without the head that predicts words.
    #[error("this model predicts no words: its folder has no word head (word-head.safetensors)")]
    NoWordHead,
    /// A template of which no words can be predicted.
    #[error("no word can be predicted of the template {template:?}: {message}")]
    Template {
        /// As it was given.
        template: String,
        /// What is wrong with it.
        message: String,
    },
    /// Tensors that the architecture needs and the file lacks.
    #[error("{origin} lacks {} tensor(s) the architecture needs: {}", names.len(), brief(names))]
    MissingTensors {
        /// The file, or what stands for it.
        origin: String,
        /// Their names, with the expected shapes.
        names: Vec<String>,
    },
    /// Tensors of another shape than the architecture says.
    #[error("{origin} does not fit the architecture in {} tensor(s): {}", tensors.len(), brief(tensors))]
    WrongShapes {
        /// The file, or what stands for it.
        origin: String,
        /// `name: expected [..], found [..]`
        tensors: Vec<String>,
    },
    /// tokenizer.json cannot be used.
    #[error("{path} is not a usable tokenizer: {message}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A query with no word in it: nothing to search for.
    #[error("the query holds no word that can be searched for")]
    EmptyQuery,
    /// The asked-for device cannot be had.
    #[error("device {requested:?} cannot be used: {message}")]
    Device {
        /// As configured.
        requested: String,
        /// Why, and what would help.
        message: String,
    },
    /// The model computes, but not what it should.
    #[error("the model's start-up self-test failed: {0}")]
    SelfTest(String),
    /// Features that were made by another model.
    #[error("patch features of {found} do not fit this model, which has {expected}")]
    PatchFeatures {
        /// Rows x width of this model.
        expected: String,
        /// Rows x width (and bytes) given.
        found: String,
    },
    /// NaN or infinity came out: damaged weights, or arithmetic that overflowed.
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
    /// Bytes that do not begin like a picture we know.
    #[error("it is neither JPEG nor PNG")]
    NotAPicture,
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

/// What a caught panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

/// The first few of many.
fn brief(items: &[String]) -> String {
    const SHOWN: usize = 5;
    let rest = items.len().saturating_sub(SHOWN);
    let head = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if rest == 0 { head } else { format!("{head}; and {rest} more") }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
