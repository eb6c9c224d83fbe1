//! The gallery: the picture of every sighting and what the decoder needs to re-rank it, by sighting id.
//!
//! Both are too large for a vector store and are read by key only. What is put is durable when the call returns, and
//! what is read is whole: a half-written or damaged file is an error that names it, never a wrong picture.

mod folder;
mod format;
mod object;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sightline_core::{Config, PatchFeatures, SightingId};

pub use folder::FolderGallery;
pub use object::ObjectGallery;

use crate::files::FileError;

/// Why the gallery did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// A file operation failed, for example because the disk is full.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is there, but is not what was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        reason: String,
    },
    /// The object storage failed or could not be asked.
    #[error("object storage, {key}: {problem}")]
    Object {
        /// What was asked for.
        key: String,
        /// What happened.
        problem: String,
    },
    /// The configured place is none.
    #[error("gallery.url {url:?}: {problem}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The features of the model in use are not to be forgotten.
    #[error("the patch features of model {0:?} are in use")]
    InUse(String),
    /// The patch features' own sizes contradict each other.
    #[error("patch features of {rows} x {width} need {expected} bytes, got {got}")]
    Patches {
        /// Rows named.
        rows: u32,
        /// Width named.
        width: u32,
        /// Bytes that would fill them.
        expected: u64,
        /// Bytes given.
        got: u64,
    },
}

impl GalleryError {
    /// Whether the same call can never succeed, however often it is tried: the data itself is wrong.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Patches { .. })
    }
}

/// What is kept of one sighting.
#[derive(Clone, Debug, PartialEq)]
pub struct Exhibit {
    /// The sighting.
    pub id: SightingId,
    /// The picture, JPEG.
    pub jpeg: Bytes,
    /// Its patch features, f16.
    pub patches: PatchFeatures,
}

/// Pictures and patch features by sighting id. Every method may be called from any thread at any time.
pub trait Gallery: Send + Sync {
    /// Keeps exhibits, replacing those with the same id; durable when it returns.
    ///
    /// # Errors
    /// [`GalleryError::Patches`] before anything is written, or [`GalleryError::File`] with some of them written.
    fn put(&self, exhibits: &[Exhibit]) -> Result<(), GalleryError>;

    /// Keeps patch features of pictures that are there already, by this gallery's model, replacing those with the same
    /// id; durable when it returns.
    ///
    /// # Errors
    /// As [`Gallery::put`].
    fn put_patches(&self, features: &[(SightingId, PatchFeatures)]) -> Result<(), GalleryError>;

    /// The picture; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn jpeg(&self, id: SightingId) -> Result<Option<Bytes>, GalleryError>;

    /// The patch features; `None` when there are none.
    ///
    /// # Errors
    /// When they cannot be read or are damaged.
    fn patches(&self, id: SightingId) -> Result<Option<PatchFeatures>, GalleryError>;

    /// Deletes everything kept under these ids, by whichever model, and gives the number of files; unknown ids count
    /// as none. Durable when it returns.
    ///
    /// # Errors
    /// When a file cannot be deleted; some may be gone then.
    fn delete(&self, ids: &[SightingId]) -> Result<u64, GalleryError>;

    /// Ids of everything kept for this gallery's model, in no particular order.
    ///
    /// # Errors
    /// When a folder cannot be read.
    fn ids(&self) -> Result<Vec<SightingId>, GalleryError>;

    /// Deletes the patch features of another model, all of them. The pictures stay.
    ///
    /// # Errors
    /// [`GalleryError::InUse`] for this gallery's own model; when something cannot be deleted, some may be gone then.
    fn forget_model(&self, model_id: &str) -> Result<(), GalleryError>;
}

/// The gallery that the configuration names, for the features of `model_id`: a folder of this process's own, a folder or a
/// bucket that several share.
///
/// # Errors
/// [`GalleryError::Url`] when the address is none; what [`FolderGallery::open`] says.
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
