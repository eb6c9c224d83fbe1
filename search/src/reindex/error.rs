//! What can end a reindex early, a disk that is nearly full among it.

use std::path::{Path, PathBuf};

use sightline_embed::EmbedError;

use crate::erase::EraseError;
use crate::files::{self, FileError};
use crate::gallery::GalleryError;
use crate::store::StoreError;

/// Disk that has to be left for the index to go on. The engine writes to files that it maps into memory, of 32 MB and mostly
/// holes: where no room is left for a hole, the system kills the process without a word.
const RESERVE_MB: u64 = 256;

/// Why a reindex ended before its end. What it had done is kept; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ReindexError {
    /// An index.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery, for example because the disk is full.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// A file or folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model can embed nothing more.
    #[error(transparent)]
    Model(#[from] EmbedError),
    /// An erasure that was interrupted cannot be finished.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// What was stored is not there when it is counted.
    #[error("{missing} sightings are missing from the new index, of which {left_out} have no readable picture")]
    Incomplete {
        /// Sightings of the former index that the new one lacks.
        missing: u64,
        /// Those among them that could not be embedded.
        left_out: u64,
    },
    /// The disk is nearly full.
    #[error("{folder} has {megabytes} MB of disk left, and a new index wants {RESERVE_MB} MB to spare", folder = folder.display())]
    NoRoom {
        /// The data folder.
        folder: PathBuf,
        /// What is left.
        megabytes: u64,
    },
    /// Other models' indexes are kept while the new one is not there.
    #[error("model {0:?} has no index of its own yet, so those of other models stay")]
    NothingTakesOver(String),
}

/// Whether the disk of `folder` has room for more.
///
/// # Errors
/// [`ReindexError::NoRoom`].
pub(super) fn check_room(folder: &Path) -> Result<(), ReindexError> {
    let megabytes = files::available(folder)? / 1_000_000;
    if megabytes >= RESERVE_MB { Ok(()) } else { Err(ReindexError::NoRoom { folder: folder.to_owned(), megabytes }) }
}
