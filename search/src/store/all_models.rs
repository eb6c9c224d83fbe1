//! Store of the model that answers, together with the indexes of other models beside it.
//!
//! A model answers from its own vectors alone. But an erased or expired sighting must also be
//! deleted from the other indexes: a former model's index may be kept to go back to, and a new
//! one's may be half built. So deletions, and the lists of ids that they need, cover all indexes;
//! everything else goes to the model that answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

use super::{CameraExtent, Deleted, Filter, Point, Record, Scored, StoreError, VectorStore};

/// Ids per page of a deletion.
const CHUNK: usize = 1000;

/// [`VectorStore`] over the indexes of several models.
pub struct AllModels {
    answering: Arc<dyn VectorStore>,
    others: Vec<Arc<dyn VectorStore>>,
    /// Set when something was deleted since the other indexes were flushed; nothing else changes
    /// them.
    deleted: AtomicBool,
}

impl std::fmt::Debug for AllModels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let others: Vec<&str> = self.others.iter().map(|store| store.model_id()).collect();
        f.debug_struct("AllModels").field("answering", &self.model_id()).field("others", &others).finish()
    }
}

impl AllModels {
    /// Creates a store that answers from `answering` and deletes from `others` as well.
    pub fn new(answering: Arc<dyn VectorStore>, others: Vec<Arc<dyn VectorStore>>) -> Self {
        Self { answering, others, deleted: AtomicBool::new(false) }
    }

    fn all(&self) -> impl Iterator<Item = &dyn VectorStore> {
        std::iter::once(&self.answering).chain(&self.others).map(|store| &**store)
    }
}

impl VectorStore for AllModels {
    fn model_id(&self) -> &str {
        self.answering.model_id()
    }

    fn width(&self) -> usize {
        self.answering.width()
    }

    fn check(&self, points: &[Point]) -> Result<(), StoreError> {
        self.answering.check(points)
    }

    fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        self.answering.upsert(points)
    }

    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError> {
        self.answering.search(vector, limit, filter)
    }

    fn nearest_tracks(
        &self,
        vector: &[f32],
        wanted: usize,
        crops: usize,
        filter: &Filter,
    ) -> Result<Vec<Vec<Scored>>, StoreError> {
        self.answering.nearest_tracks(vector, wanted, crops, filter)
    }

    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        self.answering.get(ids)
    }

    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        self.answering.vectors(ids)
    }

    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.answering.newest(filter, limit)
    }

    /// Returns the ids of all models' points, each once.
    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError> {
        let mut ids = BTreeSet::new();
        for store in self.all() {
            ids.extend(store.scroll(filter, after, limit)?);
        }
        Ok(ids.into_iter().take(limit).collect())
    }

    /// Deletes from all models' indexes.
    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError> {
        self.deleted.store(true, Ordering::SeqCst);
        let mut deleted = Deleted::new();
        for store in self.all() {
            for (model, count) in store.delete_ids(ids)? {
                *deleted.entry(model).or_default() += count;
            }
        }
        Ok(deleted)
    }

    /// Deletes from all models' indexes; returns the number of distinct sightings.
    fn delete(&self, filter: &Filter) -> Result<u64, StoreError> {
        if filter.is_unrestricted() {
            return Err(StoreError::Unrestricted);
        }
        let (mut deleted, mut after) = (0, None);
        loop {
            let ids = self.scroll(filter, after, CHUNK)?;
            let Some(last) = ids.last() else { return Ok(deleted) };
            self.deleted.store(true, Ordering::SeqCst);
            // The filter is applied again: another picture may have replaced one of these.
            let again = Filter { ids: Some(ids.clone()), ..filter.clone() };
            for store in self.all() {
                store.delete(&again)?;
            }
            deleted += ids.len() as u64;
            after = Some(*last);
        }
    }

    fn end_track(
        &self,
        camera: &CameraId,
        track: TrackId,
        first: Timestamp,
        last: Timestamp,
        ended: bool,
    ) -> Result<u64, StoreError> {
        self.answering.end_track(camera, track, first, last, ended)
    }

    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.answering.estimate(filter)
    }

    fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.answering.count(filter)
    }

    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError> {
        self.answering.cameras()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.answering.flush()?;
        if self.deleted.swap(false, Ordering::SeqCst) {
            let flushed = self.others.iter().try_for_each(|store| store.flush());
            flushed.inspect_err(|_| self.deleted.store(true, Ordering::SeqCst))?;
        }
        Ok(())
    }

    fn optimize(&self) -> Result<bool, StoreError> {
        self.answering.optimize()
    }
}

#[cfg(test)]
mod tests {
    use sightline_core::ids::sighting_id;
    use sightline_core::{BBox, CropQuality};
    use uuid::Uuid;

    use super::*;
    use crate::store::{ExactStore, Payload};

    fn point(model: &str, camera: &str, at: i64) -> Point {
        let (camera, at): (CameraId, _) = (camera.parse().expect("a name"), Timestamp::from_micros(at));
        let track = TrackId { born: at, ordinal: 0 };
        let payload = Payload {
            camera: camera.clone(),
            track,
            crop_no: 0,
            captured_at: at,
            first_seen: at,
            last_seen: at,
            ended: false,
            bbox: BBox::default(),
            frame_size: (640, 480),
            quality: CropQuality::default(),
            model_id: model.to_owned(),
            trace: Uuid::nil(),
            crop: None,
        };
        Point { id: sighting_id(&camera, track, 0), vector: vec![1.0, 0.0], payload }
    }

    #[test]
    fn one_model_answers_and_all_models_forget() {
        let store = |model: &str, points: &[(&str, i64)]| -> Arc<dyn VectorStore> {
            let store = ExactStore::new(model, 2);
            let points: Vec<Point> = points.iter().map(|(camera, at)| point(model, camera, *at)).collect();
            store.upsert(&points).expect("stored");
            Arc::new(store)
        };
        let (new, former) = (store("new", &[("a", 1), ("b", 2)]), store("former", &[("a", 1), ("a", 3), ("b", 4)]));
        let all = AllModels::new(Arc::clone(&new), vec![Arc::clone(&former)]);
        assert_eq!((all.model_id(), all.count(&Filter::default()).expect("a number")), ("new", 2));
        assert_eq!(all.search(&[1.0, 0.0], 9, &Filter::default()).expect("found").len(), 2);
        assert_eq!(all.ids(&Filter::default()).expect("ids").len(), 4, "each once");
        assert!(matches!(all.delete(&Filter::default()), Err(StoreError::Unrestricted)));
        let a = Filter::camera("a".parse().expect("a name"));
        assert_eq!(all.delete(&a).expect("deleted"), 2, "one of them by the former model alone");
        all.flush().expect("flushed");
        for store in [&new, &former] {
            assert_eq!(store.count(&a).expect("a number"), 0);
            assert_eq!(store.count(&Filter::default()).expect("a number"), 1, "the others stay");
        }
    }
}
