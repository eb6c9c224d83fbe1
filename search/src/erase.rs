//! Erasure: deletes the vectors first, so that erased pictures are never found again, then the
//! pictures.
//!
//! Between the two steps only the list of ids tells which pictures remain to be deleted, so the ids
//! are written to a journal first. The next start finishes an erasure that a crash interrupted
//! ([`resume_erasures`]).

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;
use sightline_core::SightingId;
use uuid::Uuid;

use crate::files::{self, FileError};
use crate::gallery::{Gallery, GalleryError};
use crate::store::{Filter, StoreError, VectorStore};

/// Reason why an erasure is unfinished. The next start deletes everything that its journal lists.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The vector store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// The journal cannot be written or deleted.
    #[error(transparent)]
    File(#[from] FileError),
    /// New pictures kept arriving while the old ones were deleted.
    #[error("pictures that match the deletion keep arriving; stop their camera first")]
    StillArriving,
}

/// Counts of what an erasure deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Points deleted from the vector store.
    pub points: u64,
    /// Files deleted from the gallery.
    pub files: u64,
}

/// Largest number of passes over pictures that arrive during the erasure.
const MAX_ROUNDS: usize = 8;

/// Deletes every picture that matches `filter` from the vectors and the gallery; durable when it
/// returns. `journals` is the folder for the journals of unfinished erasures.
///
/// First remove the camera from ingest and wait until its last `Progress` has arrived
/// ([`crate::CameraCoverage::ended`]): pictures in flight would arrive after the erasure.
///
/// # Errors
/// When a part fails, or the filter has no condition; see [`EraseError`].
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
    for _ in 0..MAX_ROUNDS {
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

/// Finishes the erasures that an earlier run began. Call it at the start, before anything is
/// indexed. A damaged journal is set aside and counted; it does not stop the start.
///
/// # Errors
/// When a part fails; see [`EraseError`].
pub fn resume_erasures(store: &dyn VectorStore, gallery: &dyn Gallery, journals: &Path) -> Result<Receipt, EraseError> {
    let mut receipt = Receipt::default();
    for path in files::list(journals)? {
        if path.extension().is_some_and(|e| e == "damaged") {
            continue;
        }
        if path.extension().is_none_or(|e| e != "ids") {
            // Never got its final name, so its erasure had not begun.
            files::remove(&path)?;
            continue;
        }
        let text = files::read(&path)?.unwrap_or_default();
        let ids: Result<Vec<SightingId>, _> = String::from_utf8_lossy(&text).lines().map(str::parse).collect();
        let Ok(ids) = ids else {
            let aside = path.with_extension("damaged");
            tracing::error!(path = %aside.display(), "an erasure's journal is damaged and is set aside; erase again");
            metrics::counter!("sightline_index_damaged_journals_total").increment(1);
            std::fs::rename(&path, &aside).map_err(FileError::new("set aside", &path))?;
            continue;
        };
        tracing::info!(pictures = ids.len(), "finishing a deletion that was interrupted");
        let done = finish(store, gallery, &path, &ids)?;
        receipt.points += done.points;
        receipt.files += done.files;
    }
    Ok(receipt)
}

/// Deletes vectors, files and the journal in this order; every step may be repeated.
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

/// Number of pictures without a point above which no crash has left them: more than a batch of the
/// indexer.
const MAX_ORPHANS: usize = 1024;

/// Deletes orphans: pictures without a point. A crash between the writes to gallery and store
/// leaves a batch of them at most, and nobody could find or erase them otherwise. More of them, or
/// an empty store, mean that the store is new, another one, or restored from an older copy: then
/// nothing is deleted, because the pictures are all that is left to make the index anew from. Call
/// it at the start, before anything is indexed. Returns the number of files.
///
/// # Errors
/// When a part fails.
pub fn sweep_orphans(store: &dyn VectorStore, gallery: &dyn Gallery) -> Result<u64, EraseError> {
    let kept = gallery.ids()?;
    if kept.is_empty() {
        return Ok(0);
    }
    let known: HashSet<SightingId> = store.ids(&Filter::default())?.into_iter().collect();
    let pictures = kept.len();
    let orphans: Vec<SightingId> = kept.into_iter().filter(|id| !known.contains(id)).collect();
    if known.is_empty() || orphans.len() > MAX_ORPHANS || orphans.len() * 2 > pictures {
        if !orphans.is_empty() {
            tracing::error!(
                pictures,
                without_point = orphans.len(),
                "the index does not know many of the gallery's pictures; none is deleted. Is it the right index? \
                 Check vectors.store, vectors.url and vectors.collection, or restore the index"
            );
        }
        return Ok(0);
    }
    let files = gallery.delete(&orphans)?;
    if files > 0 {
        tracing::info!(files, "deleted pictures that a crash had left without a point");
    }
    Ok(files)
}
