//! A claim: a statement about a person, independent of its words.

use super::colour::ColourTerm;
use super::kind::{KindSet, Part};
use super::words::Term;
use super::{ColourSet, Facts, Item, truth};

/// A thing that a claim is about: its kinds and, optionally, its colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Kinds that count as the thing.
    pub yes: KindSet,
    /// Kinds that may or may not count as the thing.
    pub maybe: KindSet,
    /// Colours that count, and colours that may or may not count; `None` accepts any colour.
    pub colour: Option<(ColourSet, ColourSet)>,
}

/// A statement about a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The person has such a thing.
    Has(Wanted),
    /// The person has no such thing.
    HasNot(Wanted),
}

impl Wanted {
    /// Meaning of a word for a kind, alone or with a word for its colour.
    pub(super) fn of(term: &Term, colour: Option<&ColourTerm>) -> Self {
        Self { yes: term.yes, maybe: term.maybe, colour: colour.map(|term| (term.yes, term.maybe)) }
    }

    /// Whether `item` is such a thing; `None` if that is open.
    pub(super) fn is(&self, item: &Item) -> Option<bool> {
        let kind = match () {
            () if item.kinds.within(self.yes) => Some(true),
            () if item.kinds.meets(self.yes.or(self.maybe)) => None,
            () => Some(false),
        };
        truth::all([kind, self.colour.map_or(Some(true), |(yes, maybe)| item.colours.are(yes, maybe))])
    }

    /// Whether the person of `facts` has such a thing; `None` if that is open.
    fn in_facts(&self, facts: &Facts) -> Option<bool> {
        let Some(part) = self.yes.part() else { return Some(false) };
        let seen = facts.seen(part);
        // A claim about the whole part is about what is visible of it. It is open only if nothing
        // is known of the part; something unnoted below a jacket does not leave it open.
        let open = match self.yes == part.kinds() {
            true => seen.unseen == part.kinds(),
            false => seen.unseen.meets(self.yes),
        };
        let unseen = if open { None } else { Some(false) };
        truth::any(seen.items.iter().map(|item| self.is(item)).chain([unseen]))
    }
}

impl Claim {
    /// Whether the claim is true of the person that `facts` describe; `None` if they leave it open.
    pub fn truth(&self, facts: &Facts) -> Option<bool> {
        match self {
            Self::Has(wanted) => wanted.in_facts(facts),
            Self::HasNot(wanted) => truth::not(wanted.in_facts(facts)),
        }
    }

    /// The part that the claim is about.
    pub fn part(&self) -> Option<Part> {
        let (Self::Has(wanted) | Self::HasNot(wanted)) = self;
        wanted.yes.part()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Colour, Colours, Kind};
    use super::*;

    fn has(yes: &[Kind], colour: Option<Colour>) -> Claim {
        let colour = colour.map(|colour| (ColourSet::of(&[colour]), ColourSet::NONE));
        Claim::Has(Wanted { yes: KindSet::of(yes), maybe: KindSet::NONE, colour })
    }

    fn item(kinds: &[Kind], colour: Colour) -> Item {
        Item { kinds: KindSet::of(kinds), colours: Colours::one(colour) }
    }

    #[test]
    fn colour_and_kind_are_of_the_same_thing() {
        let mut facts = Facts::unknown();
        facts.state(Part::Upper, vec![item(&[Kind::Cardigan], Colour::Black), item(&[Kind::TShirt], Colour::Teal)]);
        let truth = |kind, colour| has(&[kind], Some(colour)).truth(&facts);
        assert_eq!(truth(Kind::Cardigan, Colour::Black), Some(true));
        assert_eq!(truth(Kind::TShirt, Colour::Teal), Some(true));
        assert_eq!(truth(Kind::Cardigan, Colour::Teal), Some(false), "the cardigan is black");
        let whole = |colour| Claim::Has(Wanted { yes: Part::Upper.kinds(), maybe: KindSet::NONE, colour });
        let colour = |colour| Some((ColourSet::of(&[colour]), ColourSet::NONE));
        assert_eq!(whole(colour(Colour::Teal)).truth(&facts), Some(true));
        assert_eq!(whole(colour(Colour::Red)).truth(&facts), Some(false));
    }

    #[test]
    fn what_is_not_known_is_neither_true_nor_false() {
        let mut facts = Facts::unknown();
        let bag = has(&[Kind::Backpack], None);
        let Claim::Has(wanted) = bag else { unreachable!() };
        let none = Claim::HasNot(wanted);
        assert_eq!((bag.truth(&facts), none.truth(&facts)), (None, None));
        facts.state(Part::Bag, Vec::new());
        assert_eq!((bag.truth(&facts), none.truth(&facts)), (Some(false), Some(true)));
        facts.state(Part::Bag, vec![item(&[Kind::Backpack, Kind::Tote], Colour::Black)]);
        assert_eq!((bag.truth(&facts), none.truth(&facts)), (None, None), "it is one of both");
        assert_eq!(has(&[Kind::Suitcase], None).truth(&facts), Some(false));
    }

    #[test]
    fn something_below_an_open_jacket_may_be_what_is_asked_for() {
        let mut facts = Facts::unknown();
        facts.state(Part::Upper, vec![item(&[Kind::Jacket], Colour::Black)]);
        assert_eq!(has(&[Kind::TShirt], None).truth(&facts), Some(false));
        facts.seen_mut(Part::Upper).unseen = KindSet::of(&[Kind::TShirt]);
        assert_eq!(has(&[Kind::TShirt], None).truth(&facts), None);
        assert_eq!(has(&[Kind::Dress], None).truth(&facts), Some(false));
        let red = (ColourSet::of(&[Colour::Red]), ColourSet::NONE);
        let top = Claim::Has(Wanted { yes: Part::Upper.kinds(), maybe: KindSet::NONE, colour: Some(red) });
        assert_eq!(top.truth(&facts), Some(false), "what one sees is black");
    }
}
