//! Sources of training pairs: drawn persons, annotated datasets, labelled people, or a mix of them.
//!
//! A source numbers its identities, and the pictures of each identity, from 0. Its methods are
//! deterministic at any time and on any thread, so a batch depends only on the seed and its number.

mod folder;
mod kept;
mod mix;
mod order;
mod spec;
mod weighted;
mod word_weights;

use std::borrow::Cow;

use rand::Rng;
use rand::rngs::StdRng;

use super::Result;
use super::attributes::{self, Labels};
use super::facts::{Description, Facts};
use super::pool::Pool;
use sightline_figures::caption_with;

pub use folder::DatasetSource;
pub(crate) use kept::PictureCache;
pub use mix::MixedSource;
pub use order::{BatchSequence, ChosenPair, Lookalikes, Order};
pub use spec::DataSpec;
pub(crate) use weighted::WeightedDraw;

/// Pictures of persons with captions.
pub trait Source: Sync {
    /// Height and width of every picture in pixels.
    fn size(&self) -> [usize; 2];

    /// Number of identities; each has at least one picture.
    fn identities(&self) -> usize;

    /// Number of pictures of an identity.
    fn views(&self, identity: usize) -> usize;

    /// Number of captions of a picture; 1 if captions are generated at every use.
    fn captions(&self, _identity: usize, _view: usize) -> usize {
        1
    }

    /// An identity that looks much like this one, for batches with hard negatives.
    fn sibling(&self, _identity: usize) -> Option<usize> {
        None
    }

    /// Similarity of two identities' appearance, 0 to 1; 0 if unknown.
    fn resemblance(&self, _one: usize, _other: usize) -> f32 {
        0.0
    }

    /// A random identity: uniform, unless the source weights its parts.
    fn draw(&self, rng: &mut StdRng) -> usize {
        rng.random_range(0..self.identities())
    }

    /// A picture: RGB bytes, row-major.
    ///
    /// # Errors
    /// A file that can no longer be read; the error names it.
    fn picture(&self, identity: usize, view: usize) -> Result<Cow<'_, [u8]>>;

    /// Caption number `which` of a picture. `rng` is for sources that generate captions anew.
    fn caption(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> String;

    /// Caption as from [`Source::caption`], and what it states if it was generated from facts.
    fn describe(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> (String, Option<Description>) {
        (self.caption(identity, view, which, rng), None)
    }

    /// Known facts about an identity; `None` if the source has none.
    fn facts(&self, _identity: usize) -> Option<Cow<'_, Facts>> {
        None
    }

    /// Index of the part of a mixed source that the identity belongs to, from 0.
    fn part(&self, _identity: usize) -> usize {
        0
    }

    /// Attributes of an identity for the auxiliary heads; [`attributes::UNKNOWN`] where there are
    /// none.
    fn labels(&self, _identity: usize) -> Labels {
        attributes::UNKNOWN
    }
}

impl Source for Pool {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn identities(&self) -> usize {
        self.identities as usize
    }

    fn views(&self, _identity: usize) -> usize {
        self.views as usize
    }

    fn sibling(&self, identity: usize) -> Option<usize> {
        match (self.first as usize + identity) % 4 {
            2 if identity + 1 < self.identities() => Some(identity + 1),
            3 if identity > 0 => Some(identity - 1),
            _ => None,
        }
    }

    fn picture(&self, identity: usize, view: usize) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(Pool::picture(self, identity as u64, view as u64)))
    }

    fn caption(&self, identity: usize, _view: usize, _which: usize, rng: &mut StdRng) -> String {
        caption_with(&self.corpus.person(self.first + identity as u64), self.words, rng)
    }

    fn describe(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> (String, Option<Description>) {
        if self.described > 0.0 && rng.random::<f32>() < self.described {
            let facts = Facts::of_drawn(&self.corpus.person(self.first + identity as u64));
            if let Some(description) = Description::of(&facts, rng) {
                return (description.text().to_owned(), Some(description));
            }
        }
        (self.caption(identity, view, which, rng), None)
    }

    fn resemblance(&self, one: usize, other: usize) -> f32 {
        attributes::agreement(self.labels_of(one), self.labels_of(other))
    }

    fn facts(&self, identity: usize) -> Option<Cow<'_, Facts>> {
        // Drawing the attributes again takes microseconds; keeping them would take 1 KB each.
        Some(Cow::Owned(Facts::of_drawn(&self.corpus.person(self.first + identity as u64))))
    }

    fn labels(&self, identity: usize) -> Labels {
        *self.labels_of(identity)
    }
}
