//! Reindex: embeds every stored picture with a new model; the new index takes over when it is
//! complete.
//!
//! ```text
//! former index: ids --> not in the new one yet --> gallery: picture --> new model --> gallery: patch features
//!                                                                             --> new index: vector, payload
//! ```
//!
//! There is no cursor that could disagree with the data: the new index itself tells what is done.
//! So a run that was killed resumes with the sightings that are missing; a sighting keeps its id,
//! so none appears twice. The former model may serve between two runs: its erasures also apply to
//! the half-built index ([`crate::AllModels`]), and a picture that was replaced is embedded again.
//!
//! A missing or damaged picture does not stop the run. Its sighting is reported and left out: it
//! stays in the former index, and the new index does not take over until the operator accepts that
//! ([`Outcome::left_out`]).

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
use crate::picture::PictureKey;
use crate::store::{Filter, Payload, Point, Record, VectorStore};

/// Sightings compared in one call to each index.
const CHUNK: usize = 1000;

/// Interval between flushes: at most this much work is repeated after a kill.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// A sighting that could not be embedded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// Id of the sighting.
    pub sighting: SightingId,
    /// Id of its camera.
    pub camera: CameraId,
    /// Capture time of its picture.
    pub captured_at: Timestamp,
    /// Reason why it has no features.
    pub why: String,
}

/// Progress event of a running reindex.
#[derive(Debug)]
pub enum Event<'a> {
    /// Progress of the run.
    Progress {
        /// Sightings that the new index holds.
        done: u64,
        /// Those of them that this run has embedded.
        embedded: u64,
        /// Sightings in the indexes of former models.
        total: u64,
        /// Sightings that could not be embedded.
        left_out: u64,
    },
    /// A sighting could not be embedded.
    LeftOut(&'a LeftOut),
}

/// Counts of a finished or stopped reindex.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Sightings in the indexes of former models.
    pub total: u64,
    /// Sightings that the new index held already.
    pub found: u64,
    /// Sightings that this run has embedded.
    pub embedded: u64,
    /// Sightings deleted from the half-built index because they were erased meanwhile.
    pub erased: u64,
    /// Sightings that could not be embedded: their pictures are missing or damaged.
    pub left_out: Vec<LeftOut>,
    /// Whether the run was stopped before it was complete.
    pub stopped: bool,
}

/// Computes the features of JPEGs, or the reason why one has none.
pub type Embed<'a> = dyn Fn(&[Bytes]) -> Result<Vec<Result<ImageFeatures, String>>, EmbedError> + 'a;

/// A reindex job: indexes, pictures and model.
pub struct Reindex<'a> {
    /// Indexes of former models. For a sighting in several of them, the first supplies the
    /// metadata.
    pub former: Vec<&'a dyn VectorStore>,
    /// Index of the new model.
    pub new: &'a dyn VectorStore,
    /// Whether the new index does not answer yet. Then it may hold only sightings of the former
    /// indexes, each with their metadata.
    pub unfinished: bool,
    /// Gallery, opened for the new model.
    pub gallery: &'a dyn Gallery,
    /// The new model.
    pub embed: &'a Embed<'a>,
    /// Number of sightings embedded and stored together.
    pub batch: usize,
    /// Data folder, if the new index is on this machine's disk.
    pub disk: Option<&'a Path>,
    /// Ends the run early and in good order.
    pub shutdown: &'a Shutdown,
}

/// Sightings that still have to be embedded.
#[derive(Default)]
struct Plan {
    total: u64,
    erased: u64,
    /// Missing sightings, by former index.
    missing: Vec<Vec<SightingId>>,
}

impl Plan {
    fn missing(&self) -> u64 {
        self.missing.iter().map(|ids| ids.len() as u64).sum()
    }
}

impl Reindex<'_> {
    /// Embeds every sighting that the new index lacks. Unless it was stopped, the new index then
    /// holds all except those left out, which a count verifies. Durable when it returns.
    ///
    /// # Errors
    /// [`ReindexError`]; finished work is kept.
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

    /// Compares the indexes, and deletes from a half-built one what the former ones no longer hold.
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

    /// Returns those of `records` that the new index lacks or has with another picture. Updates the
    /// spans of tracks that have grown since.
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

    /// Stores patch features before vectors, so that every found sighting has them.
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
            match self.gallery.jpeg(record.key()) {
                Ok(Some(jpeg)) => {
                    pictured.push(record);
                    jpegs.push(jpeg);
                }
                Ok(None) => leave_out(&record, "its picture is not there".to_owned()),
                // A single file that the disk cannot read. A failure of object storage concerns all
                // pictures.
                Err(GalleryError::File(error)) => leave_out(&record, error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        let mut points = Vec::with_capacity(pictured.len());
        let mut patches: Vec<(PictureKey, PatchFeatures)> = Vec::with_capacity(pictured.len());
        for (record, features) in pictured.into_iter().zip((self.embed)(&jpegs)?) {
            match features {
                Ok(features) => {
                    patches.push((record.key(), features.patches));
                    let payload = Payload { model_id: self.new.model_id().to_owned(), ..record.payload };
                    points.push(Point { id: record.id, vector: features.feature, payload });
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

/// Time span of a payload's track.
fn span(payload: &Payload) -> (Timestamp, Timestamp, bool) {
    (payload.first_seen, payload.last_seen, payload.ended)
}

/// Whether two payloads belong to the same picture, of whichever model; the span of its track may
/// have grown.
fn same_picture(one: &Payload, other: &Payload) -> bool {
    let (first_seen, last_seen, ended) = span(other);
    *other == Payload { first_seen, last_seen, ended, model_id: other.model_id.clone(), ..one.clone() }
}
