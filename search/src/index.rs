//! Index: vector store, gallery, coverage and searcher behind one handle.
//!
//! A search, a stored picture, an erasure and the coverage all come from here, so that nothing
//! above this crate combines the parts by itself. Store and gallery calls block; every `async`
//! method runs them on a thread of the blocking pool.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sightline_core::config::SearchConfig;
use sightline_core::ids::sighting_id;
use sightline_core::{CameraId, SightingId, TrackId};

use crate::coverage::{Coverage, CoverageSnapshot};
use crate::encoder::QueryEncoder;
use crate::erase::{EraseError, Receipt, erase};
use crate::gallery::{Gallery, GalleryError, ObjectGallery};
use crate::searcher::{CROPS_PER_TRACK, SearchError, SearchRequest, SearchResponse, Searcher};
use crate::store::{ExactStore, Filter, Record, StoreError, VectorStore};

/// Reason why a call of the [`Index`] other than a search failed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The vector store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// An erasure is unfinished.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// The thread of the call panicked.
    #[error("the call was broken off: {0}")]
    Broken(String),
}

/// Parts of an [`Index`].
pub struct IndexParts {
    /// Model that encodes queries.
    pub encoder: Arc<dyn QueryEncoder>,
    /// Vector store of the same model.
    pub store: Arc<dyn VectorStore>,
    /// Gallery of pictures and patch features.
    pub gallery: Arc<dyn Gallery>,
    /// Coverage of all cameras.
    pub coverage: Coverage,
    /// Folder for the journals of unfinished erasures.
    pub journals: PathBuf,
    /// The configuration section `[search]`.
    pub search: SearchConfig,
}

struct Inner {
    searcher: Searcher,
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    coverage: Coverage,
    journals: PathBuf,
}

/// Handle on everything that is stored; clones share it.
#[derive(Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("searcher", &self.inner.searcher).finish_non_exhaustive()
    }
}

impl Index {
    /// Creates an index over open parts.
    ///
    /// # Errors
    /// [`SearchError::OtherModel`] when encoder and store belong to different models.
    pub fn new(parts: IndexParts) -> Result<Self, SearchError> {
        let IndexParts { encoder, store, gallery, coverage, journals, search } = parts;
        let searcher = Searcher::new(encoder, Arc::clone(&store), Arc::clone(&gallery), search)?;
        Ok(Self { inner: Arc::new(Inner { searcher, store, gallery, coverage, journals }) })
    }

    /// Creates an empty index in memory, except for the journals of erasures. It compares every
    /// vector exactly: for tests and trials.
    ///
    /// # Errors
    /// When no thread can be started for the gallery.
    pub fn in_memory(
        encoder: Arc<dyn QueryEncoder>,
        search: SearchConfig,
        journals: PathBuf,
    ) -> Result<Self, SearchError> {
        let store = Arc::new(ExactStore::new(encoder.model_id(), encoder.width()));
        let objects = Arc::new(object_store::memory::InMemory::new());
        let gallery = Arc::new(ObjectGallery::new(objects, "", encoder.model_id())?);
        Self::new(IndexParts { encoder, store, gallery, coverage: Coverage::default(), journals, search })
    }

    /// Returns the vector store, for the stages that write it.
    pub fn store(&self) -> &Arc<dyn VectorStore> {
        &self.inner.store
    }

    /// Returns the gallery, for the stages that write it.
    pub fn gallery(&self) -> &Arc<dyn Gallery> {
        &self.inner.gallery
    }

    /// Returns the coverage, for the stages that advance it.
    pub fn coverage(&self) -> &Coverage {
        &self.inner.coverage
    }

    /// Returns the coverage of all cameras at this moment.
    pub fn coverage_now(&self) -> CoverageSnapshot {
        self.inner.coverage.snapshot()
    }

    /// Reason why new footage cannot be stored at the moment; searches are still answered.
    pub fn fault(&self) -> Option<String> {
        self.inner.coverage.fault()
    }

    /// Runs a search. The answer says whether new footage may be missing from it. A search whose
    /// future is dropped ends before its next stage; `held` is dropped when its work ends.
    ///
    /// # Errors
    /// [`SearchError`]; see [`SearchError::is_bad_request`].
    pub async fn search<G: Send + 'static>(
        &self,
        request: SearchRequest,
        held: G,
    ) -> Result<SearchResponse, SearchError> {
        Ok(self.with_fault(self.inner.searcher.search(request, held).await?))
    }

    /// Returns the page of a cursor from an earlier answer to the same owner.
    ///
    /// # Errors
    /// [`SearchError::UnknownCursor`], or the errors of the store.
    pub async fn next_page(&self, cursor: &str, owner: &str) -> Result<SearchResponse, SearchError> {
        Ok(self.with_fault(self.inner.searcher.next_page(cursor, owner).await?))
    }

    fn with_fault(&self, mut answer: SearchResponse) -> SearchResponse {
        if let Some(fault) = self.fault() {
            answer.degraded.push(format!("new footage may be missing: {fault}"));
        }
        answer
    }

    /// Returns the metadata of a stored picture.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sighting(&self, id: SightingId) -> Result<Option<Record>, IndexError> {
        let store = Arc::clone(&self.inner.store);
        blocking(move || Ok(store.get(&[id])?.pop())).await
    }

    /// Returns the stored pictures of a track by capture time, the oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn track(&self, camera: &CameraId, track: TrackId) -> Result<Vec<Record>, IndexError> {
        let store = Arc::clone(&self.inner.store);
        // Their ids are derived from camera, track and slot number.
        let ids: Vec<SightingId> = (0..CROPS_PER_TRACK as u8).map(|n| sighting_id(camera, track, n)).collect();
        blocking(move || {
            let mut pictures = store.get(&ids)?;
            pictures.sort_by_key(|r| r.payload.captured_at);
            Ok(pictures)
        })
        .await
    }

    /// Returns the JPEG of a stored picture.
    ///
    /// # Errors
    /// When the gallery fails.
    pub async fn picture(&self, id: SightingId) -> Result<Option<Bytes>, IndexError> {
        let gallery = Arc::clone(&self.inner.gallery);
        blocking(move || Ok(gallery.jpeg(id)?)).await
    }

    /// Returns the approximate number of stored pictures. No store counts for it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn points(&self) -> Result<u64, IndexError> {
        let store = Arc::clone(&self.inner.store);
        blocking(move || Ok(store.estimate(&Filter::default())?)).await
    }

    /// Whether any picture of this camera is stored.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn holds(&self, camera: CameraId) -> Result<bool, IndexError> {
        let store = Arc::clone(&self.inner.store);
        blocking(move || Ok(!store.newest(&Filter::camera(camera), 1)?.is_empty())).await
    }

    /// Erases everything of one camera, its coverage included.
    ///
    /// # Errors
    /// [`IndexError::Erase`]; the next start finishes what its journal lists.
    pub async fn erase_camera(&self, camera: CameraId) -> Result<Receipt, IndexError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let filter = Filter::camera(camera.clone());
            let receipt = erase(&*inner.store, &*inner.gallery, &inner.journals, &filter)?;
            inner.coverage.forget(&camera);
            Ok(receipt)
        })
        .await
    }

    /// Removes the coverage of a camera that starts anew.
    pub async fn forget_coverage(&self, camera: CameraId) {
        let coverage = self.inner.coverage.clone();
        // Coverage shared with other processes is kept in the store, so this may block.
        let forgotten = blocking(move || {
            coverage.forget(&camera);
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "the coverage of a removed camera is still kept");
        }
    }
}

/// Runs blocking work on a thread of the blocking pool.
async fn blocking<T, F>(work: F) -> Result<T, IndexError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, IndexError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(IndexError::Broken(e.to_string())))
}
