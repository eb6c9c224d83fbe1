//! Errors that end a reindex early, among them a disk that is nearly full.

use std::path::{Path, PathBuf};

use sightline_embed::EmbedError;

use crate::erase::EraseError;
use crate::files::{self, FileError};
use crate::gallery::GalleryError;
use crate::store::StoreError;

/// Free disk space that the index needs to continue, in MB. The engine writes to sparse files of 32
/// MB that it maps into memory: when the disk has no room for such a hole, the system kills the
/// process without a message.
const RESERVE_MB: u64 = 256;

/// Reason why a reindex ended early. Its finished work is kept; the next run resumes there.
#[derive(Debug, thiserror::Error)]
pub enum ReindexError {
    /// An index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery failed, for example because the disk is full.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// A file or folder operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model cannot embed any more.
    #[error(transparent)]
    Model(#[from] EmbedError),
    /// An interrupted erasure cannot be finished.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// The final count found that stored sightings are missing.
    #[error("{missing} sightings are missing from the new index, of which {left_out} have no readable picture")]
    Incomplete {
        /// Sightings of the former index that the new one lacks.
        missing: u64,
        /// Those of them that could not be embedded.
        left_out: u64,
    },
    /// The disk is nearly full.
    #[error("{folder} has {megabytes} MB of disk left, and a new index wants {RESERVE_MB} MB to spare", folder = folder.display())]
    NoRoom {
        /// Path of the data folder.
        folder: PathBuf,
        /// Free space that is left.
        megabytes: u64,
    },
    /// Indexes of other models are kept while the new index is incomplete.
    #[error("model {0:?} has no index of its own yet, so those of other models stay")]
    NothingTakesOver(String),
}

/// Checks that the disk of `folder` has enough free space.
///
/// # Errors
/// [`ReindexError::NoRoom`].
pub(super) fn check_room(folder: &Path) -> Result<(), ReindexError> {
    let megabytes = files::available(folder)? / 1_000_000;
    if megabytes >= RESERVE_MB { Ok(()) } else { Err(ReindexError::NoRoom { folder: folder.to_owned(), megabytes }) }
}
