//! From a former model to a new one: every stored picture is embedded anew, and the new model's index takes over when
//! nobody is missing from it.
//!
//! ```text
//! former index: ids --> not in the new one yet --> gallery: picture --> new model --> gallery: patch features
//!                                                                             --> new index: vector, payload
//! ```
//!
//! There is no cursor that could disagree with the data: what is done is what the new index holds. So a run that was killed,
//! however it was, goes on with whoever is missing; a sighting keeps its id, so nobody is there twice. Between two runs the
//! former model may serve: whom it erased meanwhile is erased from the half-done index ([`crate::AllModels`]), and a picture
//! that was replaced is embedded again.
//!
//! A picture that is missing or damaged stops nothing. Its sighting is named and left out: it stays in the former index, and
//! the new one does not take over until somebody has said that it may without ([`Outcome::left_out`]).

mod error;
mod indexes;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, PatchFeatures, SightingId, Timestamp};
use sightline_embed::{EmbedError, ImageFeatures};

pub use error::ReindexError;
pub use indexes::{Indexes, UNFINISHED, VECTORS, drop_others, open_embedded, resume_drop};

use error::check_room;

use crate::gallery::{Gallery, GalleryError};
use crate::store::{Filter, Payload, Point, Record, VectorStore};

/// Sightings compared in one call to each index.
const CHUNK: usize = 1000;

/// So much work at most is done again after a kill.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// A sighting that could not be embedded anew.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// The sighting.
    pub sighting: SightingId,
    /// Its camera.
    pub camera: CameraId,
    /// Capture time of its picture.
    pub captured_at: Timestamp,
    /// Why there are no features.
    pub why: String,
}

/// What a reindex tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// How far it is.
    Progress {
        /// Sightings that the new index holds.
        done: u64,
        /// Those of them that this run has embedded.
        embedded: u64,
        /// All sightings.
        total: u64,
        /// Sightings that could not be embedded.
        left_out: u64,
    },
    /// A sighting could not be embedded.
    LeftOut(&'a LeftOut),
}

/// What a reindex has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Sightings in the indexes of former models.
    pub total: u64,
    /// Those that the new index held already.
    pub found: u64,
    /// Those that this run has embedded.
    pub embedded: u64,
    /// Sightings taken out of the half-done index because they were erased meanwhile.
    pub erased: u64,
    /// Those that could not be embedded: their pictures are missing or damaged.
    pub left_out: Vec<LeftOut>,
    /// It was told to stop before everybody's turn had come.
    pub stopped: bool,
}

/// Features of encoded pictures, or why there are none.
pub type Embed<'a> = dyn Fn(&[Bytes]) -> Result<Vec<Result<ImageFeatures, String>>, EmbedError> + 'a;

/// The job: indexes, pictures, model.
pub struct Reindex<'a> {
    /// Indexes of former models. Of a sighting that several of them hold, the first tells.
    pub former: Vec<&'a dyn VectorStore>,
    /// The index of the new model.
    pub new: &'a dyn VectorStore,
    /// Nobody but those of the former indexes belongs into the new one, and each as they have them: it does not answer yet.
    pub unfinished: bool,
    /// The pictures, opened for the new model.
    pub gallery: &'a dyn Gallery,
    /// The new model.
    pub embed: &'a Embed<'a>,
    /// Sightings embedded and stored together.
    pub batch: usize,
    /// The data folder, where the new index lies on this machine's disk.
    pub disk: Option<&'a Path>,
    /// Ends it early, in good order.
    pub shutdown: &'a Shutdown,
}

/// Who is still to be embedded.
#[derive(Default)]
struct Plan {
    total: u64,
    erased: u64,
    /// By former index.
    missing: Vec<Vec<SightingId>>,
}

impl Plan {
    fn missing(&self) -> u64 {
        self.missing.iter().map(|ids| ids.len() as u64).sum()
    }
}

impl Reindex<'_> {
    /// Embeds everybody whom the new index lacks. Unless it was stopped, the new index then holds all but those left out,
    /// which is counted and not assumed. Durable when it returns.
    ///
    /// # Errors
    /// [`ReindexError`]; what was done before is kept.
    pub fn run(&self, tell: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, ReindexError> {
        let plan = self.plan()?;
        let found = plan.total - plan.missing();
        let mut outcome = Outcome { total: plan.total, found, erased: plan.erased, ..Outcome::default() };
        progress(&outcome, tell);
        let mut flushed = Instant::now();
        'all: for (former, missing) in self.former.iter().zip(&plan.missing) {
            for ids in missing.chunks(self.batch.max(1)) {
                if self.shutdown.is_triggered() {
                    outcome.stopped = true;
                    break 'all;
                }
                self.disk.map_or(Ok(()), check_room)?;
                self.embed_batch(former.get(ids)?, &mut outcome, tell)?;
                progress(&outcome, tell);
                if flushed.elapsed() >= FLUSH_EVERY {
                    self.new.flush()?;
                    flushed = Instant::now();
                }
            }
        }
        self.new.flush()?;
        if !outcome.stopped {
            let (missing, left_out) = (self.plan()?.missing(), outcome.left_out.len() as u64);
            if missing != left_out {
                return Err(ReindexError::Incomplete { missing, left_out });
            }
        }
        Ok(outcome)
    }

    /// Compares the indexes, and takes out of a half-done one whom the former ones hold no more.
    fn plan(&self) -> Result<Plan, ReindexError> {
        let (mut plan, mut known) = (Plan::default(), HashSet::new());
        for former in &self.former {
            let mut ids = former.ids(&Filter::default())?;
            ids.retain(|id| known.insert(*id));
            ids.sort_unstable();
            plan.total += ids.len() as u64;
            let mut missing = Vec::new();
            for ids in ids.chunks(CHUNK) {
                missing.extend(self.missing(former.get(ids)?)?);
            }
            plan.missing.push(missing);
        }
        if self.unfinished {
            let mut erased = self.new.ids(&Filter::default())?;
            erased.retain(|id| !known.contains(id));
            for ids in erased.chunks(CHUNK) {
                plan.erased += self.new.delete(&Filter::ids(ids.to_vec()))?;
            }
        }
        Ok(plan)
    }

    /// Those of `records` whom the new index lacks, or has another picture of. Spans of tracks that have grown since are
    /// brought up to date.
    fn missing(&self, records: Vec<Record>) -> Result<Vec<SightingId>, ReindexError> {
        let ids: Vec<SightingId> = records.iter().map(|r| r.id).collect();
        let there: HashMap<SightingId, Payload> = self.new.get(&ids)?.into_iter().map(|r| (r.id, r.payload)).collect();
        let mut missing = Vec::new();
        for Record { id, payload } in records {
            match there.get(&id) {
                None => missing.push(id),
                // An index that answers has its own picture of this slot.
                Some(_) if !self.unfinished => {}
                Some(old) if !same_picture(old, &payload) => missing.push(id),
                Some(old) if span(old) != span(&payload) => {
                    let Payload { camera, track, first_seen, last_seen, ended, .. } = payload;
                    self.new.end_track(&camera, track, first_seen, last_seen, ended)?;
                }
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// Patch features before vectors: whoever is found has them.
    fn embed_batch(
        &self,
        records: Vec<Record>,
        outcome: &mut Outcome,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ReindexError> {
        let mut leave_out = |record: &Record, why: String| {
            let Payload { camera, captured_at, .. } = &record.payload;
            let left = LeftOut { sighting: record.id, camera: camera.clone(), captured_at: *captured_at, why };
            tell(Event::LeftOut(&left));
            outcome.left_out.push(left);
        };
        let (mut pictured, mut jpegs) = (Vec::new(), Vec::new());
        for record in records {
            match self.gallery.jpeg(record.id) {
                Ok(Some(jpeg)) => {
                    pictured.push(record);
                    jpegs.push(jpeg);
                }
                Ok(None) => leave_out(&record, "its picture is not there".to_owned()),
                // One file that the disk does not give back. Object storage that fails, fails for all.
                Err(GalleryError::File(error)) => leave_out(&record, error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        let mut points = Vec::with_capacity(pictured.len());
        let mut patches: Vec<(SightingId, PatchFeatures)> = Vec::with_capacity(pictured.len());
        for (record, features) in pictured.into_iter().zip((self.embed)(&jpegs)?) {
            match features {
                Ok(features) => {
                    let payload = Payload { model_id: self.new.model_id().to_owned(), ..record.payload };
                    points.push(Point { id: record.id, vector: features.feature, payload });
                    patches.push((record.id, features.patches));
                }
                Err(why) => leave_out(&record, why),
            }
        }
        self.gallery.put_patches(&patches)?;
        self.new.upsert(&points)?;
        outcome.embedded += points.len() as u64;
        Ok(())
    }
}

fn progress(outcome: &Outcome, tell: &mut dyn FnMut(Event<'_>)) {
    let Outcome { total, found, embedded, .. } = *outcome;
    tell(Event::Progress { done: found + embedded, embedded, total, left_out: outcome.left_out.len() as u64 });
}

/// The time span of a payload's track.
fn span(payload: &Payload) -> (Timestamp, Timestamp, bool) {
    (payload.first_seen, payload.last_seen, payload.ended)
}

/// Whether two payloads are of one picture, by whichever model; the span of its track may have grown.
fn same_picture(one: &Payload, other: &Payload) -> bool {
    let (first_seen, last_seen, ended) = span(other);
    *other == Payload { first_seen, last_seen, ended, model_id: other.model_id.clone(), ..one.clone() }
}
