//! Gallery: the JPEG of every sighting and the patch features that the decoder needs to re-rank it,
//! keyed by sighting and hash of the JPEG ([`PictureKey`]).
//!
//! Both are too large for a vector store and are read by key only. A write is durable when the call
//! returns, and a read is whole: a half-written or damaged file is an error that names it, never a
//! wrong picture.

mod check;
mod folder;
mod format;
mod object;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use sightline_core::{Config, PatchFeatures, SightingId, Timestamp};

pub use check::{CheckError, GalleryCheck, GalleryReport};
pub use folder::FolderGallery;
pub use object::ObjectGallery;

use crate::files::FileError;
use crate::picture::PictureKey;

/// Reason why a gallery call failed.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// A file operation failed, for example because the disk is full.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file exists but is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The object storage failed or could not be reached.
    #[error("object storage, {key}: {problem}")]
    Object {
        /// Object or prefix of the request that failed.
        key: String,
        /// What the storage says, or that it did not answer in time.
        problem: String,
    },
    /// The configured address is not a valid gallery.
    #[error("gallery.url {url:?}: {problem}")]
    Url {
        /// The address, as configured.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The features of the model in use must not be deleted.
    #[error("the patch features of model {0:?} are in use")]
    InUse(String),
    /// The sizes of the patch features contradict each other.
    #[error("patch features of {rows} x {width} need {expected} bytes, got {got}")]
    Patches {
        /// Rows that the header declares, CLS included.
        rows: u32,
        /// Values of a row that the header declares.
        width: u32,
        /// Bytes expected for these sizes.
        expected: u64,
        /// Bytes of the data.
        got: u64,
    },
}

impl GalleryError {
    /// Whether a retry can never succeed, because the data itself is invalid.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Patches { .. })
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::File(e) if e.is_disk_full())
    }
}

/// Number of shards that the ids are spread over: three hexadecimal digits.
pub const SHARDS: u16 = 4096;

/// Whole days that the quarantine keeps what is moved there.
pub const QUARANTINE_DAYS: u32 = 7;

/// Name of the quarantine of a day, below the gallery: `2026-05-01`.
fn quarantine_day(now: Timestamp) -> String {
    now.to_string().chars().take(10).collect()
}

/// Whether the quarantine of this day is over; `false` for a name that is no day.
fn quarantine_over(day: &str, now: Timestamp) -> bool {
    let kept = f64::from(QUARANTINE_DAYS + 1) * 86_400.0;
    format!("{day}T00:00:00Z").parse::<Timestamp>().is_ok_and(|begun| now.seconds_since(begun) >= kept)
}

/// Whole hours that a replaced picture is kept after the hour of its replacement: longer than a
/// list of results is looked at. The list names the picture that was judged.
pub const REPLACED_HOURS: u32 = 1;

/// Name of the folder of the pictures that are replaced in this hour: `2026-05-01T10`.
fn replaced_hour(now: Timestamp) -> String {
    now.to_string().chars().take(13).collect()
}

/// Whether the pictures that were replaced in this hour are to be deleted; `false` for a name that
/// is no hour.
fn replaced_over(hour: &str, now: Timestamp) -> bool {
    let kept = f64::from(REPLACED_HOURS + 1) * 3600.0;
    format!("{hour}:00:00Z").parse::<Timestamp>().is_ok_and(|begun| now.seconds_since(begun) >= kept)
}

/// Picture and patch features of one sighting.
#[derive(Clone, Debug, PartialEq)]
pub struct GalleryEntry {
    /// Key of the picture.
    pub key: PictureKey,
    /// The picture as JPEG.
    pub jpeg: Bytes,
    /// Its patch features, f16.
    pub patches: PatchFeatures,
}

/// Pictures and patch features by key. Every method may be called from any thread at any
/// time.
pub trait Gallery: Send + Sync {
    /// Writes entries and replaces those with the same key; durable when it returns. Earlier pictures
    /// of the same sighting stay until [`Gallery::prune`].
    ///
    /// # Errors
    /// [`GalleryError::Patches`] before anything is written, or [`GalleryError::File`] after some
    /// entries are written.
    fn put(&self, entries: &[GalleryEntry]) -> Result<(), GalleryError>;

    /// Writes this model's patch features of pictures that are stored already, and replaces those
    /// with the same key; durable when it returns.
    ///
    /// # Errors
    /// The errors of [`Gallery::put`].
    fn put_patches(&self, features: &[(PictureKey, PatchFeatures)]) -> Result<(), GalleryError>;

    /// Returns the picture; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn jpeg(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError>;

    /// Returns the patch features; `None` when there are none.
    ///
    /// # Errors
    /// When they cannot be read or are damaged.
    fn patches(&self, key: PictureKey) -> Result<Option<PatchFeatures>, GalleryError>;

    /// Deletes every other picture of the sightings of these keys, for all models, and returns the
    /// number of files. Pictures that [`Gallery::retire`] has moved away stay. Durable when it
    /// returns.
    ///
    /// # Errors
    /// When a file cannot be deleted; some may be deleted already.
    fn prune(&self, kept: &[PictureKey]) -> Result<u64, GalleryError>;

    /// Moves the pictures of these keys, which better ones of their slots have replaced, to where
    /// [`Gallery::replaced`] finds them until [`Gallery::expire_replaced`]; returns the number of
    /// pictures. Missing ones are passed over. Their patch features stay for [`Gallery::prune`].
    /// Durable when it returns.
    ///
    /// # Errors
    /// When a file cannot be moved; some may have been already.
    fn retire(&self, replaced: &[PictureKey], now: Timestamp) -> Result<u64, GalleryError>;

    /// Returns a picture that another one has replaced a while ago; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn replaced(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError>;

    /// Deletes the replaced pictures under these ids, and returns their number. The present ones
    /// stay. Durable when it returns.
    ///
    /// # Errors
    /// When a file cannot be deleted; some may be deleted already.
    fn delete_replaced(&self, ids: &[SightingId]) -> Result<u64, GalleryError>;

    /// Deletes the pictures that were replaced more than [`REPLACED_HOURS`] before the hour `now`,
    /// and returns the number of hours that were deleted.
    ///
    /// # Errors
    /// When something cannot be deleted.
    fn expire_replaced(&self, now: Timestamp) -> Result<u64, GalleryError>;

    /// Returns the patch features of several pictures, in the order of `keys`; each as
    /// [`Gallery::patches`] does. A gallery behind a network reads them side by side.
    fn patches_of(&self, keys: &[PictureKey]) -> Vec<Result<Option<PatchFeatures>, GalleryError>> {
        keys.iter().map(|key| self.patches(*key)).collect()
    }

    /// Deletes everything under these ids, for all models and with the replaced pictures, and
    /// returns the number of files; unknown ids count as none. Durable when it returns. It reads
    /// the sub-folders of the ids, so ids that are near one another cost less.
    ///
    /// # Errors
    /// When a file cannot be deleted; some may be deleted already.
    fn delete(&self, ids: &[SightingId]) -> Result<u64, GalleryError>;

    /// Returns the ids of everything stored for this gallery's model, in no particular order.
    ///
    /// # Errors
    /// When a folder cannot be read.
    fn ids(&self) -> Result<Vec<SightingId>, GalleryError>;

    /// Returns the ids of all models' files whose first three hexadecimal digits are `shard` (below
    /// [`SHARDS`]), in ascending order. An id with a file that was written after `before` is left
    /// out: its point may still be on its way.
    ///
    /// # Errors
    /// When a folder cannot be read.
    fn ids_in(&self, shard: u16, before: SystemTime) -> Result<Vec<SightingId>, GalleryError>;

    /// Moves everything under these ids, for all models, into the quarantine of the day `now`, and
    /// returns the number of files. Nothing reads the quarantine; a person can move files back.
    /// Durable when it returns.
    ///
    /// # Errors
    /// When a file cannot be moved; some may have been already.
    fn quarantine(&self, ids: &[SightingId], now: Timestamp) -> Result<u64, GalleryError>;

    /// Deletes what has been in quarantine for [`QUARANTINE_DAYS`], and returns the number of days
    /// that were deleted.
    ///
    /// # Errors
    /// When something cannot be deleted.
    fn expire_quarantine(&self, now: Timestamp) -> Result<u64, GalleryError>;

    /// Deletes all patch features of another model. The pictures stay.
    ///
    /// # Errors
    /// [`GalleryError::InUse`] for this gallery's own model; or when something cannot be deleted,
    /// in which case some may be deleted already.
    fn forget_model(&self, model_id: &str) -> Result<(), GalleryError>;
}

/// Opens the configured gallery for the features of `model_id`: an exclusive folder, or a folder or
/// bucket that several processes share.
///
/// # Errors
/// [`GalleryError::Url`] when the address is invalid; otherwise the errors of
/// [`FolderGallery::open`].
pub fn open_gallery(config: &Config, model_id: &str) -> Result<Arc<dyn Gallery>, GalleryError> {
    let url = config.gallery.url.as_str();
    let wrong = |problem: &str| GalleryError::Url { url: url.to_owned(), problem: problem.to_owned() };
    match url.split_once("://") {
        None if url.is_empty() => Ok(Arc::new(FolderGallery::open(&config.data.folder.join("gallery"), model_id)?)),
        Some(("file", path)) if path.starts_with('/') => {
            Ok(Arc::new(FolderGallery::open_shared(Path::new(path), model_id)?))
        }
        Some(("file", _)) => Err(wrong("use file:/// and a path from the root")),
        #[cfg(feature = "s3")]
        Some(("s3", _)) => Ok(Arc::new(ObjectGallery::s3(url, model_id)?)),
        #[cfg(not(feature = "s3"))]
        Some(("s3", _)) => Err(wrong("this program is built without `s3`")),
        _ => Err(wrong("use file:///FOLDER or s3://BUCKET/PREFIX, or leave it empty")),
    }
}
