//! Stage one of a search: the tracks whose pictures are nearest to the query.

use std::collections::HashMap;

use sightline_core::ids::sighting_id;
use sightline_core::{CameraId, SightingId, TrackId};

use crate::store::{Filter, Scored, StoreError, VectorStore};

/// Largest number of pictures per track (design, section 2).
pub(crate) const CROPS_PER_TRACK: usize = 3;

/// A track with those of its pictures that match the filter, nearest first: one to three.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub camera: CameraId,
    pub track: TrackId,
    pub crops: Vec<Scored>,
}

impl Candidate {
    fn cosine(&self) -> f32 {
        self.crops.first().map_or(f32::NEG_INFINITY, |c| c.cosine)
    }

    fn arrange(&mut self) {
        self.crops.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.id.cmp(&b.id)));
        self.crops.truncate(CROPS_PER_TRACK);
    }
}

/// Returns the `wanted` nearest tracks, nearest first; fewer only when no more match. The first
/// `complete` of them have all their pictures, not only those among the nearest.
///
/// `vector` is the query, L2-normalised.
pub(super) fn find(
    store: &dyn VectorStore,
    vector: &[f32],
    filter: &Filter,
    wanted: usize,
    complete: usize,
) -> Result<Vec<Candidate>, StoreError> {
    let found = store.nearest_tracks(vector, wanted, CROPS_PER_TRACK, filter)?;
    let mut tracks: Vec<Candidate> = found.into_iter().filter_map(candidate).collect();
    let first = complete.min(tracks.len());
    add_siblings(store, vector, filter, &mut tracks[..first])?;
    // An approximate search may miss a picture that is nearer than some that it returned.
    tracks.sort_by(|a, b| b.cosine().total_cmp(&a.cosine()));
    Ok(tracks)
}

fn candidate(crops: Vec<Scored>) -> Option<Candidate> {
    let first = crops.first()?;
    let mut candidate = Candidate { camera: first.payload.camera.clone(), track: first.payload.track, crops };
    candidate.arrange();
    Some(candidate)
}

/// Adds the other pictures of these tracks; their ids are derived from the track's.
fn add_siblings(
    store: &dyn VectorStore,
    vector: &[f32],
    filter: &Filter,
    tracks: &mut [Candidate],
) -> Result<(), StoreError> {
    let mut missing: Vec<SightingId> = Vec::new();
    let mut owner: HashMap<SightingId, usize> = HashMap::new();
    for (at, t) in tracks.iter().enumerate().filter(|(_, t)| t.crops.len() < CROPS_PER_TRACK) {
        for crop_no in 0..CROPS_PER_TRACK as u8 {
            let id = sighting_id(&t.camera, t.track, crop_no);
            if t.crops.iter().all(|c| c.id != id) {
                missing.push(id);
                owner.insert(id, at);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    for (record, stored) in store.vectors(&missing)? {
        if filter.matches(record.id, &record.payload)
            && let Some(track) = owner.get(&record.id).and_then(|at| tracks.get_mut(*at))
        {
            let cosine = stored.iter().zip(vector).map(|(a, b)| a * b).sum();
            track.crops.push(Scored { id: record.id, cosine, payload: record.payload });
        }
    }
    for track in tracks {
        track.arrange();
    }
    Ok(())
}
