//! Errors of loading meshes. Each names the file and where it comes from, so that the user can
//! complete the folder.

use std::path::{Path, PathBuf};

/// Error of loading meshes.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// A required file is missing.
    #[error("{path} is missing: it comes {origin}")]
    Missing {
        /// Path of the file.
        path: PathBuf,
        /// Download that holds the file, for the message.
        origin: &'static str,
    },
    /// A file cannot be read or unpacked.
    #[error("{path}: {source}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The error of the operating system or of gzip.
        source: std::io::Error,
    },
    /// A file has the wrong content.
    #[error("{path}: {message}")]
    Content {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong, with the line of a text file.
        message: String,
    },
}

impl AssetError {
    pub(super) fn content(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::Content { path: path.to_owned(), message: message.to_string() }
    }
}
