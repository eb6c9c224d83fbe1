//! The facts of a photograph of one garment.

use super::kind::Kind::*;
use super::kind::OUTERWEAR;
use super::{Colours, Facts, Item, KindSet, Part};

/// Meaning of a label of a garment photograph.
#[derive(Debug)]
struct Meaning {
    label: &'static str,
    part: Part,
    kinds: KindSet,
    sleeves: KindSet,
    /// Top and bottom of its place in a picture of a standing person, as shares of the height.
    place: [f32; 2],
}

const fn upper(label: &'static str, kinds: KindSet, sleeves: KindSet) -> Meaning {
    Meaning { label, part: Part::Upper, kinds, sleeves, place: [0.14, 0.56] }
}

const fn lower(label: &'static str, kinds: &[super::Kind], place: [f32; 2]) -> Meaning {
    Meaning { label, part: Part::Lower, kinds: KindSet::of(kinds), sleeves: KindSet::NONE, place }
}

const SHORT: KindSet = KindSet::of(&[ShortSleeves]);
const LONG: KindSet = KindSet::of(&[LongSleeves]);
const EITHER: KindSet = KindSet::NONE;

/// Labels of the clothing dataset. "Pants" are left out because they may be jeans, leggings or
/// others, shoes and tops because they may be of any kind: no word is certainly true of them.
static MEANINGS: [Meaning; 13] = [
    upper("Blazer", KindSet::of(&[Blazer]), LONG),
    upper("Blouse", KindSet::of(&[Blouse]), EITHER),
    Meaning { place: [0.14, 0.84], ..upper("Dress", KindSet::of(&[Dress]), EITHER) },
    upper("Hoodie", KindSet::of(&[Hoodie]), LONG),
    // They include jumpers and sweatshirts: the kind is not certain, but it is no T-shirt.
    upper("Longsleeve", KindSet::of(&[LongSleeveTop, Sweater, Sweatshirt]), LONG),
    upper("Outwear", OUTERWEAR, LONG),
    upper("Polo", KindSet::of(&[Polo]), SHORT),
    upper("Shirt", KindSet::of(&[Shirt]), EITHER),
    upper("T-Shirt", KindSet::of(&[TShirt]), SHORT),
    upper("Undershirt", KindSet::of(&[TankTop]), KindSet::of(&[Sleeveless])),
    lower("Shorts", &[Shorts, DenimShorts, SportsShorts], [0.46, 0.76]),
    lower("Skirt", &[Skirt], [0.46, 0.82]),
    Meaning {
        part: Part::Hat,
        place: [0.0, 0.16],
        ..upper("Hat", KindSet::of(&[Cap, FlatCap, Beanie, BrimmedHat, OtherHat]), KindSet::NONE)
    },
];

/// A label that names the kind of a garment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Garment(usize);

impl Garment {
    /// The garment that `label` names; `None` if the label is not in the table.
    pub fn labelled(label: &str) -> Option<Self> {
        MEANINGS.iter().position(|meaning| meaning.label == label).map(Self)
    }

    /// All garments.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MEANINGS.len()).map(Self)
    }

    /// The label as the dataset writes it.
    pub fn label(self) -> &'static str {
        MEANINGS[self.0].label
    }

    /// Top and bottom of where it is worn, as shares of the height of a picture of a person.
    pub fn place(self) -> [f32; 2] {
        MEANINGS[self.0].place
    }
}

impl Facts {
    /// Facts about a photograph of `garment`: it is the only item of its part, and its sleeves are
    /// known.
    pub fn of_garment(garment: Garment) -> Self {
        let meaning = &MEANINGS[garment.0];
        let mut facts = Self::unknown();
        facts.state(meaning.part, vec![Item { kinds: meaning.kinds, colours: Colours::default() }]);
        if meaning.kinds.within(KindSet::of(&[Dress])) {
            // A dress covers the legs as well: "skirt or dress" is true of it.
            facts.state(Part::Lower, vec![Item { kinds: KindSet::of(&[LongDress]), colours: Colours::default() }]);
        }
        if !meaning.sleeves.is_empty() {
            facts.state_kinds(Part::Sleeves, &[meaning.sleeves]);
        }
        facts
    }
}
