//! Rare kinds, of which a set of real persons has too few: they are drawn and mentioned more often.

use super::kind::Kind::*;
use super::{Claim, Facts, KindSet, Part, Wanted};

/// A kind that few persons of a set have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum RareKind {
    Backpack,
    Handbag,
    Skirt,
    Shorts,
    Cap,
    Hat,
    Helmet,
    ShortSleeves,
    LongHair,
}

impl RareKind {
    /// All rare kinds.
    pub const ALL: [Self; 9] = [
        Self::Backpack,
        Self::Handbag,
        Self::Skirt,
        Self::Shorts,
        Self::Cap,
        Self::Hat,
        Self::Helmet,
        Self::ShortSleeves,
        Self::LongHair,
    ];

    /// Name of the kind in a list, for example "long-hair".
    pub fn name(self) -> &'static str {
        match self {
            Self::Backpack => "backpack",
            Self::Handbag => "handbag",
            Self::Skirt => "skirt",
            Self::Shorts => "shorts",
            Self::Cap => "cap",
            Self::Hat => "hat",
            Self::Helmet => "helmet",
            Self::ShortSleeves => "short-sleeves",
            Self::LongHair => "long-hair",
        }
    }

    const fn kinds(self) -> KindSet {
        match self {
            Self::Backpack => KindSet::of(&[Backpack]),
            Self::Handbag => KindSet::of(&[Handbag, ShoulderBag, Tote, ShoppingBag, WaistBag, Briefcase]),
            Self::Skirt => KindSet::of(&[Skirt, LongDress]),
            Self::Shorts => KindSet::of(&[Shorts, DenimShorts, SportsShorts]),
            Self::Cap => KindSet::of(&[Cap, FlatCap]),
            Self::Hat => KindSet::of(&[BrimmedHat, OtherHat, Beanie, Headscarf, Headband, Visor]),
            Self::Helmet => KindSet::of(&[Helmet, HardHat]),
            Self::ShortSleeves => KindSet::of(&[ShortSleeves]),
            Self::LongHair => KindSet::of(&[LongHair, Ponytail]),
        }
    }

    /// Whether the person that `facts` describe certainly has it.
    pub fn is_in(self, facts: &Facts) -> bool {
        let wanted = Wanted { yes: self.kinds(), maybe: KindSet::NONE, colour: None };
        Claim::Has(wanted).truth(facts) == Some(true)
    }
}

/// Kinds that a description mentions more often than others: those of [`RareKind`] and others that
/// are as rare.
pub(super) const RARE: KindSet = Part::Bag
    .kinds()
    .or(Part::Hat.kinds())
    .or(Part::Held.kinds())
    .or(KindSet::of(&[Skirt, LongDress, Dress, Shorts, DenimShorts, SportsShorts]))
    .or(KindSet::of(&[ShortSleeves, Sleeveless, LongHair, Ponytail, Bald, Leggings, Hoodie, Cardigan, Gilet, HiVis]));
