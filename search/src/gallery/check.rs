//! Check of the gallery: finds pictures that no index knows, and moves them into quarantine.
//!
//! Such a picture is either a leftover that nobody could find or erase, or the sign that the index
//! is not the one that belongs to this gallery: new, restored from an older copy, or under another
//! name. Deleting would then destroy the only source from which the vectors can be computed again.
//! So nothing is deleted: files lie in quarantine for seven days, and a check that finds an empty
//! index, or more than one unknown picture in a hundred, changes nothing and says what to do.
//!
//! It lists the whole gallery, shard by shard, so it is a command and never part of a start.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use sightline_core::{SightingId, Timestamp};

use super::{Gallery, GalleryError, SHARDS};
use crate::store::{Filter, StoreError, VectorStore};

/// Ids compared with an index in one call.
const CHUNK: usize = 1000;

/// Largest share of unknown pictures that is moved, as one in this many.
const ONE_IN: u64 = 100;

/// Age below which a picture is not looked at: its point may be on its way.
const MIN_AGE: Duration = Duration::from_secs(3600);

/// Reason why the check changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// An index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// The index is empty, so that every picture would be unknown.
    #[error(
        "the gallery holds {pictures} pictures and the index none, so nothing is moved: check that vectors.store, \
         vectors.url, vectors.collection and data.folder name the index that belongs to this gallery; if it is lost, \
         keep the pictures: they are the only source of a new one"
    )]
    EmptyIndex {
        /// Pictures in the gallery.
        pictures: u64,
    },
    /// Too many pictures are unknown.
    #[error(
        "the index does not know {unknown} of the {pictures} pictures, more than one in {ONE_IN}, so nothing is moved: \
         it seems to be another index, or an older copy: check vectors.store, vectors.url, vectors.collection and \
         data.folder, restore the index that belongs to this gallery, and check again; if the index is the right one, \
         accept that many with --accept {unknown}"
    )]
    TooMany {
        /// Pictures that the index does not know.
        unknown: u64,
        /// Pictures in the gallery.
        pictures: u64,
    },
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GalleryReport {
    /// Sightings with files in the gallery, without those of the last hour.
    pub pictures: u64,
    /// Those of them that no index knows.
    pub unknown: u64,
    /// Files moved into quarantine.
    pub quarantined: u64,
}

/// What to check, and what may be done about it.
pub struct GalleryCheck<'a> {
    /// Index that answers; those of other models beside it count, too.
    pub store: &'a dyn VectorStore,
    /// Gallery that is read, and that unknown pictures are moved in.
    pub gallery: &'a dyn Gallery,
    /// Whether unknown pictures are moved; otherwise they are only counted.
    pub quarantine: bool,
    /// Number of unknown pictures that is accepted although it is more than one in a hundred.
    pub accept: u64,
}

impl GalleryCheck<'_> {
    /// Runs the check at the time `now`; `shard` receives the number of shards read.
    ///
    /// # Errors
    /// [`CheckError`]; nothing has changed unless a file could not be moved.
    pub fn run(&self, now: SystemTime, shard: &mut dyn FnMut(u16)) -> Result<GalleryReport, CheckError> {
        let before = now.checked_sub(MIN_AGE).unwrap_or(SystemTime::UNIX_EPOCH);
        let (mut report, mut unknown) = (GalleryReport::default(), Vec::new());
        for n in 0..SHARDS {
            let ids = self.gallery.ids_in(n, before)?;
            report.pictures += ids.len() as u64;
            unknown.extend(self.unknown(ids)?);
            shard(n + 1);
        }
        report.unknown = unknown.len() as u64;
        if report.pictures > 0 && self.is_empty()? {
            return Err(CheckError::EmptyIndex { pictures: report.pictures });
        }
        if report.unknown > self.accept.max(report.pictures / ONE_IN) {
            return Err(CheckError::TooMany { unknown: report.unknown, pictures: report.pictures });
        }
        if self.quarantine {
            for ids in unknown.chunks(CHUNK) {
                // Their points may have been stored since.
                let still = self.unknown(ids.to_vec())?;
                report.quarantined += self.gallery.quarantine(&still, Timestamp::from(now))?;
            }
        }
        Ok(report)
    }

    /// Returns those of these ids that no index knows.
    fn unknown(&self, mut ids: Vec<SightingId>) -> Result<Vec<SightingId>, StoreError> {
        let beside = self.store.beside()?;
        for index in indexes(self.store, &beside) {
            let mut unknown = Vec::new();
            for chunk in ids.chunks(CHUNK) {
                let known = index.scroll(&Filter::ids(chunk.to_vec()), None, chunk.len())?;
                unknown.extend(chunk.iter().filter(|id| known.binary_search(id).is_err()));
            }
            ids = unknown;
        }
        Ok(ids)
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        let all = Filter::default();
        let beside = self.store.beside()?;
        for index in indexes(self.store, &beside) {
            if !index.scroll(&all, None, 1)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn indexes<'a>(store: &'a dyn VectorStore, beside: &'a [Arc<dyn VectorStore>]) -> Vec<&'a dyn VectorStore> {
    let mut all = vec![store];
    all.extend(beside.iter().map(|store| &**store as &dyn VectorStore));
    all
}
