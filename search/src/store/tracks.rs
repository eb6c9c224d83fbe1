//! Nearest tracks, from a store that only finds nearest pictures.

use std::collections::HashMap;

use sightline_core::{CameraId, TrackId};

use super::{Scored, StoreError};

/// Implements [`super::VectorStore::nearest_tracks`]; `search` returns the given number of nearest
/// pictures.
pub(super) fn by_search(
    wanted: usize,
    crops: usize,
    mut search: impl FnMut(usize) -> Result<Vec<Scored>, StoreError>,
) -> Result<Vec<Vec<Scored>>, StoreError> {
    // Most tracks have two or three pictures, and similar people cluster, so the search asks for
    // more than one picture per track, and for more again until there are enough tracks or no more
    // pictures.
    let mut limit = wanted * 2;
    loop {
        let found = search(limit)?;
        let exhausted = found.len() < limit;
        let mut tracks = group(found, crops);
        if exhausted || tracks.len() >= wanted {
            tracks.truncate(wanted);
            return Ok(tracks);
        }
        limit *= 2;
    }
}

/// Groups pictures by track, in the order of first appearance.
fn group(found: Vec<Scored>, crops: usize) -> Vec<Vec<Scored>> {
    let mut tracks: Vec<Vec<Scored>> = Vec::new();
    let mut known: HashMap<(CameraId, TrackId), usize> = HashMap::new();
    for crop in found {
        let at = *known.entry((crop.payload.camera.clone(), crop.payload.track)).or_insert_with(|| {
            tracks.push(Vec::new());
            tracks.len() - 1
        });
        if tracks[at].len() < crops.max(1) {
            tracks[at].push(crop);
        }
    }
    tracks
}
