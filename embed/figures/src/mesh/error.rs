//! What can be wrong with a folder of body and clothes meshes, said so that it can be mended.

use std::path::{Path, PathBuf};

/// Why meshes could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// A needed file is not there.
    #[error("{path} is missing: it comes {origin}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// Where it comes from.
        origin: &'static str,
    },
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and in which line, if it has lines.
        message: String,
    },
}

impl AssetError {
    pub(super) fn content(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::Content { path: path.to_owned(), message: message.to_string() }
    }
}
