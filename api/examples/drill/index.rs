//! Reads the index from the vector store itself; the drills compare runs with it.

use std::collections::BTreeMap;

use anyhow::Context;
use sightline_core::config::{Config, VectorPlace, VectorsConfig};
use sightline_core::{SightingId, Timestamp};
use sightline_search::{Filter, Payload, QdrantStore, VectorStore};

use crate::topology::Topology;

/// Content that must be the same in two runs over the same footage.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub camera: String,
    pub track: String,
    pub crop_no: u8,
    pub captured_at: Timestamp,
    pub span: (Timestamp, Timestamp, bool),
}

impl From<&Payload> for Held {
    fn from(p: &Payload) -> Self {
        Self {
            camera: p.camera.to_string(),
            track: p.track.to_string(),
            crop_no: p.crop_no,
            captured_at: p.captured_at,
            span: (p.first_seen, p.last_seen, p.ended),
        }
    }
}

/// Client of the vector store of a running topology.
pub struct Index {
    store: QdrantStore,
}

impl Index {
    /// Connects to the store of a topology with the shipped model.
    pub fn open(topology: &Topology) -> anyhow::Result<Self> {
        let config = Config::layered(None, [])?;
        let vectors = VectorsConfig { store: VectorPlace::Server, url: topology.qdrant.clone(), ..config.vectors };
        let folder = sightline_embed::ModelFolder::open("default".as_ref())?;
        let (id, width) = (folder.id.clone(), folder.config.architecture.embed_dim);
        let store = QdrantStore::open(&vectors, &id, width).context("the vector store")?;
        Ok(Self { store })
    }

    /// Returns the ids of all points.
    pub fn ids(&self) -> anyhow::Result<Vec<SightingId>> {
        Ok(self.store.ids(&Filter::default())?)
    }

    /// Returns the number of points.
    pub fn count(&self) -> anyhow::Result<usize> {
        Ok(self.store.count(&Filter::default())? as usize)
    }

    /// Returns all points.
    pub fn all(&self) -> anyhow::Result<BTreeMap<SightingId, Held>> {
        let mut all = BTreeMap::new();
        for chunk in self.ids()?.chunks(500) {
            all.extend(self.store.get(chunk)?.iter().map(|r| (r.id, Held::from(&r.payload))));
        }
        Ok(all)
    }

    /// Returns the newest points by capture time.
    pub fn newest(&self, limit: usize) -> anyhow::Result<Vec<(SightingId, Timestamp)>> {
        let found = self.store.newest(&Filter::default(), limit)?;
        Ok(found.into_iter().map(|r| (r.id, r.payload.captured_at)).collect())
    }
}
