//! The two-stage search: the nearest tracks by cosine, then the best of them judged by the decoder.
//!
//! ```text
//! text, picture, stored picture -> one normalised vector -> nearest tracks (filter inside)
//!   -> patch features of the best K tracks -> decoder -> ranked hits -> first page, cursor for the others
//! ```
//!
//! A model that judges phrases says of every track how likely each phrase of the text is true of it. A text without a phrase
//! gives it nothing to judge: then the order is by cosine, and the answer says so.

mod candidates;
mod pages;
mod phrases;
mod rank;
mod request;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sightline_core::SightingId;
use sightline_core::config::SearchConfig;

pub use request::{SearchError, SearchRequest, SearchResponse, Sort, Timings, TrackHit};

use crate::encoder::{EncodedText, QueryEncoder};
use crate::gallery::Gallery;
use crate::store::{Filter, VectorStore};
use candidates::Candidate;
use pages::{Frozen, SearchPages};
use phrases::Said;

/// Tracks that a search ranks at least, over all its pages.
const DEPTH: usize = 200;
/// Largest number of tracks that one search may re-rank: each costs up to three passes of the decoder.
const MAX_RERANK: usize = 256;
/// Ranked lists kept for their next pages, and for how long. A list of 200 hits takes some 60 kB.
const LISTS: usize = 64;
const KEEP: Duration = Duration::from_secs(600);

struct Parts {
    encoder: Arc<dyn QueryEncoder>,
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    config: SearchConfig,
    pages: SearchPages,
}

/// Answers searches. Clones share everything.
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
    /// A searcher over a store and a gallery of the encoder's own model.
    ///
    /// # Errors
    /// [`SearchError::OtherModel`] when the store holds another model's vectors.
    pub fn new(
        encoder: Arc<dyn QueryEncoder>,
        store: Arc<dyn VectorStore>,
        gallery: Arc<dyn Gallery>,
        config: SearchConfig,
    ) -> Result<Self, SearchError> {
        let ours = (encoder.model_id(), encoder.width());
        let theirs = (store.model_id(), store.width());
        if ours != theirs {
            let name = |(id, width): (&str, usize)| format!("{id} with {width} values");
            return Err(SearchError::OtherModel { encoder: name(ours), store: name(theirs) });
        }
        let pages = SearchPages::new(LISTS, KEEP);
        Ok(Self { parts: Arc::new(Parts { encoder, store, gallery, config, pages }) })
    }

    /// Searches, on a thread that may block.
    ///
    /// # Errors
    /// [`SearchError`]; see [`SearchError::is_bad_request`].
    pub async fn search(&self, request: SearchRequest) -> Result<SearchResponse, SearchError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.search_blocking(&request)).await.map_err(|_| SearchError::Broken)?
    }

    /// The page of a cursor that an earlier answer to the same asker gave. What was deleted meanwhile is left out.
    ///
    /// # Errors
    /// [`SearchError::UnknownCursor`], or the store's.
    pub async fn next_page(&self, cursor: &str, owner: &str) -> Result<SearchResponse, SearchError> {
        let (this, cursor, owner) = (self.clone(), cursor.to_owned(), owner.to_owned());
        tokio::task::spawn_blocking(move || this.next_page_blocking(&cursor, &owner))
            .await
            .map_err(|_| SearchError::Broken)?
    }

    /// As [`Searcher::search`], on the calling thread.
    ///
    /// # Errors
    /// As [`Searcher::search`].
    pub fn search_blocking(&self, request: &SearchRequest) -> Result<SearchResponse, SearchError> {
        metrics::counter!("sightline_search_requests_total").increment(1);
        let answer = self.parts.search(request);
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
            Err(_) => metrics::counter!("sightline_search_errors_total").increment(1),
        }
        answer
    }

    /// As [`Searcher::next_page`], on the calling thread.
    ///
    /// # Errors
    /// As [`Searcher::next_page`].
    pub fn next_page_blocking(&self, cursor: &str, owner: &str) -> Result<SearchResponse, SearchError> {
        let start = Instant::now();
        let parts = &self.parts;
        let mut page = parts.pages.read(cursor, owner).ok_or(SearchError::UnknownCursor)?;
        let ids: Vec<SightingId> = page.hits.iter().flat_map(|h| h.crops.iter().copied()).collect();
        let stored: HashMap<_, _> = parts.store.get(&ids)?.into_iter().map(|r| (r.id, r.payload)).collect();
        page.hits.retain_mut(|hit| {
            hit.crops.retain(|id| stored.contains_key(id));
            for payload in hit.crops.iter().filter_map(|id| stored.get(id)) {
                hit.first_seen = hit.first_seen.min(payload.first_seen);
                hit.last_seen = hit.last_seen.max(payload.last_seen);
                hit.ended |= payload.ended;
            }
            // What was judged is the picture; without it there is nothing to show.
            stored.contains_key(&hit.sighting)
        });
        let ms = milliseconds(start);
        Ok(SearchResponse {
            expected_wrong: phrases::expected_wrong(&page.hits),
            hits: page.hits,
            confident: true,
            nearest_misses: Vec::new(),
            phrases: page.said.phrases,
            not_understood: page.said.not_understood,
            nobody_fulfils: page.said.nobody_fulfils,
            next_cursor: page.next_cursor,
            timings: Timings { search: ms, total: ms, ..Timings::default() },
            degraded: page.degraded,
            model_id: parts.encoder.model_id().to_owned(),
        })
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A query, ready to search with.
struct Query {
    /// L2-normalised.
    vector: Vec<f32>,
    /// What judges the matches, if anything does.
    text: Option<EncodedText>,
    filter: Filter,
}

/// What is known of the ranked hits as a whole.
struct Findings {
    ranked: Vec<TrackHit>,
    /// That the first is somebody who was looked for.
    claim: Claim,
    said: Said,
    degraded: Vec<String>,
}

/// What a search may claim of its hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// The decoder judged: what it says counts.
    Judged,
    /// By picture, or without the decoder as asked: that something was found is all that is said.
    Found,
    /// By a text that says nothing the model judges.
    Nothing,
}

impl Parts {
    fn search(&self, request: &SearchRequest) -> Result<SearchResponse, SearchError> {
        let start = Instant::now();
        let rerank = request.rerank.unwrap_or(self.config.rerank);
        self.check(request, rerank)?;
        let query = self.encode(request)?;
        let mut timings = Timings { encode: milliseconds(start), ..Timings::default() };
        let mut degraded = Vec::new();
        if query.text.as_ref().is_some_and(|t| t.truncated) {
            degraded.push("the query is longer than the model reads; its end was not used".to_owned());
        }

        let searching = Instant::now();
        let claim = match &query.text {
            Some(text) if self.encoder.judges_phrases() && text.phrases.is_empty() => {
                degraded.push(
                    "the description states nothing that the model judges; the order is by similarity".to_owned(),
                );
                Claim::Nothing
            }
            Some(_) if rerank > 0 => Claim::Judged,
            _ => Claim::Found,
        };
        let to_judge = if claim == Claim::Judged { rerank } else { 0 };
        let shown = to_judge.max(request.limit);
        let found = candidates::find(&*self.store, &query.vector, &query.filter, shown.max(DEPTH), shown)?;
        timings.search = milliseconds(searching);

        let mut matches = HashMap::new();
        if let Some(text) = query.text.as_ref().filter(|_| to_judge > 0) {
            let fetching = Instant::now();
            let best = &found[..to_judge.min(found.len())];
            let fetched = rank::fetch(&*self.gallery, best, self.encoder.patch_shape());
            timings.fetch = milliseconds(fetching);
            let judging = Instant::now();
            let judged = rank::judge(&*self.encoder, text, fetched)?;
            degraded.extend(judged.degraded());
            matches = judged.matches;
            if let Some(persons) = self.encoder.persons() {
                rank::among(&mut matches, persons, self.tracks(&found, to_judge, &query.filter)?);
            }
            timings.rerank = milliseconds(judging);
        }
        let form = request.score.unwrap_or(self.config.score);
        let ranked = rank::rank(found, &matches, form, request.sort);

        let said = query.text.map(|text| Said::of(text, &ranked)).unwrap_or_default();
        let mut answer = self.answer(request, Findings { ranked, claim, said, degraded });
        timings.total = milliseconds(start);
        answer.timings = timings;
        Ok(answer)
    }

    /// Tracks that `filter` keeps: those found, when that is all of them, else by the number of pictures and how many of them
    /// each of the first `complete` tracks has.
    fn tracks(&self, found: &[Candidate], complete: usize, filter: &Filter) -> Result<f32, SearchError> {
        if found.len() < DEPTH {
            return Ok(found.len() as f32);
        }
        let whole = &found[..complete.min(found.len())];
        let pictures: usize = whole.iter().map(|c| c.crops.len()).sum();
        Ok(self.store.count(filter)? as f32 * whole.len() as f32 / pictures.max(1) as f32)
    }

    /// Hits, and the cursor behind them when some are confident; the nearest misses when the floor leaves nobody.
    fn answer(&self, request: &SearchRequest, findings: Findings) -> SearchResponse {
        let Findings { ranked, claim, said, degraded } = findings;
        let reaches = |hit: &TrackHit, p: f32| hit.probability.is_some_and(|q| q >= p);
        let passes = |hit: &TrackHit| request.min_probability.is_none_or(|p| reaches(hit, p));
        let confident = match claim {
            Claim::Judged => ranked.iter().any(|h| passes(h) && reaches(h, self.config.confident_probability)),
            Claim::Found => !ranked.is_empty(),
            Claim::Nothing => false,
        };
        let model_id = self.encoder.model_id().to_owned();
        let mut answer = SearchResponse {
            confident,
            degraded: degraded.clone(),
            model_id,
            phrases: said.phrases.clone(),
            not_understood: said.not_understood.clone(),
            nobody_fulfils: said.nobody_fulfils.clone(),
            ..SearchResponse::default()
        };
        let (all, below): (Vec<TrackHit>, Vec<TrackHit>) = ranked.into_iter().partition(passes);
        if all.is_empty() {
            answer.nearest_misses = below.into_iter().take(request.limit).collect();
            return answer;
        }
        answer.hits = all.iter().take(request.limit).cloned().collect();
        answer.expected_wrong = phrases::expected_wrong(&answer.hits);
        // What nobody vouches for ends with its first page.
        if confident {
            let list = Frozen { owner: request.owner.clone(), hits: all, limit: request.limit, degraded, said };
            answer.next_cursor = self.pages.freeze(list);
        }
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
        if let (Some(from), Some(to)) = (request.filter.from, request.filter.to)
            && from > to
        {
            return Err(SearchError::TimeRange { from, to });
        }
        Ok(())
    }

    /// All parts of the query as one vector.
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
        // Below this the direction is rounding noise.
        if !norm.is_finite() || norm < 1e-4 {
            return Err(SearchError::NoDirection);
        }
        for x in &mut vector {
            *x /= norm;
        }
        Ok(Query { vector, text, filter })
    }
}
