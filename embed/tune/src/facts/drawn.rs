//! The facts of a drawn person: everything is known except what its own clothes hide.

use super::colour::Colour::{self, *};
use super::kind::Kind::*;
use super::{Colours, Facts, Item, KindSet, Part};
use sightline_figures::Person;
use sightline_figures::colour::Shade;
use sightline_figures::person::{
    BagKind, Garment, HairStyle, HatKind, HeldItem, LowerKind, Pattern, ShoeKind, UpperKind,
};

/// Colour at each position of the palette of garments.
const GARMENTS: [Colour; 31] = [
    Black, DarkGrey, Grey, LightGrey, White, Cream, Beige, Tan, Khaki, Brown, DarkBrown, Rust, Olive, Green, DarkGreen,
    LightGreen, Teal, Navy, Blue, SteelBlue, LightBlue, Purple, Lilac, Pink, BrightPink, Red, Maroon, Orange, Coral,
    Yellow, Mustard,
];
/// Colour at each position of the palette of denim washes.
const DENIM: [Colour; 5] = [Blue, Navy, LightBlue, Black, Grey];
/// Colour at each position of the palette of hair.
const HAIR: [Colour; 8] = [Black, DarkBrown, Brown, Tan, Blond, Ginger, Grey, White];

fn upper_kind(kind: UpperKind) -> super::Kind {
    match kind {
        UpperKind::TShirt => TShirt,
        UpperKind::Polo => Polo,
        UpperKind::Shirt | UpperKind::ShortShirt => Shirt,
        UpperKind::Blouse => Blouse,
        UpperKind::TankTop => TankTop,
        UpperKind::LongSleeve => LongSleeveTop,
        UpperKind::Sweater => Sweater,
        UpperKind::Hoodie => Hoodie,
        UpperKind::Jacket => Jacket,
        UpperKind::DenimJacket => DenimJacket,
        UpperKind::LeatherJacket => LeatherJacket,
        UpperKind::Puffer => Puffer,
        UpperKind::Blazer => Blazer,
        UpperKind::Coat => Coat,
        UpperKind::Cardigan => Cardigan,
        UpperKind::Gilet => Gilet,
        UpperKind::HiVis => HiVis,
    }
}

fn lower_kind(kind: LowerKind) -> super::Kind {
    match kind {
        LowerKind::Jeans => Jeans,
        LowerKind::Trousers => Trousers,
        LowerKind::Sweatpants => TrackTrousers,
        LowerKind::Leggings => Leggings,
        LowerKind::Capri => Capri,
        LowerKind::Shorts => Shorts,
        LowerKind::ShortSkirt | LowerKind::LongSkirt => Skirt,
    }
}

fn of_palette(palette: &[Colour], shade: &Shade) -> super::ColourSet {
    super::ColourSet::of(&[palette[shade.colour]])
}

fn item(kind: super::Kind, palette: &[Colour], shade: &Shade) -> Item {
    let colours = Colours { main: vec![of_palette(palette, shade)], minor: Vec::new() };
    Item { kinds: KindSet::of(&[kind]), colours }
}

/// Converts `garment` to an item of `kind`. Stripes and checks have both colours as main colours,
/// other patterns only the first.
fn garment<K>(garment: &Garment<K>, kind: super::Kind, palette: &[Colour]) -> Item {
    let mut item = item(kind, palette, &garment.shade);
    let second = of_palette(&GARMENTS, &garment.second_shade);
    match garment.pattern {
        Pattern::Plain | Pattern::Marl => {}
        Pattern::HorizontalStripes | Pattern::VerticalStripes | Pattern::Checks => item.colours.main.push(second),
        Pattern::Print | Pattern::Floral | Pattern::ContrastSleeves | Pattern::SidePanels => {
            item.colours.minor.push(second);
        }
    }
    item
}

impl Facts {
    /// Facts about what is visible of a drawn person.
    pub fn of_drawn(person: &Person) -> Self {
        let mut facts = Self::unknown();
        facts.state_kinds(Part::Sex, &[KindSet::of(&[if person.woman { Woman } else { Man }])]);
        facts.state(Part::Hair, vec![hair(person)]);
        facts.dress(person);
        let (kind, shade) = &person.shoes;
        let kind = match kind {
            ShoeKind::Trainers => Trainers,
            ShoeKind::Leather => LeatherShoes,
            ShoeKind::Boots => Boots,
            ShoeKind::Flats => Flats,
        };
        facts.state(Part::Shoes, vec![item(kind, &GARMENTS, shade)]);
        let mut bags: Vec<Item> = Vec::new();
        let mut held: Vec<Item> = Vec::new();
        bags.extend(person.bag.map(|(kind, shade)| {
            let kind = match kind {
                BagKind::Backpack => Backpack,
                BagKind::Shoulder => ShoulderBag,
                BagKind::Handbag => Handbag,
                BagKind::Suitcase => Suitcase,
            };
            item(kind, &GARMENTS, &shade)
        }));
        if let Some((kind, shade)) = person.held_item {
            match kind {
                HeldItem::Paper => held.push(item(Paper, &GARMENTS, &shade)),
                HeldItem::Phone => held.push(item(Phone, &GARMENTS, &shade)),
                HeldItem::Shopping => bags.push(item(ShoppingBag, &GARMENTS, &shade)),
                HeldItem::Box => held.push(item(Carton, &GARMENTS, &shade)),
                HeldItem::Cup => held.push(item(Cup, &GARMENTS, &shade)),
            }
        }
        facts.state(Part::Bag, bags);
        facts.state(Part::Held, held);
        let hats = person.hat.map(|(kind, shade)| {
            let kind = match kind {
                HatKind::Cap => Cap,
                HatKind::Beanie => Beanie,
                HatKind::Brimmed => BrimmedHat,
                HatKind::HardHat => HardHat,
                HatKind::Hood => Hood,
            };
            item(kind, &GARMENTS, &shade)
        });
        facts.state(Part::Hat, hats.into_iter().collect());
        // Glasses stay unknown: many pictures are from behind, or too small to show them.
        facts.state(Part::Extra, Vec::new());
        facts
    }

    /// States the upper and lower garments and the sleeves.
    fn dress(&mut self, person: &Person) {
        let mut upper = Vec::new();
        let inner = person.dress.as_ref().map_or(&person.top, |(dress, _)| dress);
        let inner_kind = if person.dress.is_some() { Dress } else { upper_kind(inner.kind) };
        let mut below = true;
        if let Some(outer) = &person.outer {
            let denim = outer.kind == UpperKind::DenimJacket;
            upper.push(garment(outer, upper_kind(outer.kind), if denim { &DENIM } else { &GARMENTS }));
            // As in the captions, the inner garment shows below an open jacket, and below these
            // kinds.
            below = person.outer_open
                || matches!(outer.kind, UpperKind::Blazer | UpperKind::HiVis | UpperKind::Gilet | UpperKind::Cardigan);
        }
        if below {
            upper.push(garment(inner, inner_kind, &GARMENTS));
        }
        let sleeve = |kind: UpperKind| match kind.sleeve() {
            0.0 => Sleeveless,
            length if length < 1.0 => ShortSleeves,
            _ => LongSleeves,
        };
        let longest = person.outer.as_ref().map_or(Sleeveless, |outer| sleeve(outer.kind)).max(sleeve(inner.kind));
        self.state_kinds(Part::Sleeves, &[KindSet::of(&[longest])]);
        self.state(Part::Upper, upper);
        let lower = match &person.dress {
            Some((dress, _)) => garment(dress, LongDress, &GARMENTS),
            None => {
                let denim = person.lower.kind == LowerKind::Jeans;
                garment(&person.lower, lower_kind(person.lower.kind), if denim { &DENIM } else { &GARMENTS })
            }
        };
        self.state(Part::Lower, vec![lower]);
    }
}

/// Item for the hair; a hood hides it, and any hat hides short hair.
fn hair(person: &Person) -> Item {
    let short = KindSet::of(&[ShortHair, Bald]);
    let kinds = match person.hair {
        HairStyle::Bald => KindSet::of(&[Bald]),
        HairStyle::Balding => short,
        HairStyle::Cropped | HairStyle::Short | HairStyle::Chin => KindSet::of(&[ShortHair]),
        HairStyle::Shoulder | HairStyle::Long => KindSet::of(&[LongHair]),
        HairStyle::Ponytail => KindSet::of(&[Ponytail]),
        HairStyle::Bun => KindSet::of(&[TiedUp]),
        HairStyle::Curly => KindSet::of(&[ShortHair, LongHair]),
    };
    let hidden = match person.hat {
        Some((HatKind::Hood, _)) => true,
        Some(_) => kinds.within(short),
        None => false,
    };
    if hidden {
        return Item { kinds: Part::Hair.kinds(), colours: Colours::default() };
    }
    let bald = kinds.within(KindSet::of(&[Bald]));
    let colours = if bald { Vec::new() } else { vec![of_palette(&HAIR, &person.hair_shade)] };
    Item { kinds, colours: Colours { main: colours, minor: Vec::new() } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_figures::colour::{DENIM_COLOURS, GARMENT_COLOURS, HAIR_COLOURS as HAIRS};

    #[test]
    fn palettes_name_the_same_colours() {
        use super::super::colour::{ColourTerm, HAIR_COLOURS, THING_COLOURS};
        assert_eq!(
            (GARMENT_COLOURS.len(), DENIM_COLOURS.len(), HAIRS.len()),
            (GARMENTS.len(), DENIM.len(), HAIR.len())
        );
        let truth = |table: &[ColourTerm], word: &str, colour: Colour| {
            let term = table.iter().find(|term| term.words.contains(&word));
            term.map(|term| Colours::one(colour).are(term.yes, term.maybe))
        };
        let all = GARMENT_COLOURS.iter().zip(GARMENTS).map(|(named, colour)| (named, colour, THING_COLOURS));
        let all = all.chain(DENIM_COLOURS.iter().zip(DENIM).map(|(named, colour)| (named, colour, THING_COLOURS)));
        let all = all.chain(HAIRS.iter().zip(HAIR).map(|(named, colour)| (named, colour, HAIR_COLOURS)));
        for (named, colour, table) in all {
            let first = truth(table, named.words[0], colour);
            assert!(first == Some(Some(true)) || first.is_none(), "{} is {colour:?}: {first:?}", named.words[0]);
            for word in named.words {
                assert_ne!(truth(table, word, colour), Some(Some(false)), "a caption may say {word:?} of {colour:?}");
            }
        }
    }
}
