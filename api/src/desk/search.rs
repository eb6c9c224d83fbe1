//! Searches: scope, permit, audit record, then the index.
//!
//! The order of the steps matters: first the scope, then the example picture, then the audit record
//! (a search that cannot be recorded is not run), then the permit and the search. The coverage is
//! read last, so that it is as recent as the results.

use std::time::Duration;

use serde_json::json;
use sightline_core::config::SearchConfig;
use sightline_embed::decode_image_within;
use sightline_search::{SearchRequest, SearchResponse};

use super::{Desk, Operator};
use crate::cameras::CameraView;
use crate::error::Error;
use crate::gauges::record_permits;

/// Largest area of an example picture in pixels. A small file may declare enormous dimensions, and
/// no more of a person is used than some 256 x 128 pixels.
const MAX_IMAGE_PIXELS: u64 = 4_000_000;

/// Time limit of a search, the wait for its permit included.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for a permit. Whoever waits longer is told to come back later.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A search as a caller asks for it. Every limit that needs no look-up holds already.
#[derive(Debug, Default)]
pub struct SearchOrder {
    /// The search. Its filter has times alone, and its owner is ignored: both are set here.
    pub request: SearchRequest,
    /// Example picture as the caller sent it: JPEG or PNG.
    pub image: Option<Vec<u8>>,
    /// Cameras to search; `None`: all that the caller may see.
    pub cameras: Option<Vec<String>>,
    /// Cursor of an earlier answer to the same caller. Everything else is the earlier search's.
    pub cursor: Option<String>,
    /// Purpose, for the audit trail.
    pub purpose: Option<String>,
}

/// What a search found, and in which footage.
pub struct Found {
    /// Hits of one page, with what is said of them as a whole.
    pub answer: SearchResponse,
    /// State of the cameras that were searched, read after the hits.
    pub cameras: Vec<CameraView>,
}

impl Desk<Operator> {
    /// Returns the configuration section `[search]`.
    pub fn search_config(&self) -> &SearchConfig {
        self.app.search_config()
    }

    /// Finds people by a description, an example picture, or both.
    ///
    /// # Errors
    /// [`Error::Invalid`] and its kind for the request, [`Error::Busy`] when too many searches run,
    /// or [`Error::Unavailable`] with the part that is down.
    pub async fn search(&self, order: SearchOrder) -> Result<Found, Error> {
        tokio::time::timeout(SEARCH_TIMEOUT, self.search_now(order)).await.map_err(|_| Error::Unavailable {
            part: "search",
            why: format!("no answer within {} s; the machine is overloaded", SEARCH_TIMEOUT.as_secs()),
        })?
    }

    async fn search_now(&self, order: SearchOrder) -> Result<Found, Error> {
        let SearchOrder { mut request, image, cameras, cursor, purpose } = order;
        let index = self.index()?;
        let mut scope = self.scope(cameras.as_deref()).await?;
        if let Some(cursor) = cursor {
            let answer = index.next_page(&cursor, &self.caller.id, self.caller.cameras.clone()).await?;
            self.record("search", purpose, json!({ "query": answer.query, "cursor": true })).await?;
            return Ok(Found { answer, cameras: self.app.camera_views(&scope.cameras, false).await });
        }
        (scope.filter.seen_from, scope.filter.seen_to) = (request.filter.seen_from, request.filter.seen_to);
        request.filter = scope.filter;
        request.owner = self.caller.id.clone();
        if let Some(id) = request.like {
            // A picture outside the token's scope must not even serve as the example.
            let example = index.sighting(id).await?;
            if !example.is_some_and(|example| self.caller.sees(&example.payload.camera)) {
                return Err(Error::Invalid(format!("like: there is no sighting {id}")));
            }
        }
        // Examples are decoded under the permit, too: each takes memory and time of its own.
        let permit = self.permit().await?;
        if let Some(bytes) = image {
            let decoded = tokio::task::spawn_blocking(move || decode_image_within(&bytes, MAX_IMAGE_PIXELS)).await;
            let decoded = decoded.map_err(|e| Error::Internal(format!("decoding the example: {e}")))?;
            request.image = Some(decoded.map_err(|e| Error::InvalidImage(e.to_string()))?);
        }
        let detail = json!({
            "query": request.query, "image": request.image.is_some(), "like": request.like,
            "cameras": request.filter.cameras, "from": request.filter.seen_from, "to": request.filter.seen_to,
            "limit": request.limit, "min_probability": request.min_probability, "cursor": false,
        });
        self.record("search", purpose, detail).await?;
        let answer = index.search(request, permit).await?;
        Ok(Found { answer, cameras: self.app.camera_views(&scope.cameras, false).await })
    }

    async fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        match tokio::time::timeout(PERMIT_TIMEOUT, self.app.search_permits().acquire_owned()).await {
            Ok(Ok(permit)) => {
                record_permits(&self.app);
                Ok(permit)
            }
            _ => {
                metrics::counter!("sightline_api_searches_refused_total").increment(1);
                Err(Error::Busy { retry_after_s: PERMIT_TIMEOUT.as_secs() })
            }
        }
    }
}
