//! Two-stage search: the nearest tracks by cosine, then the best of them re-ranked by the decoder.
//!
//! ```text
//! text, picture, stored picture -> one normalised vector -> nearest tracks (filter inside)
//!   -> patch features of the best K tracks -> decoder -> ranked hits -> first page, cursor for the others
//! ```
//!
//! A model that judges phrases gives each track a probability for each phrase of the text. A text
//! without a phrase gives it nothing to judge; the order is then by cosine, and the answer says so.

mod candidates;
mod pages;
mod phrases;
mod rank;
mod request;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sightline_core::config::{MAX_RERANK, SearchConfig};
use sightline_core::{CameraId, SightingId};

pub(crate) use candidates::CROPS_PER_TRACK;
pub use request::{Hit, PhraseTruth, SearchError, SearchRequest, SearchResponse, Sort, Timings};

use crate::encoder::{EncodedText, QueryEncoder};
use crate::erase::Journals;
use crate::gallery::Gallery;
use crate::store::{Filter, VectorStore};
use candidates::Candidate;
use pages::{Frozen, Page, SearchPages};
use phrases::QueryUnderstanding;

/// Smallest number of tracks that a search ranks, over all its pages.
pub const MIN_RANKED_TRACKS: usize = 200;
/// Ranked lists kept for further pages: for each owner, and over all owners. A list of 200 hits
/// takes about 60 kB.
const MAX_LISTS_OF_AN_OWNER: usize = 32;
const MAX_LISTS: usize = 512;
/// Time after its last use for which a list is kept.
const LIST_TTL: Duration = Duration::from_secs(600);

struct Parts {
    encoder: Arc<dyn QueryEncoder>,
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    /// Tombstones of what no answer may show.
    journals: Arc<Journals>,
    config: SearchConfig,
    pages: SearchPages,
}

/// Answers searches; clones share everything.
#[derive(Clone)]
pub struct Searcher {
    parts: Arc<Parts>,
}

impl std::fmt::Debug for Searcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searcher").field("model", &self.parts.encoder.model_id()).finish_non_exhaustive()
    }
}

impl Searcher {
    /// Creates a searcher over a store and a gallery of the encoder's own model, of which nothing
    /// is erased.
    ///
    /// # Errors
    /// [`SearchError::OtherModel`] when the store holds another model's vectors.
    pub fn new(
        encoder: Arc<dyn QueryEncoder>,
        store: Arc<dyn VectorStore>,
        gallery: Arc<dyn Gallery>,
        config: SearchConfig,
    ) -> Result<Self, SearchError> {
        Self::hiding(encoder, store, gallery, Arc::new(Journals::in_memory()), config)
    }

    /// Creates a searcher that shows nothing of what the tombstones in `journals` cover.
    pub(crate) fn hiding(
        encoder: Arc<dyn QueryEncoder>,
        store: Arc<dyn VectorStore>,
        gallery: Arc<dyn Gallery>,
        journals: Arc<Journals>,
        config: SearchConfig,
    ) -> Result<Self, SearchError> {
        let ours = (encoder.model_id(), encoder.width());
        let theirs = (store.model_id(), store.width());
        if ours != theirs {
            let name = |(id, width): (&str, usize)| format!("{id} with {width} values");
            return Err(SearchError::OtherModel { encoder: name(ours), store: name(theirs) });
        }
        let pages = SearchPages::new(MAX_LISTS_OF_AN_OWNER, MAX_LISTS, LIST_TTL);
        Ok(Self { parts: Arc::new(Parts { encoder, store, gallery, journals, config, pages }) })
    }

    /// Runs a search on a thread of the blocking pool. When the returned future is dropped, because
    /// nobody waits for the answer any more, the search ends before its next stage. `held` is
    /// dropped when the work ends, and not with the future: a permit goes there.
    ///
    /// # Errors
    /// [`SearchError`]; see [`SearchError::is_bad_request`].
    pub async fn search<G: Send + 'static>(
        &self,
        request: SearchRequest,
        held: G,
    ) -> Result<SearchResponse, SearchError> {
        let this = self.clone();
        let cancelled = Arc::new(AtomicBool::new(false));
        let _cancel = CancelOnDrop(Arc::clone(&cancelled));
        let work = move || {
            let answer = this.search_recorded(&request, &cancelled);
            drop(held);
            answer
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| SearchError::Broken)?
    }

    /// Returns the page of a cursor from an earlier answer to the same owner. Pictures that were
    /// deleted or erased meanwhile are left out, and so are those of other cameras than `cameras`,
    /// if given: the owner may see fewer than before.
    ///
    /// # Errors
    /// [`SearchError::UnknownCursor`], or the errors of the store.
    pub async fn next_page(
        &self,
        cursor: &str,
        owner: &str,
        cameras: Option<BTreeSet<CameraId>>,
    ) -> Result<SearchResponse, SearchError> {
        let (this, cursor, owner) = (self.clone(), cursor.to_owned(), owner.to_owned());
        tokio::task::spawn_blocking(move || this.next_page_blocking(&cursor, &owner, cameras.as_ref()))
            .await
            .map_err(|_| SearchError::Broken)?
    }

    /// Runs [`Searcher::search`] on the calling thread.
    ///
    /// # Errors
    /// The errors of [`Searcher::search`].
    pub fn search_blocking(&self, request: &SearchRequest) -> Result<SearchResponse, SearchError> {
        self.search_recorded(request, &AtomicBool::new(false))
    }

    /// Runs a search and records it in the metrics.
    fn search_recorded(&self, request: &SearchRequest, cancelled: &AtomicBool) -> Result<SearchResponse, SearchError> {
        metrics::counter!("sightline_search_requests_total").increment(1);
        let answer = self.parts.search(request, cancelled);
        match &answer {
            Ok(a) => {
                let parts = [
                    ("encode", a.timings.encode),
                    ("search", a.timings.search),
                    ("fetch", a.timings.fetch),
                    ("rerank", a.timings.rerank),
                    ("total", a.timings.total),
                ];
                for (part, ms) in parts {
                    metrics::histogram!("sightline_search_duration_seconds", "part" => part).record(ms * 1e-3);
                }
            }
            Err(e) if e.is_bad_request() => {}
            Err(SearchError::Cancelled) => metrics::counter!("sightline_search_cancelled_total").increment(1),
            Err(_) => metrics::counter!("sightline_search_errors_total").increment(1),
        }
        answer
    }

    /// Runs [`Searcher::next_page`] on the calling thread.
    ///
    /// # Errors
    /// The errors of [`Searcher::next_page`].
    pub fn next_page_blocking(
        &self,
        cursor: &str,
        owner: &str,
        cameras: Option<&BTreeSet<CameraId>>,
    ) -> Result<SearchResponse, SearchError> {
        let start = Instant::now();
        let parts = &self.parts;
        let Page { list, range, next_cursor } = parts.pages.read(cursor, owner).ok_or(SearchError::UnknownCursor)?;
        let visible = |hit: &Hit| parts.shows(hit) && cameras.is_none_or(|c| c.contains(&hit.camera));
        let mut elsewhere = list.hits.iter().enumerate().filter(|(at, _)| !range.contains(at)).map(|(_, hit)| hit);
        let likely_elsewhere = elsewhere.any(|hit| visible(hit) && parts.is_likely(hit));
        let mut hits: Vec<Hit> = list.hits[range.clone()].iter().filter(|hit| visible(hit)).cloned().collect();
        let ids: Vec<SightingId> = hits.iter().flat_map(|h| h.crops.iter().copied()).collect();
        let stored: HashMap<_, _> = parts.store.get(&ids)?.into_iter().map(|r| (r.id, r.payload)).collect();
        hits.retain_mut(|hit| {
            hit.crops.retain(|id| stored.contains_key(id));
            for payload in hit.crops.iter().filter_map(|id| stored.get(id)) {
                hit.first_seen = hit.first_seen.min(payload.first_seen);
                hit.last_seen = hit.last_seen.max(payload.last_seen);
                hit.ended |= payload.ended;
            }
            // The score belongs to this picture; without it there is nothing to show.
            stored.contains_key(&hit.sighting_id)
        });
        let ms = milliseconds(start);
        Ok(SearchResponse {
            query: list.query,
            expected_wrong: phrases::expected_wrong(&hits),
            confident: list.judged.then(|| likely_elsewhere || hits.iter().any(|hit| parts.is_likely(hit))),
            hits,
            nearest_misses: Vec::new(),
            phrases: list.understanding.phrases,
            not_understood: list.understanding.not_understood,
            nobody_fulfils: list.understanding.nobody_fulfils,
            next_cursor,
            timings: Timings { search: ms, total: ms, ..Timings::default() },
            degraded: list.degraded,
            model_id: parts.encoder.model_id().to_owned(),
        })
    }
}

/// Tells a search that nobody waits for it any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ends a search that nobody waits for.
fn check_cancelled(cancelled: &AtomicBool) -> Result<(), SearchError> {
    if cancelled.load(Ordering::Relaxed) { Err(SearchError::Cancelled) } else { Ok(()) }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// What a request asks for, as one vector.
struct Query {
    /// Global feature, L2-normalised.
    vector: Vec<f32>,
    /// Text that the decoder matches pictures against, if any.
    text: Option<EncodedText>,
    filter: Filter,
}

/// Ranked hits with what is known of them as a whole.
struct RankedResult {
    ranked: Vec<Hit>,
    /// Whether the decoder judged the text at all.
    judged: bool,
    understanding: QueryUnderstanding,
    degraded: Vec<String>,
}

impl Parts {
    fn search(&self, request: &SearchRequest, cancelled: &AtomicBool) -> Result<SearchResponse, SearchError> {
        let start = Instant::now();
        let rerank = request.rerank.unwrap_or(self.config.rerank);
        self.check(request, rerank)?;
        check_cancelled(cancelled)?;
        let query = self.encode(request)?;
        check_cancelled(cancelled)?;
        let mut timings = Timings { encode: milliseconds(start), ..Timings::default() };
        let mut degraded = Vec::new();
        if query.text.as_ref().is_some_and(|t| t.truncated) {
            degraded.push("the query is longer than the model reads; its end was not used".to_owned());
        }

        let searching = Instant::now();
        let judged = match &query.text {
            Some(text) if self.encoder.judges_phrases() && text.phrases.is_empty() => {
                degraded.push(
                    "the description states nothing that the model judges; the order is by similarity".to_owned(),
                );
                false
            }
            Some(_) => rerank > 0,
            None => false,
        };
        let to_rerank = if judged { rerank } else { 0 };
        let shown = to_rerank.max(request.limit);
        let found = candidates::find(&*self.store, &query.vector, &query.filter, shown.max(MIN_RANKED_TRACKS), shown)?;
        timings.search = milliseconds(searching);
        check_cancelled(cancelled)?;

        let mut matches = HashMap::new();
        if let Some(text) = query.text.as_ref().filter(|_| to_rerank > 0) {
            let fetching = Instant::now();
            let best = &found[..to_rerank.min(found.len())];
            let fetched = rank::fetch_features(&*self.gallery, best, self.encoder.patch_shape());
            timings.fetch = milliseconds(fetching);
            check_cancelled(cancelled)?;
            let judging = Instant::now();
            let scores = rank::score_pictures(&*self.encoder, text, fetched)?;
            degraded.extend(scores.degraded());
            matches = scores.matches;
            if let Some(persons) = self.encoder.persons() {
                rank::adjust_to_track_count(&mut matches, persons, self.tracks(&found, to_rerank, &query.filter)?);
            }
            timings.rerank = milliseconds(judging);
        }
        let form = request.score.unwrap_or(self.config.score);
        let asked = query.text.as_ref().map(|text| text.phrases.as_slice()).unwrap_or_default();
        let mut ranked = rank::rank(found, &matches, asked, form, request.sort);
        // An erasure may have begun since the filter was made. Everything that is said of the hits
        // as a whole comes after this.
        ranked.retain(|hit| self.shows(hit));

        let understanding = query.text.map(|text| QueryUnderstanding::of(text, &ranked)).unwrap_or_default();
        let mut answer = self.answer(request, RankedResult { ranked, judged, understanding, degraded });
        timings.total = milliseconds(start);
        answer.timings = timings;
        Ok(answer)
    }

    /// Whether a hit may be shown: no erasure covers it.
    fn shows(&self, hit: &Hit) -> bool {
        !self.journals.tombstones().covers(&hit.camera, hit.track_id, hit.captured_at)
    }

    /// Whether a hit reaches the probability that makes an answer confident.
    fn is_likely(&self, hit: &Hit) -> bool {
        hit.probability.is_some_and(|p| p >= self.config.confident_probability)
    }

    /// Estimates the number of tracks that match `filter`: the tracks found, when those are all,
    /// otherwise the number of pictures divided by the pictures per track of the first `complete`
    /// tracks.
    fn tracks(&self, found: &[Candidate], complete: usize, filter: &Filter) -> Result<f32, SearchError> {
        if found.len() < MIN_RANKED_TRACKS {
            return Ok(found.len() as f32);
        }
        let whole = &found[..complete.min(found.len())];
        let pictures: usize = whole.iter().map(|c| c.crops.len()).sum();
        Ok(self.store.estimate(filter)? as f32 * whole.len() as f32 / pictures.max(1) as f32)
    }

    /// Builds the answer: the first page of hits, or the nearest misses when no hit reaches the
    /// minimum probability.
    fn answer(&self, request: &SearchRequest, result: RankedResult) -> SearchResponse {
        let RankedResult { ranked, judged, understanding, degraded } = result;
        let passes = |hit: &Hit| request.min_probability.is_none_or(|p| hit.probability.is_some_and(|q| q >= p));
        let confident = judged.then(|| ranked.iter().any(|hit| passes(hit) && self.is_likely(hit)));
        let model_id = self.encoder.model_id().to_owned();
        let mut answer = SearchResponse {
            query: request.query.clone(),
            confident,
            degraded: degraded.clone(),
            model_id,
            phrases: understanding.phrases.clone(),
            not_understood: understanding.not_understood.clone(),
            nobody_fulfils: understanding.nobody_fulfils.clone(),
            ..SearchResponse::default()
        };
        let (all, below): (Vec<Hit>, Vec<Hit>) = ranked.into_iter().partition(passes);
        if all.is_empty() {
            answer.nearest_misses = below.into_iter().take(request.limit).collect();
            return answer;
        }
        answer.hits = all.iter().take(request.limit).cloned().collect();
        answer.expected_wrong = phrases::expected_wrong(&answer.hits);
        let (owner, query, limit) = (request.owner.clone(), request.query.clone(), request.limit);
        let list = Frozen { owner, query, hits: all, limit, judged, degraded, understanding };
        answer.next_cursor = self.pages.freeze(list);
        answer
    }

    fn check(&self, request: &SearchRequest, rerank: usize) -> Result<(), SearchError> {
        if request.query.is_none() && request.image.is_none() && request.like.is_none() {
            return Err(SearchError::Empty);
        }
        if !(1..=self.config.max_limit).contains(&request.limit) {
            return Err(SearchError::Limit { got: request.limit, max: self.config.max_limit });
        }
        if rerank > MAX_RERANK {
            return Err(SearchError::Rerank { got: rerank, max: MAX_RERANK });
        }
        if let Some(p) = request.min_probability
            && (!(0.0..=1.0).contains(&p) || request.query.is_none() || rerank == 0)
        {
            return Err(SearchError::MinProbability(p));
        }
        let filter = &request.filter;
        for range in [(filter.from, filter.to), (filter.seen_from, filter.seen_to)] {
            if let (Some(from), Some(to)) = range
                && from > to
            {
                return Err(SearchError::TimeRange { from, to });
            }
        }
        Ok(())
    }

    /// Combines all parts of the query into one vector.
    fn encode(&self, request: &SearchRequest) -> Result<Query, SearchError> {
        let mut features = Vec::new();
        let mut filter = request.filter.clone();
        if let Some(id) = request.like {
            let (record, vector) = self.store.vectors(&[id])?.pop().ok_or(SearchError::UnknownSighting(id))?;
            features.push(vector);
            filter.exclude.extend(self.store.ids(&Filter::track(record.payload.camera, record.payload.track))?);
        }
        if let Some(image) = &request.image {
            features.push(self.encoder.embed_image(image)?);
        }
        let text = request.query.as_deref().map(|q| self.encoder.encode_text(q)).transpose()?;
        features.extend(text.as_ref().map(|t| t.feature.clone()));

        let mut vector = vec![0.0f32; self.encoder.width()];
        for feature in &features {
            for (sum, x) in vector.iter_mut().zip(feature) {
                *sum += x;
            }
        }
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        // Below this norm the direction is rounding noise.
        if !norm.is_finite() || norm < 1e-4 {
            return Err(SearchError::NoDirection);
        }
        for x in &mut vector {
            *x /= norm;
        }
        Ok(Query { vector, text, filter })
    }
}
