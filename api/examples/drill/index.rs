//! What the index holds, read from the vector store itself: the drills compare runs by it.

use std::collections::BTreeMap;

use anyhow::Context;
use sightline_core::config::{Config, VectorPlace, VectorsConfig};
use sightline_core::{SightingId, Timestamp};
use sightline_search::{Filter, Payload, QdrantStore, VectorStore};

use crate::topology::Topology;

/// What must be the same in two runs over the same footage.
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

/// A look into the index of a running topology.
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

    /// Ids of all points.
    pub fn ids(&self) -> anyhow::Result<Vec<SightingId>> {
        Ok(self.store.ids(&Filter::default())?)
    }

    /// How many points there are.
    pub fn count(&self) -> anyhow::Result<usize> {
        Ok(self.store.count(&Filter::default())? as usize)
    }

    /// All points.
    pub fn all(&self) -> anyhow::Result<BTreeMap<SightingId, Held>> {
        let mut all = BTreeMap::new();
        for chunk in self.ids()?.chunks(500) {
            all.extend(self.store.get(chunk)?.iter().map(|r| (r.id, Held::from(&r.payload))));
        }
        Ok(all)
    }

    /// The newest points, by capture time.
    pub fn newest(&self, limit: usize) -> anyhow::Result<Vec<(SightingId, Timestamp)>> {
        let found = self.store.newest(&Filter::default(), limit)?;
        Ok(found.into_iter().map(|r| (r.id, r.payload.captured_at)).collect())
    }
}
