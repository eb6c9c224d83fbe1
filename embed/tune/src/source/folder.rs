//! A source of training pairs from an annotated dataset on disk.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use rand::rngs::StdRng;

use super::word_weights::WordWeights;
use super::{PictureCache, Source};
use crate::dataset::Entry;
use crate::{Result, TrainError};

/// A dataset whose entries are grouped by identity.
pub struct DatasetSource {
    size: [usize; 2],
    entries: Vec<Entry>,
    /// Entries of each identity, in the order of the identities' own numbers.
    identities: Vec<Vec<usize>>,
    kept: PictureCache,
    word_weights: OnceLock<WordWeights>,
}

impl DatasetSource {
    /// Creates a source of `entries` at `size` (height, width) in pixels. Decoded pictures may take
    /// `memory` bytes.
    ///
    /// # Errors
    /// No entry at all.
    pub fn new(entries: Vec<Entry>, size: [usize; 2], memory: usize) -> Result<Self> {
        if entries.is_empty() {
            return Err(TrainError::Usage("there is no picture to learn from".into()));
        }
        let mut by_number: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            by_number.entry(entry.identity).or_default().push(index);
        }
        Ok(Self {
            kept: PictureCache::new(entries.len(), size, memory),
            size,
            entries,
            identities: by_number.into_values().collect(),
            word_weights: OnceLock::new(),
        })
    }

    /// Every picture with its captions.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn index(&self, identity: usize, view: usize) -> usize {
        self.identities[identity][view]
    }
}

impl Source for DatasetSource {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn identities(&self) -> usize {
        self.identities.len()
    }

    fn views(&self, identity: usize) -> usize {
        self.identities[identity].len()
    }

    fn captions(&self, identity: usize, view: usize) -> usize {
        self.entries[self.index(identity, view)].captions.len()
    }

    fn resemblance(&self, one: usize, other: usize) -> f32 {
        let texts = || self.identities.iter().map(|of| of.iter().flat_map(|&e| self.entries[e].captions.iter()));
        self.word_weights.get_or_init(|| WordWeights::new(texts())).resemblance(one, other)
    }

    fn picture(&self, identity: usize, view: usize) -> Result<Cow<'_, [u8]>> {
        let index = self.index(identity, view);
        self.kept.get(index, || self.entries[index].pixels(self.size))
    }

    fn caption(&self, identity: usize, view: usize, which: usize, _rng: &mut StdRng) -> String {
        let captions = &self.entries[self.index(identity, view)].captions;
        captions[which % captions.len()].clone()
    }
}
