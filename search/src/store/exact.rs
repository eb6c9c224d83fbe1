//! In-memory store that compares every vector exactly: the reference for the other stores, and a
//! fast substitute in tests that need no disk. Nothing survives the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

use super::{CameraExtent, Deleted, Filter, Payload, Point, Record, Scored, StoreError, VectorStore, check_vector};

type Points = HashMap<SightingId, (Vec<f32>, Payload)>;

/// [`VectorStore`] in memory.
#[derive(Debug)]
pub struct ExactStore {
    model_id: String,
    width: usize,
    points: RwLock<Points>,
}

impl ExactStore {
    /// Creates an empty store for vectors of `width` values of the model `model_id`.
    pub fn new(model_id: impl Into<String>, width: usize) -> Self {
        Self { model_id: model_id.into(), width, points: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Points> {
        self.points.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Points> {
        self.points.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn normalised(v: &[f32]) -> Vec<f32> {
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    v.iter().map(|x| x / norm).collect()
}

impl VectorStore for ExactStore {
    fn model_id(&self) -> &str {
        &self.model_id
    }

    fn width(&self) -> usize {
        self.width
    }

    fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        self.check(points)?;
        let mut stored = self.write();
        for p in points {
            let mut payload = p.payload.clone();
            if let Some((_, old)) = stored.get(&p.id) {
                payload.widen(old.first_seen, old.last_seen, old.ended);
            }
            stored.insert(p.id, (normalised(&p.vector), payload));
        }
        Ok(())
    }

    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError> {
        check_vector(vector, self.width)?;
        let query = normalised(vector);
        let mut found: Vec<Scored> = self
            .read()
            .iter()
            .filter(|(id, (_, payload))| filter.matches(**id, payload))
            .map(|(id, (v, payload))| Scored {
                id: *id,
                cosine: v.iter().zip(&query).map(|(a, b)| a * b).sum(),
                payload: payload.clone(),
            })
            .collect();
        found.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.id.cmp(&b.id)));
        found.truncate(limit);
        Ok(found)
    }

    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        Ok(self.vectors(ids)?.into_iter().map(|(record, _)| record).collect())
    }

    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        let stored = self.read();
        let one = |id: &SightingId| {
            stored.get(id).map(|(v, payload)| (Record { id: *id, payload: payload.clone() }, v.clone()))
        };
        Ok(ids.iter().filter_map(one).collect())
    }

    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError> {
        let mut found = self.get(&self.ids(filter)?)?;
        found.sort_by_key(|r| (std::cmp::Reverse(r.payload.captured_at), r.id));
        found.truncate(limit);
        Ok(found)
    }

    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError> {
        let stored = self.read();
        let behind = stored.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        let mut ids: Vec<_> = behind.filter(|(id, (_, p))| filter.matches(**id, p)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.truncate(limit);
        Ok(ids)
    }

    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError> {
        let mut stored = self.write();
        let deleted = ids.iter().filter(|id| stored.remove(id).is_some()).count() as u64;
        Ok([(self.model_id.clone(), deleted)].into())
    }

    fn delete(&self, filter: &Filter) -> Result<u64, StoreError> {
        if filter.is_unrestricted() {
            return Err(StoreError::Unrestricted);
        }
        let mut stored = self.write();
        let before = stored.len();
        stored.retain(|id, (_, payload)| !filter.matches(*id, payload));
        Ok((before - stored.len()) as u64)
    }

    fn end_track(
        &self,
        camera: &CameraId,
        track: TrackId,
        first: Timestamp,
        last: Timestamp,
        ended: bool,
    ) -> Result<u64, StoreError> {
        let mut stored = self.write();
        let mut of_track: Vec<&mut Payload> =
            stored.values_mut().map(|(_, p)| p).filter(|p| p.camera == *camera && p.track == track).collect();
        let span = of_track
            .iter()
            .fold((first, last, ended), |(f, l, e), p| (f.min(p.first_seen), l.max(p.last_seen), e || p.ended));
        for payload in &mut of_track {
            payload.widen(span.0, span.1, span.2);
        }
        Ok(of_track.len() as u64)
    }

    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.count(filter)
    }

    fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        Ok(self.read().iter().filter(|(id, (_, p))| filter.matches(**id, p)).count() as u64)
    }

    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError> {
        let mut cameras: BTreeMap<CameraId, CameraExtent> = BTreeMap::new();
        for (_, payload) in self.read().values() {
            let at = payload.captured_at;
            let extent = cameras.entry(payload.camera.clone()).or_insert_with(|| CameraExtent {
                camera: payload.camera.clone(),
                points: 0,
                first: at,
                last: at,
            });
            extent.points += 1;
            extent.first = extent.first.min(at);
            extent.last = extent.last.max(at);
        }
        Ok(cameras.into_values().collect())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn optimize(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}
