//! What is known of a person, drawn or real, and statements that are true, false or open of it.
//!
//! ```text
//! labels.json -> Label -+
//!                       +-> Facts <- Claim::truth <- Phrase <- Description (a caption)
//! figures::Person ------+                            yardstick: the fixed phrases of `eval --phrases`
//! ```
//!
//! A text that describes one person is true of others, too. Training and evaluation therefore ask
//! of every pair whether the text is *true*, which has three answers: what a picture does not show
//! is neither true nor false.

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

/// One thing that is seen, or sex, hair or sleeves as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// It is one of these kinds.
    pub kinds: KindSet,
    /// Its colours, as far as they are known.
    pub colours: Colours,
}

/// What is known of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What is there; garments from the outermost to the innermost.
    pub items: Vec<Item>,
    /// Kinds that may be there all the same, hidden or not noted. All kinds of the part where
    /// nothing is known, none where the list is complete.
    pub unseen: KindSet,
}

/// What is known of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    parts: Vec<Seen>,
}

impl Facts {
    /// Nothing is known.
    pub fn unknown() -> Self {
        let unknown = |part: &Part| Seen { items: Vec::new(), unseen: part.kinds() };
        Self { parts: Part::ALL.iter().map(unknown).collect() }
    }

    /// What is known of `part`.
    pub fn seen(&self, part: Part) -> &Seen {
        &self.parts[part as usize]
    }

    /// States that `items` are all there is of `part`.
    pub(crate) fn state(&mut self, part: Part, items: Vec<Item>) {
        self.parts[part as usize] = Seen { items, unseen: KindSet::NONE };
    }

    /// As [`Facts::state`], for things without a known colour.
    pub(crate) fn state_kinds(&mut self, part: Part, kinds: &[KindSet]) {
        let items = kinds.iter().map(|kinds| Item { kinds: *kinds, colours: Colours::default() });
        self.state(part, items.collect());
    }

    fn seen_mut(&mut self, part: Part) -> &mut Seen {
        &mut self.parts[part as usize]
    }
}
