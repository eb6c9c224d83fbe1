//! Facts about a person, drawn or real, and statements that are true, false or open about that
//! person.
//!
//! ```text
//! labels.json -> Label -+
//!                       +-> Facts <- Claim::truth <- Phrase <- Description (a caption)
//! figures::Person ------+                            yardstick: the fixed phrases of `eval --phrases`
//! ```
//!
//! A text that describes one person may be true of others too. Training and evaluation therefore
//! check for every pair whether the text is *true*, with three possible answers: what a picture
//! does not show is neither true nor false.

mod claim;
mod colour;
mod describe;
mod drawn;
mod garment;
mod kind;
mod label;
mod label_words;
mod phrase;
mod rare;
mod read;
mod scan;
mod sets;
mod truth;
mod words;
pub mod yardstick;

pub use claim::{Claim, Wanted};
pub use colour::{Colour, ColourSet, Colours};
pub use describe::Description;
pub use garment::Garment;
pub use kind::{Kind, KindSet, Part};
pub use label::{Label, read_labels};
pub use phrase::Phrase;
pub use rare::RareKind;
pub use words::Verb;

/// One visible thing; sex, hair and sleeves are one thing each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Kinds that the thing may be; it is one of them.
    pub kinds: KindSet,
    /// Colours of the thing, as far as they are known.
    pub colours: Colours,
}

/// Facts about one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Items that are there; garments from the outermost to the innermost.
    pub items: Vec<Item>,
    /// Kinds that may be there in addition, hidden or not noted: all kinds of the part if nothing
    /// is known, none if `items` is complete.
    pub unseen: KindSet,
}

/// Facts about a person, by part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    parts: Vec<Seen>,
}

impl Facts {
    /// Facts about a person of whom nothing is known.
    pub fn unknown() -> Self {
        let unknown = |part: &Part| Seen { items: Vec::new(), unseen: part.kinds() };
        Self { parts: Part::ALL.iter().map(unknown).collect() }
    }

    /// Facts about `part`.
    pub fn seen(&self, part: Part) -> &Seen {
        &self.parts[part as usize]
    }

    /// States that `items` are all there is of `part`.
    pub(crate) fn state(&mut self, part: Part, items: Vec<Item>) {
        self.parts[part as usize] = Seen { items, unseen: KindSet::NONE };
    }

    /// States items like [`Facts::state`], without known colours.
    pub(crate) fn state_kinds(&mut self, part: Part, kinds: &[KindSet]) {
        let items = kinds.iter().map(|kinds| Item { kinds: *kinds, colours: Colours::default() });
        self.state(part, items.collect());
    }

    fn seen_mut(&mut self, part: Part) -> &mut Seen {
        &mut self.parts[part as usize]
    }
}
