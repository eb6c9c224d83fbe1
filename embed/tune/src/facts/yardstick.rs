//! The yardstick: fixed phrases, and the rules that decide from labels whom they are true of.
//!
//! Scores from different models are comparable only if phrases and rules never change, so they do
//! not follow [`Facts`](super::Facts): a colour is the last word of a label ("dark navy with yellow
//! stripes" is no blue top), and a kind is its group. Phrases and rules are those of `phrases.py`,
//! which measured all earlier models, with one exception: what a label calls unknown is unknown
//! here, while `phrases.py` treated an unknown colour as another colour.

use super::colour::{ColourTerm, THING_COLOURS};
use super::kind::Kind::{self, *};
use super::kind::{KindSet, OUTERWEAR, Part, VESTS};
use super::label::{BagGroup, GlassesGroup, HairLength, HatGroup, Label, LowerGroup, Sex, Sleeves, UpperGroup};
use super::{Claim, ColourSet, Wanted};

/// What a phrase of the yardstick is about; the means of both are reported separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Asks {
    /// Sex, hair, sleeves, kinds of garments, bags, hats, glasses.
    Kind,
    /// The colour of the upper or lower clothes.
    Colour,
}

/// A phrase of the yardstick.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Words of the phrase.
    pub text: &'static str,
    /// What the phrase is about.
    pub asks: Asks,
    /// Whether the phrase is true of a labelled person; `None` if that is unknown.
    pub of_label: fn(&Label) -> Option<bool>,
    /// The same statement about facts, for drawn persons.
    pub claim: Claim,
}

const fn kind(text: &'static str, of_label: fn(&Label) -> Option<bool>, yes: &[Kind], maybe: &[Kind]) -> Entry {
    kinds(text, of_label, KindSet::of(yes), KindSet::of(maybe))
}

const fn kinds(text: &'static str, of_label: fn(&Label) -> Option<bool>, yes: KindSet, maybe: KindSet) -> Entry {
    Entry { text, asks: Asks::Kind, of_label, claim: Claim::Has(Wanted { yes, maybe, colour: None }) }
}

const fn colour(
    text: &'static str,
    part: Part,
    of_label: fn(&Label) -> Option<bool>,
    colour: (ColourSet, ColourSet),
) -> Entry {
    let wanted = Wanted { yes: part.kinds(), maybe: KindSet::NONE, colour: Some(colour) };
    Entry { text, asks: Asks::Colour, of_label, claim: Claim::Has(wanted) }
}

/// Whether `group` is one of `yes`; `None` if it is `unknown`.
fn one_of<G: PartialEq + Copy>(group: G, unknown: G, yes: &[G]) -> Option<bool> {
    (group != unknown).then(|| yes.contains(&group))
}

/// Whether the last word of a label's colour is one of `words`; `None` if the colour is unknown.
fn named(colour: &str, words: &[&str]) -> Option<bool> {
    let last = colour.split_whitespace().next_back().filter(|word| *word != "unknown")?;
    Some(words.contains(&last))
}

/// Colours that a term means, and colours that it may mean.
const fn meaning(term: &ColourTerm) -> (ColourSet, ColourSet) {
    (term.yes, term.maybe)
}

/// All phrases, in the order in which they are reported: kinds, then colours.
pub fn entries() -> Vec<Entry> {
    let term = |word: &str| THING_COLOURS.iter().find(|term| term.words[0] == word);
    let mean = |word: &str| term(word).map_or((ColourSet::NONE, ColourSet::NONE), meaning);
    let (top, legs) = (Part::Upper, Part::Lower);
    let mut all = KINDS.to_vec();
    all.extend([
        colour(
            "wearing a red top",
            top,
            |l| named(&l.upper.colour, &["red", "crimson", "maroon", "burgundy"]),
            mean("red"),
        ),
        colour("wearing a blue top", top, |l| named(&l.upper.colour, &["blue", "navy"]), mean("blue")),
        colour("wearing a white top", top, |l| named(&l.upper.colour, &["white", "cream"]), mean("white")),
        colour("wearing a black top", top, |l| named(&l.upper.colour, &["black"]), mean("black")),
        colour("wearing blue trousers", legs, |l| named(&l.lower.colour, &["blue", "navy"]), mean("blue")),
        colour("wearing black trousers", legs, |l| named(&l.lower.colour, &["black"]), mean("black")),
    ]);
    all
}

static KINDS: [Entry; 17] = [
    kind("a man", |l| one_of(l.normalised.sex, Sex::Unknown, &[Sex::Male]), &[Man], &[]),
    kind("a woman", |l| one_of(l.normalised.sex, Sex::Unknown, &[Sex::Female]), &[Woman], &[]),
    kind(
        "a person with long hair",
        |l| match l.normalised.hair_length {
            HairLength::Long => Some(true),
            HairLength::ShortMedium | HairLength::Bald => Some(false),
            HairLength::TiedUp | HairLength::Hidden | HairLength::Unknown => None,
        },
        &[LongHair, Ponytail],
        &[TiedUp],
    ),
    kind(
        "wearing a short-sleeved top",
        |l| match l.normalised.sleeves {
            Sleeves::Short => Some(true),
            Sleeves::Long => Some(false),
            Sleeves::ThreeQuarter | Sleeves::None | Sleeves::Unknown => None,
        },
        &[ShortSleeves],
        &[Sleeveless],
    ),
    kind(
        "wearing a long-sleeved top",
        |l| match l.normalised.sleeves {
            Sleeves::Long => Some(true),
            Sleeves::Short | Sleeves::None => Some(false),
            Sleeves::ThreeQuarter | Sleeves::Unknown => None,
        },
        &[LongSleeves],
        &[],
    ),
    kinds(
        "wearing a jacket or coat",
        |l| one_of(l.normalised.upper_group, UpperGroup::Unknown, &[UpperGroup::Outerwear]),
        OUTERWEAR,
        VESTS.or(KindSet::of(&[Cardigan, Fleece, Uniform, ChefsJacket, Robe])),
    ),
    kind(
        "wearing a T-shirt",
        |l| one_of(l.normalised.upper_group, UpperGroup::Unknown, &[UpperGroup::TShirt]),
        &[TShirt, Polo],
        &[Jersey, TankTop, LongSleeveTop],
    ),
    kind(
        "wearing jeans",
        |l| one_of(l.normalised.lower_group, LowerGroup::Unknown, &[LowerGroup::Jeans]),
        &[Jeans],
        &[],
    ),
    kind(
        "wearing shorts",
        |l| one_of(l.normalised.lower_group, LowerGroup::Unknown, &[LowerGroup::Shorts]),
        &[Shorts, DenimShorts, SportsShorts],
        &[Capri],
    ),
    kind(
        "wearing a skirt or dress",
        |l| one_of(l.normalised.lower_group, LowerGroup::Unknown, &[LowerGroup::Skirt]),
        &[Skirt, LongDress],
        &[],
    ),
    kind(
        "carrying a backpack",
        |l| one_of(l.normalised.bag_group, BagGroup::Unknown, &[BagGroup::Backpack]),
        &[Backpack],
        &[],
    ),
    kind(
        "carrying a handbag or shoulder bag",
        |l| one_of(l.normalised.bag_group, BagGroup::Unknown, &[BagGroup::Handbag]),
        &[Handbag, ShoulderBag, Tote],
        &[ShoppingBag, WaistBag, Briefcase],
    ),
    kinds(
        "carrying a bag",
        |l| one_of(l.normalised.bag_group, BagGroup::Unknown, &[BagGroup::None]).map(|not| !not),
        Part::Bag.kinds(),
        KindSet::NONE,
    ),
    kind(
        "wearing a cap",
        |l| one_of(l.normalised.hat_group, HatGroup::Unknown, &[HatGroup::Cap]),
        &[Cap, FlatCap],
        &[Visor],
    ),
    kinds(
        "wearing a hat",
        |l| one_of(l.normalised.hat_group, HatGroup::Unknown, &[HatGroup::None, HatGroup::Hood]).map(|not| !not),
        KindSet::of(&[Cap, FlatCap, Visor, Beanie, BrimmedHat, OtherHat, Headscarf, Headband, Helmet, HardHat]),
        KindSet::NONE,
    ),
    kind(
        "wearing a helmet",
        |l| one_of(l.normalised.hat_group, HatGroup::Unknown, &[HatGroup::Helmet]),
        &[Helmet, HardHat],
        &[],
    ),
    kind(
        "wearing glasses",
        |l| one_of(l.normalised.glasses_group, GlassesGroup::Unknown, &[GlassesGroup::NoneSeen]).map(|not| !not),
        &[Spectacles, Sunglasses, Goggles],
        &[],
    ),
];
