//! Several sources as one: each is chosen with a probability proportional to its weight.

use std::borrow::Cow;

use rand::Rng;
use rand::rngs::StdRng;

use super::Source;
use crate::attributes::Labels;
use crate::facts::{Description, Facts};
use crate::{Result, TrainError};

/// Sources with their weights. Identities are numbered consecutively, part by part.
pub struct MixedSource {
    parts: Vec<(Box<dyn Source + Send>, f64)>,
}

impl MixedSource {
    /// Mixes `parts` by their weights.
    ///
    /// # Errors
    /// No part, pictures of different sizes, or a weight that is not above 0.
    pub fn new(parts: Vec<(Box<dyn Source + Send>, f64)>) -> Result<Self> {
        let Some((first, _)) = parts.first() else { return Err(TrainError::Usage("there is no data".into())) };
        let size = first.size();
        if parts.iter().any(|(part, _)| part.size() != size) {
            return Err(TrainError::Usage("the sources give pictures of different sizes".into()));
        }
        if let Some((_, weight)) = parts.iter().find(|(_, weight)| !(*weight > 0.0 && weight.is_finite())) {
            return Err(TrainError::Usage(format!("the weight {weight} of a source is not above 0")));
        }
        Ok(Self { parts })
    }

    /// The part that holds `identity`, and the number of the part's first identity.
    fn holder(&self, identity: usize) -> (&dyn Source, usize) {
        let mut first = 0;
        for (part, _) in &self.parts {
            if identity < first + part.identities() {
                return (part.as_ref(), first);
            }
            first += part.identities();
        }
        unreachable!("identity {identity} of {first}")
    }
}

impl Source for MixedSource {
    fn size(&self) -> [usize; 2] {
        self.parts[0].0.size()
    }

    fn identities(&self) -> usize {
        self.parts.iter().map(|(part, _)| part.identities()).sum()
    }

    fn views(&self, identity: usize) -> usize {
        let (part, first) = self.holder(identity);
        part.views(identity - first)
    }

    fn captions(&self, identity: usize, view: usize) -> usize {
        let (part, first) = self.holder(identity);
        part.captions(identity - first, view)
    }

    fn sibling(&self, identity: usize) -> Option<usize> {
        let (part, first) = self.holder(identity);
        part.sibling(identity - first).map(|sibling| sibling + first)
    }

    fn resemblance(&self, one: usize, other: usize) -> f32 {
        let ((part, first), (_, same)) = (self.holder(one), self.holder(other));
        if first == same { part.resemblance(one - first, other - first) } else { 0.0 }
    }

    fn draw(&self, rng: &mut StdRng) -> usize {
        let total: f64 = self.parts.iter().map(|(_, weight)| weight).sum();
        let (mut at, mut first) = (if self.parts.len() > 1 { rng.random::<f64>() * total } else { 0.0 }, 0);
        for (index, (part, weight)) in self.parts.iter().enumerate() {
            if at < *weight || index + 1 == self.parts.len() {
                return first + part.draw(rng);
            }
            at -= weight;
            first += part.identities();
        }
        first
    }

    fn picture(&self, identity: usize, view: usize) -> Result<Cow<'_, [u8]>> {
        let (part, first) = self.holder(identity);
        part.picture(identity - first, view)
    }

    fn caption(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> String {
        let (part, first) = self.holder(identity);
        part.caption(identity - first, view, which, rng)
    }

    fn describe(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> (String, Option<Description>) {
        let (part, first) = self.holder(identity);
        part.describe(identity - first, view, which, rng)
    }

    fn facts(&self, identity: usize) -> Option<Cow<'_, Facts>> {
        let (part, first) = self.holder(identity);
        part.facts(identity - first)
    }

    fn part(&self, identity: usize) -> usize {
        let mut before = 0;
        let holds = |(part, _): &(Box<dyn Source + Send>, f64)| {
            before += part.identities();
            identity < before
        };
        self.parts.iter().position(holds).unwrap_or(0)
    }

    fn labels(&self, identity: usize) -> Labels {
        let (part, first) = self.holder(identity);
        part.labels(identity - first)
    }
}
