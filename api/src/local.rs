//! Implementation of [`Engine`]: a searcher in this process over a local or remote vector store and
//! gallery.
//!
//! Store and gallery calls block, so each runs on a thread of the blocking pool.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, SightingId, Timestamp};
use sightline_search::{
    Coverage, EncodeError, EraseError, Eraser, Filter, Gallery, GalleryError, PhraseAsked, PictureKey, Receipt, Scope,
    SearchError, SearchRequest, SearchResponse, Searcher, StoreError, TrackHit, VectorStore,
};
use uuid::Uuid;

use crate::engine::{
    Engine, Hit, ModelView, NotUnderstoodView, PhraseView, SearchAnswer, SearchQuery, Sort, StoredSighting, Timings,
    Watermark,
};
use crate::erasure::ErasureRun;
use crate::error::Error;

/// Parts of a [`LocalEngine`].
pub struct LocalParts {
    /// Description of the model in use.
    pub model: ModelView,
    /// Two-stage searcher.
    pub searcher: Searcher,
    /// Vector store.
    pub store: Arc<dyn VectorStore>,
    /// Gallery of pictures.
    pub gallery: Arc<dyn Gallery>,
    /// Coverage of all cameras.
    pub coverage: Coverage,
    /// Eraser of store and gallery.
    pub eraser: Eraser,
}

/// Connection and watermark of a camera, and the time at which they last changed.
type LastProgress = (Option<u64>, Option<Timestamp>, Timestamp);

/// Engine over a searcher in this process.
pub struct LocalEngine {
    parts: LocalParts,
    last_progress: Mutex<BTreeMap<CameraId, LastProgress>>,
}

impl LocalEngine {
    /// Creates an engine over open parts.
    pub fn new(parts: LocalParts) -> Self {
        let engine = Self { parts, last_progress: Mutex::default() };
        engine.record_progress();
        engine
    }

    /// Records the time at which each camera's coverage advances, until `shutdown`; run it as a
    /// task of its own. The capture times of a recording do not say when the index last received a
    /// part of it.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let mut changes = self.parts.coverage.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = shutdown.triggered() => return,
            }
            self.record_progress();
        }
    }

    fn record_progress(&self) {
        let now = Timestamp::now();
        let mut last_progress = self.last_progress.lock().unwrap_or_else(PoisonError::into_inner);
        for (camera, c) in self.parts.coverage.all() {
            let progress = (c.connection, c.searchable_through);
            match last_progress.get(&camera) {
                Some((connection, through, _)) if (*connection, *through) == progress => {}
                _ => drop(last_progress.insert(camera, (progress.0, progress.1, now))),
            }
        }
    }
}

impl Engine for LocalEngine {
    fn model(&self) -> ModelView {
        self.parts.model.clone()
    }

    fn search(&self, query: SearchQuery) -> BoxFuture<'_, Result<SearchAnswer, Error>> {
        async move {
            let response = match &query.cursor {
                Some(cursor) => self.parts.searcher.next_page(cursor, &query.owner).await,
                None => {
                    let request = request(query);
                    let filter = self.parts.eraser.hide(request.filter.clone());
                    self.parts.searcher.search(SearchRequest { filter, ..request }).await
                }
            };
            let mut response = response.map_err(search_error)?;
            // A list that was frozen before an erasure began, or a search that ran meanwhile.
            let erased = self.parts.eraser.journals().tombstones();
            let seen = |h: &TrackHit| !erased.hides_picture(&h.camera, h.track, h.captured_at);
            response.hits.retain(seen);
            response.nearest_misses.retain(seen);
            let mut answer = answer(response);
            if let Some(fault) = self.parts.coverage.fault() {
                answer.degraded.push(format!("new footage may be missing: {fault}"));
            }
            Ok(answer)
        }
        .boxed()
    }

    fn sighting(&self, id: SightingId) -> BoxFuture<'_, Result<Option<StoredSighting>, Error>> {
        let (store, eraser) = (Arc::clone(&self.parts.store), self.parts.eraser.clone());
        blocking(move || {
            let found = store.get(&[id]).map_err(store_error)?.pop();
            Ok(found.filter(|r| !eraser.hides(&r.payload)).map(|r| StoredSighting {
                sighting_id: r.id,
                camera: r.payload.camera,
                track_id: r.payload.track,
                first_seen: r.payload.first_seen,
                last_seen: r.payload.last_seen,
                captured_at: r.payload.captured_at,
                crop: r.payload.crop,
                bbox: r.payload.bbox,
                quality: r.payload.quality.score,
            }))
        })
    }

    fn thumbnail(&self, key: PictureKey) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let gallery = Arc::clone(&self.parts.gallery);
        blocking(move || gallery.jpeg(key).map_err(gallery_error))
    }

    fn begin_erasure(&self, id: Uuid, scopes: Vec<Scope>) -> BoxFuture<'_, Result<(), Error>> {
        let eraser = self.parts.eraser.clone();
        blocking(move || eraser.begin(id, &scopes).map_err(store_error))
    }

    fn erase(&self, id: Uuid, scopes: Vec<Scope>, run: ErasureRun) -> BoxFuture<'_, Result<Receipt, Error>> {
        let eraser = self.parts.eraser.clone();
        blocking(move || {
            let done = eraser.run(id, &scopes, run.shutdown(), &mut |progress| run.set(progress));
            done.map_err(|e| match e {
                EraseError::Store(e) => store_error(e),
                EraseError::Gallery(e) => gallery_error(e),
                e => Error::Unavailable { part: "the erasure", why: e.to_string() },
            })
        })
    }

    fn admit(&self, camera: CameraId, from: Option<Timestamp>) -> BoxFuture<'_, Result<(), Error>> {
        let eraser = self.parts.eraser.clone();
        blocking(move || eraser.admit(&camera, from).map_err(store_error))
    }

    fn tracks_of(&self, ids: Vec<SightingId>) -> BoxFuture<'_, Result<(Vec<Scope>, Vec<SightingId>), Error>> {
        let eraser = self.parts.eraser.clone();
        blocking(move || eraser.tracks_of(&ids).map_err(store_error))
    }

    fn watermarks(&self) -> BTreeMap<CameraId, Watermark> {
        let last_progress = self.last_progress.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        let mark = |(camera, c): (CameraId, sightline_search::CameraCoverage)| {
            let arrived = last_progress.get(&camera).map_or(now, |(.., at)| *at);
            let through = c.searchable_through?;
            let (connection, ended, indexed, rejected) = (c.connection, c.ended, c.indexed, c.rejected);
            Some((camera, Watermark { connection, through, ended, arrived, indexed, rejected }))
        };
        self.parts.coverage.all().into_iter().filter_map(mark).collect()
    }

    fn restart_camera(&self, camera: &CameraId) -> BoxFuture<'_, ()> {
        let (coverage, camera) = (self.parts.coverage.clone(), camera.clone());
        // Coverage shared with other processes is kept in the store, so this may block.
        let forgotten = blocking(move || {
            coverage.forget(&camera);
            Ok(())
        });
        forgotten.map(drop).boxed()
    }

    fn fault(&self) -> Option<String> {
        self.parts.coverage.fault()
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, Error>> {
        let store = Arc::clone(&self.parts.store);
        blocking(move || store.count(&Filter::default()).map_err(store_error))
    }

    fn holds(&self, camera: CameraId) -> BoxFuture<'_, Result<bool, Error>> {
        let store = Arc::clone(&self.parts.store);
        blocking(move || store.scroll(&Filter::camera(camera), None, 1).map(|ids| !ids.is_empty()).map_err(store_error))
    }
}

fn blocking<T, F>(work: F) -> BoxFuture<'static, Result<T, Error>>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    async move {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|e| Err(Error::Internal(format!("a blocking task ended early: {e}"))))
    }
    .boxed()
}

fn request(q: SearchQuery) -> SearchRequest {
    SearchRequest {
        query: q.text,
        image: q.image,
        like: q.like,
        filter: Filter {
            cameras: q.cameras.map(|c| c.into_iter().collect()),
            from: q.from,
            to: q.to,
            ..Filter::default()
        },
        limit: q.limit,
        rerank: Some(q.rerank),
        min_probability: q.min_probability,
        sort: match q.sort {
            Sort::Relevance => sightline_search::Sort::Relevance,
            Sort::Time => sightline_search::Sort::Time,
        },
        score: None,
        owner: q.owner,
    }
}

fn answer(r: SearchResponse) -> SearchAnswer {
    let t = r.timings;
    let hits = |hits: Vec<TrackHit>| hits.into_iter().map(|h| hit(h, &r.phrases)).collect();
    let lost = r.not_understood.into_iter().map(|n| NotUnderstoodView { text: n.text, why: n.why.to_string() });
    SearchAnswer {
        results: hits(r.hits),
        confident: r.confident,
        nearest_misses: hits(r.nearest_misses),
        not_understood: lost.collect(),
        nobody_fulfils: r.nobody_fulfils,
        expected_wrong: r.expected_wrong,
        next_cursor: r.next_cursor,
        timings: Timings { encode: t.encode, search: t.search, fetch: t.fetch, rerank: t.rerank, total: t.total },
        degraded: r.degraded,
    }
}

fn hit(h: TrackHit, asked: &[PhraseAsked]) -> Hit {
    let phrase = |(asked, probability): (&PhraseAsked, f32)| PhraseView {
        text: asked.text.clone(),
        probability,
        negated: asked.negated,
    };
    Hit {
        phrases: asked.iter().zip(h.phrases).map(phrase).collect(),
        sighting_id: h.sighting,
        camera: h.camera,
        track_id: h.track,
        first_seen: h.first_seen,
        last_seen: h.last_seen,
        captured_at: h.captured_at,
        crop: h.crop,
        bbox: h.bbox,
        similarity: h.similarity,
        match_logit: h.match_logit,
        hubness: h.hubness,
        probability: h.probability,
        score: h.score,
    }
}

fn search_error(e: SearchError) -> Error {
    match e {
        SearchError::Encode(EncodeError::EmptyQuery) => Error::EmptyQuery,
        SearchError::UnknownCursor => Error::InvalidCursor(e.to_string()),
        e if e.is_bad_request() => Error::Invalid(e.to_string()),
        SearchError::Encode(e) => Error::Unavailable { part: "the model", why: e.to_string() },
        SearchError::Store(e) => store_error(e),
        SearchError::Gallery(e) => gallery_error(e),
        e => Error::Internal(e.to_string()),
    }
}

fn store_error(e: StoreError) -> Error {
    Error::Unavailable { part: "the vector store", why: e.to_string() }
}

fn gallery_error(e: GalleryError) -> Error {
    Error::Unavailable { part: "the gallery", why: e.to_string() }
}
