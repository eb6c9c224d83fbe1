//! Index: vector store, gallery, coverage and searcher behind one handle.
//!
//! A search, a stored picture, an erasure and the coverage all come from here, so that nothing
//! above this crate combines the parts by itself. Store and gallery calls block; every `async`
//! method runs them on a thread of the blocking pool.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sightline_core::config::SearchConfig;
use sightline_core::ids::sighting_id;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, SightingId, Timestamp, TrackId};
use uuid::Uuid;

use crate::coverage::{Coverage, CoverageSnapshot};
use crate::encoder::QueryEncoder;
use crate::erase::{EraseError, Eraser, Journals, Progress, Receipt};
use crate::gallery::{Gallery, GalleryError, ObjectGallery};
use crate::picture::{CropHash, PictureKey};
use crate::searcher::{CROPS_PER_TRACK, SearchError, SearchRequest, SearchResponse, Searcher};
use crate::store::{ExactStore, Filter, Record, Scope, StoreError, VectorStore};

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

/// What an [`Index`] is made of; all of one model.
pub struct IndexParts {
    /// Model that encodes queries.
    pub encoder: Arc<dyn QueryEncoder>,
    /// Vector store of the same model.
    pub store: Arc<dyn VectorStore>,
    /// Gallery of pictures and patch features.
    pub gallery: Arc<dyn Gallery>,
    /// Coverage that the indexer advances, here or in other processes.
    pub coverage: Coverage,
    /// Tombstones and batch journal. Whoever writes store and gallery uses the same ones.
    pub journals: Arc<Journals>,
    /// The configuration section `[search]`.
    pub search: SearchConfig,
}

struct Inner {
    searcher: Searcher,
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    coverage: Coverage,
    eraser: Eraser,
}

impl Inner {
    /// Returns those of these stored pictures that are not erased.
    fn shown(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        self.eraser.journals().tombstones().refresh()?;
        let mut found = self.store.get(ids)?;
        found.retain(|r| !self.eraser.hides(&r.payload));
        Ok(found)
    }

    /// Reads what other processes erase, and checks that the example of a search is not erased.
    fn prepare(&self, like: Option<SightingId>) -> Result<(), SearchError> {
        match like {
            None => Ok(self.eraser.journals().tombstones().refresh()?),
            Some(id) if self.shown(&[id])?.is_empty() => Err(SearchError::UnknownSighting(id)),
            Some(_) => Ok(()),
        }
    }
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
        let (vectors, pictures, erased) = (Arc::clone(&store), Arc::clone(&gallery), Arc::clone(&journals));
        let searcher = Searcher::hiding(encoder, vectors, pictures, erased, search)?;
        let eraser = Eraser::new(Arc::clone(&store), Arc::clone(&gallery), journals);
        Ok(Self { inner: Arc::new(Inner { searcher, store, gallery, coverage, eraser }) })
    }

    /// Creates an empty index in memory. It compares every vector exactly: for tests and trials.
    ///
    /// # Errors
    /// When no thread can be started for the gallery.
    pub fn in_memory(encoder: Arc<dyn QueryEncoder>, search: SearchConfig) -> Result<Self, SearchError> {
        let store = Arc::new(ExactStore::new(encoder.model_id(), encoder.width()));
        let objects = Arc::new(object_store::memory::InMemory::new());
        let gallery = Arc::new(ObjectGallery::new(objects, "", encoder.model_id())?);
        let journals = Arc::new(Journals::in_memory());
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

    /// Returns tombstones and batch journal, for the stages that write store and gallery.
    pub fn journals(&self) -> &Arc<Journals> {
        self.inner.eraser.journals()
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

    /// Runs a search. The answer says whether new footage may be missing from it, and shows nothing
    /// that is erased. A search whose future is dropped ends before its next stage; `held` is
    /// dropped when its work ends.
    ///
    /// # Errors
    /// [`SearchError`]; see [`SearchError::is_bad_request`].
    pub async fn search<G: Send + 'static>(
        &self,
        mut request: SearchRequest,
        held: G,
    ) -> Result<SearchResponse, SearchError> {
        self.prepare(request.like).await?;
        request.filter = self.inner.eraser.hide(request.filter);
        Ok(self.finished(self.inner.searcher.search(request, held).await?))
    }

    /// Returns the page of a cursor from an earlier answer to the same owner, with hits of
    /// `cameras` alone, if given.
    ///
    /// # Errors
    /// [`SearchError::UnknownCursor`], or the errors of the store.
    pub async fn next_page(
        &self,
        cursor: &str,
        owner: &str,
        cameras: Option<BTreeSet<CameraId>>,
    ) -> Result<SearchResponse, SearchError> {
        self.prepare(None).await?;
        Ok(self.finished(self.inner.searcher.next_page(cursor, owner, cameras).await?))
    }

    /// Runs [`Inner::prepare`], which reads the disk or a server, on a thread for that.
    async fn prepare(&self, like: Option<SightingId>) -> Result<(), SearchError> {
        let inner = Arc::clone(&self.inner);
        let prepared = tokio::task::spawn_blocking(move || inner.prepare(like));
        prepared.await.map_err(|_| SearchError::Broken)?
    }

    fn finished(&self, mut answer: SearchResponse) -> SearchResponse {
        if let Some(fault) = self.fault() {
            answer.degraded.push(format!("new footage may be missing: {fault}"));
        }
        answer
    }

    /// Returns the metadata of a stored picture that is not erased.
    ///
    /// # Errors
    /// When the store or the tombstones of other processes cannot be read.
    pub async fn sighting(&self, id: SightingId) -> Result<Option<Record>, IndexError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(inner.shown(&[id])?.pop())).await
    }

    /// Returns the stored pictures of a track by capture time, the oldest first.
    ///
    /// # Errors
    /// As [`Index::sighting`].
    pub async fn track(&self, camera: &CameraId, track: TrackId) -> Result<Vec<Record>, IndexError> {
        let inner = Arc::clone(&self.inner);
        // Their ids are derived from camera, track and slot number.
        let ids: Vec<SightingId> = (0..CROPS_PER_TRACK as u8).map(|n| sighting_id(camera, track, n)).collect();
        blocking(move || {
            let mut pictures = inner.shown(&ids)?;
            pictures.sort_by_key(|r| r.payload.captured_at);
            Ok(pictures)
        })
        .await
    }

    /// Returns the JPEG of a stored picture; with `crop` the one with this hash, also when a better
    /// one has replaced it within the last hour. `None` when it is erased or not there.
    ///
    /// # Errors
    /// When the gallery fails.
    pub async fn picture(&self, sighting: Record, crop: Option<CropHash>) -> Result<Option<Bytes>, IndexError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let (gallery, erased) = (&inner.gallery, inner.eraser.journals().tombstones());
            let payload = &sighting.payload;
            if crop.is_none() || crop == payload.crop {
                let jpeg = gallery.jpeg(sighting.key())?;
                // Asked last: an erasure may have begun since the sighting was looked up.
                return Ok(jpeg.filter(|_| !erased.hides(payload)));
            }
            let key = PictureKey { id: sighting.id, crop };
            // It is moved away a moment after it was replaced.
            let jpeg = gallery.jpeg(key)?.map_or_else(|| gallery.replaced(key), |jpeg| Ok(Some(jpeg)))?;
            Ok(jpeg.filter(|_| !erased.hides_earlier(payload)))
        })
        .await
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
        blocking(move || Ok(!store.scroll(&Filter::camera(camera), None, 1)?.is_empty())).await
    }

    /// Begins the erasure `id`: from now on nobody sees pictures of these scopes, and none is stored.
    /// Durable when it returns; may be repeated.
    ///
    /// # Errors
    /// When the tombstone cannot be written; the pictures are hidden by this process all the same.
    pub async fn begin_erasure(&self, id: Uuid, scopes: Vec<Scope>) -> Result<(), IndexError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(inner.eraser.begin(id, &scopes)?)).await
    }

    /// Hides the pictures of an erasure that a start takes up again, before anything is answered.
    /// [`Index::begin_erasure`] follows.
    pub fn hide_now(&self, id: Uuid, scopes: &[Scope]) {
        self.inner.eraser.hide_now(id, scopes);
    }

    /// Begins an erasure if necessary, and deletes what is stored, until `shutdown`; it may be
    /// repeated, and goes on where it was interrupted.
    ///
    /// # Errors
    /// [`IndexError::Erase`].
    pub async fn erase(
        &self,
        id: Uuid,
        scopes: Vec<Scope>,
        shutdown: Shutdown,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Receipt, IndexError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(inner.eraser.run(id, &scopes, &shutdown, &mut progress)?)).await
    }

    /// Stores pictures of a camera again that was erased as a whole: those captured from `from` on,
    /// or without it, of any time.
    ///
    /// # Errors
    /// When the tombstones cannot be written.
    pub async fn admit(&self, camera: CameraId, from: Option<Timestamp>) -> Result<(), IndexError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(inner.eraser.admit(&camera, from)?)).await
    }

    /// Returns the tracks of these sightings, and those of the sightings that are not stored.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn tracks_of(&self, ids: Vec<SightingId>) -> Result<(Vec<Scope>, Vec<SightingId>), IndexError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(inner.eraser.tracks_of(&ids)?)).await
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
