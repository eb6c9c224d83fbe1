//! Deletion that leaves nothing behind: vectors first, so that nothing deleted is ever found again, then the pictures.
//!
//! Between the two steps only the ids say which pictures are still to go, so they are written to a journal first. A
//! deletion that a crash interrupts is finished at the next start ([`resume_erasures`]).

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use sightline_core::SightingId;
use uuid::Uuid;

use crate::files::{self, FileError};
use crate::gallery::{Gallery, GalleryError};
use crate::store::{Filter, StoreError, VectorStore};

/// Why a deletion is not finished. What its journal names will be deleted at the next start.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The vector store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// The journal.
    #[error(transparent)]
    File(#[from] FileError),
    /// New pictures kept arriving while the old ones were deleted.
    #[error("pictures that match the deletion keep arriving; stop their camera first")]
    StillArriving,
    /// A journal that cannot be understood.
    #[error("{path} is damaged: {reason}")]
    Journal {
        /// The file.
        path: std::path::PathBuf,
        /// In which way.
        reason: String,
    },
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Points taken from the vector store.
    pub points: u64,
    /// Files taken from the gallery.
    pub files: u64,
}

/// How often the deletion looks again for what arrived meanwhile.
const ROUNDS: usize = 8;

/// Deletes every picture that matches `filter`, from the vectors and from the gallery; durable when it returns.
/// `journals` is a folder for the notes of deletions under way.
///
/// Remove a camera from ingest first and wait until its last `Progress` has passed ([`crate::CameraCoverage::ended`]):
/// what is still on its way to the index would arrive afterwards.
///
/// # Errors
/// When a part fails, or the filter has no condition at all; see [`EraseError`].
pub fn erase(
    store: &dyn VectorStore,
    gallery: &dyn Gallery,
    journals: &Path,
    filter: &Filter,
) -> Result<Receipt, EraseError> {
    if filter.is_unrestricted() {
        return Err(StoreError::Unrestricted.into());
    }
    let mut receipt = Receipt::default();
    for _ in 0..ROUNDS {
        let ids = store.ids(filter)?;
        if ids.is_empty() {
            metrics::counter!("sightline_index_erased_points_total").increment(receipt.points);
            return Ok(receipt);
        }
        files::create_folder(journals)?;
        let path = journals.join(format!("{}.ids", Uuid::new_v4()));
        let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
        files::write_whole(&path.with_extension("new"), &path, &[text.as_bytes()])?;
        files::sync_folder(journals)?;
        let done = finish(store, gallery, &path, &ids)?;
        receipt.points += done.points;
        receipt.files += done.files;
    }
    Err(EraseError::StillArriving)
}

/// Finishes what an earlier run began. Call it at start, before anything is indexed.
///
/// # Errors
/// When a part fails, or a journal is unreadable; see [`EraseError`].
pub fn resume_erasures(store: &dyn VectorStore, gallery: &dyn Gallery, journals: &Path) -> Result<Receipt, EraseError> {
    let mut receipt = Receipt::default();
    for path in files::list(journals)? {
        if path.extension().is_none_or(|e| e != "ids") {
            // Never got its name: its deletion had not begun.
            files::remove(&path)?;
            continue;
        }
        let text = files::read(&path)?.unwrap_or_default();
        let ids: Vec<SightingId> = String::from_utf8_lossy(&text)
            .lines()
            .map(|line| line.parse().map_err(|_| line.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|line| EraseError::Journal { path: path.clone(), reason: format!("{line:?} is no id") })?;
        tracing::info!(pictures = ids.len(), "finishing a deletion that was interrupted");
        let done = finish(store, gallery, &path, &ids)?;
        receipt.points += done.points;
        receipt.files += done.files;
    }
    Ok(receipt)
}

/// Vectors, then files, then the journal itself: every step may be repeated.
fn finish(
    store: &dyn VectorStore,
    gallery: &dyn Gallery,
    journal: &Path,
    ids: &[SightingId],
) -> Result<Receipt, EraseError> {
    let points = store.delete(&Filter::ids(ids.to_vec()))?;
    store.flush()?;
    let files = gallery.delete(ids)?;
    files::remove(journal)?;
    Ok(Receipt { points, files })
}

/// Deletes pictures that no point knows: a crash between the gallery and the store leaves them, and nobody could find
/// or erase them otherwise. Call it at start, before anything is indexed. Gives the number of files.
///
/// # Errors
/// When a part fails.
pub fn sweep_orphans(store: &dyn VectorStore, gallery: &dyn Gallery) -> Result<u64, EraseError> {
    let kept = gallery.ids()?;
    if kept.is_empty() {
        return Ok(0);
    }
    let known: HashSet<SightingId> = store.ids(&Filter::default())?.into_iter().collect();
    let orphans: Vec<SightingId> = kept.into_iter().filter(|id| !known.contains(id)).collect();
    let files = gallery.delete(&orphans)?;
    if files > 0 {
        tracing::info!(files, "deleted pictures that a crash had left without a point");
    }
    Ok(files)
}
