//! Which failures of a write pass, which are caused by the data, and which by a full disk.

use std::fmt::Display;

use crate::files::FileError;
use crate::gallery::GalleryError;
use crate::store::StoreError;

/// A failure that is either transient or caused by the data.
pub(super) trait Failure: Display {
    fn is_permanent(&self) -> bool;
    fn is_disk_full(&self) -> bool;
}

/// Failure of a write to gallery and store.
#[derive(Debug, thiserror::Error)]
pub(super) enum PutError {
    #[error("gallery: {0}")]
    Gallery(#[from] GalleryError),
    #[error("upsert: {0}")]
    Store(#[from] StoreError),
}

impl Failure for PutError {
    fn is_permanent(&self) -> bool {
        match self {
            Self::Gallery(e) => e.is_permanent(),
            Self::Store(e) => e.is_permanent(),
        }
    }

    fn is_disk_full(&self) -> bool {
        match self {
            Self::Gallery(e) => e.is_disk_full(),
            Self::Store(e) => e.is_disk_full(),
        }
    }
}

impl Failure for FileError {
    fn is_permanent(&self) -> bool {
        false
    }

    fn is_disk_full(&self) -> bool {
        FileError::is_disk_full(self)
    }
}

impl Failure for StoreError {
    fn is_permanent(&self) -> bool {
        StoreError::is_permanent(self)
    }

    fn is_disk_full(&self) -> bool {
        StoreError::is_disk_full(self)
    }
}

impl Failure for GalleryError {
    fn is_permanent(&self) -> bool {
        GalleryError::is_permanent(self)
    }

    fn is_disk_full(&self) -> bool {
        GalleryError::is_disk_full(self)
    }
}
