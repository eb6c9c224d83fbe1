//! Reads the facts of a label.
//!
//! Free text is more specific than its group, but the group is more reliable: a garment is what its
//! text says, limited to its group ("short-sleeved shirt" in the group of T-shirts is a T-shirt or
//! a polo shirt). For text that no table knows, only the group counts.

use super::colour::{HAIR_COLOURS, THING_COLOURS};
use super::kind::Kind::*;
use super::kind::{OUTERWEAR, VESTS};
use super::label::{BagGroup, GlassesGroup, HairLength, HatGroup, Label, LowerGroup, Sex, Sleeves, UpperGroup};
use super::scan::{colours_of, things, tokens};
use super::{Colours, Facts, Item, KindSet, Part};

/// Kinds that are worn directly on the upper body.
const INNER: KindSet = KindSet::of(&[TShirt, Polo, Jersey, TankTop, Shirt, Blouse, LongSleeveTop, Sweater, Sweatshirt]);
/// Words of a description that imply a garment below the one that the label names.
const BELOW: [&str; 6] = ["open", "over", "under", "beneath", "showing", "unzipped"];

fn upper_group(group: UpperGroup) -> KindSet {
    match group {
        UpperGroup::TShirt => KindSet::of(&[TShirt, Polo, Jersey, TankTop, LongSleeveTop]),
        UpperGroup::Shirt => KindSet::of(&[Shirt, Blouse, TankTop, LongSleeveTop, Tunic, TShirt, Uniform]),
        UpperGroup::Sweater => KindSet::of(&[Sweater, Sweatshirt, Hoodie, Cardigan, Fleece, LongSleeveTop, Tunic]),
        UpperGroup::Outerwear => OUTERWEAR.or(VESTS).or(KindSet::of(&[Fleece, Cardigan, Robe, LeatherJacket, Uniform])),
        UpperGroup::Dress => KindSet::of(&[Dress, Robe]),
        UpperGroup::Uniform => VESTS.or(KindSet::of(&[
            Blazer,
            Uniform,
            ChefsJacket,
            Wetsuit,
            RacingSuit,
            Overalls,
            Robe,
            Jersey,
            Protector,
            BikiniTop,
            Jacket,
            Shirt,
        ])),
        UpperGroup::None | UpperGroup::Unknown => Part::Upper.kinds(),
    }
}

fn lower_group(group: LowerGroup) -> KindSet {
    match group {
        LowerGroup::Jeans => KindSet::of(&[Jeans]),
        LowerGroup::Trousers => KindSet::of(&[
            Trousers,
            SuitTrousers,
            TrackTrousers,
            SkiTrousers,
            BaseballTrousers,
            Breeches,
            Capri,
            SuitLegs,
        ]),
        LowerGroup::Shorts => KindSet::of(&[Shorts, DenimShorts, SportsShorts, Capri]),
        LowerGroup::Skirt => KindSet::of(&[Skirt, LongDress]),
        LowerGroup::Leggings => KindSet::of(&[Leggings, SuitLegs]),
        LowerGroup::Unknown => Part::Lower.kinds(),
    }
}

fn hat_group(group: HatGroup) -> KindSet {
    match group {
        HatGroup::Cap => KindSet::of(&[Cap, FlatCap]),
        HatGroup::Helmet => KindSet::of(&[Helmet, HardHat]),
        HatGroup::Hat => KindSet::of(&[BrimmedHat, OtherHat, FlatCap, Headscarf, Headband, Visor, Beanie, Cap]),
        HatGroup::Beanie => KindSet::of(&[Beanie]),
        HatGroup::Hood => KindSet::of(&[Hood]),
        HatGroup::None | HatGroup::Unknown => Part::Hat.kinds(),
    }
}

/// Narrows the first of `items` that may be of `group` to the group. If there is none, adds the
/// group to the kinds of the first item, or makes it an item if `items` is empty.
fn within_group(items: &mut Vec<Item>, group: KindSet, colours: impl FnOnce() -> Colours) {
    match items.iter_mut().find(|item| item.kinds.meets(group)) {
        Some(item) => item.kinds = item.kinds.and(group),
        None => match items.first_mut() {
            Some(first) => first.kinds = first.kinds.or(group),
            None => items.push(Item { kinds: group, colours: colours() }),
        },
    }
}

/// Splits `text` into layers at "over" and "under", the outermost first.
fn layers(text: &[String]) -> Vec<&[String]> {
    let mut layers: Vec<&[String]> = text.split(|word| word == "over" || word == "under").collect();
    if text.iter().any(|word| word == "under") {
        layers.reverse();
    }
    layers
}

/// Removes items that are named a second time without a colour.
fn name_once(items: &mut Vec<Item>) {
    let all = items.clone();
    let mut at = 0;
    items.retain(|item| {
        let named = |(other, of): (usize, &Item)| {
            other != at && of.kinds == item.kinds && (other < at || !of.colours.main.is_empty())
        };
        let again = item.colours.main.is_empty() && all.iter().enumerate().any(named);
        at += 1;
        !again
    });
}

/// Splits `items` into those of `part` and others.
fn of_part(items: Vec<Item>, part: Part) -> (Vec<Item>, Vec<Item>) {
    items.into_iter().partition(|item| item.kinds.within(part.kinds()))
}

impl Facts {
    /// The facts that `label` states. Statements about what is "unknown" are neither true nor
    /// false.
    pub fn of_label(label: &Label) -> Self {
        let mut facts = Self::unknown();
        let of = &label.normalised;
        match of.sex {
            Sex::Male => facts.state_kinds(Part::Sex, &[KindSet::of(&[Man])]),
            Sex::Female => facts.state_kinds(Part::Sex, &[KindSet::of(&[Woman])]),
            Sex::Unknown => {}
        }
        facts.read_hair(label);
        let sleeves = match of.sleeves {
            Sleeves::Long => KindSet::of(&[LongSleeves]),
            Sleeves::Short => KindSet::of(&[ShortSleeves]),
            Sleeves::ThreeQuarter => KindSet::of(&[ShortSleeves, LongSleeves]),
            Sleeves::None => KindSet::of(&[Sleeveless]),
            Sleeves::Unknown => Part::Sleeves.kinds(),
        };
        facts.state_kinds(Part::Sleeves, &[sleeves]);
        let mut extras = facts.read_upper(label);
        facts.read_lower(label);
        facts.read_shoes(&label.shoes);
        facts.read_bag(label);
        if of.hat_group == HatGroup::None {
            facts.state(Part::Hat, Vec::new());
        } else if label.hat != "unknown" {
            let mut hats = things(&label.hat, &[Part::Hat], THING_COLOURS);
            hats.truncate(1);
            within_group(&mut hats, hat_group(of.hat_group), || colours_of(&tokens(&label.hat), THING_COLOURS));
            facts.state(Part::Hat, hats);
        }
        match of.glasses_group {
            GlassesGroup::NoneSeen => facts.state(Part::Glasses, Vec::new()),
            GlassesGroup::Glasses => facts.state_kinds(Part::Glasses, &[KindSet::of(&[Spectacles])]),
            GlassesGroup::Sunglasses => facts.state_kinds(Part::Glasses, &[KindSet::of(&[Sunglasses])]),
            GlassesGroup::Unknown => {}
        }
        extras.extend(facts.read_carried(&label.carried));
        name_once(&mut extras);
        // Scarves and watches are noted only where they were noticed, so their absence is never
        // certain.
        facts.seen_mut(Part::Extra).items = extras;
        facts
    }

    fn read_hair(&mut self, label: &Label) {
        let words = tokens(&label.hair);
        let tied = words.iter().any(|word| word == "ponytail");
        let kinds = match label.normalised.hair_length {
            HairLength::Long if tied => KindSet::of(&[Ponytail]),
            HairLength::Long => KindSet::of(&[LongHair]),
            HairLength::ShortMedium => KindSet::of(&[ShortHair]),
            HairLength::TiedUp => KindSet::of(&[TiedUp]),
            HairLength::Bald => KindSet::of(&[Bald]),
            HairLength::Hidden | HairLength::Unknown => Part::Hair.kinds(),
        };
        let colours = match label.normalised.hair_length {
            HairLength::Bald | HairLength::Hidden => Colours::default(),
            _ => colours_of(&words, HAIR_COLOURS),
        };
        self.state(Part::Hair, vec![Item { kinds, colours }]);
    }

    /// Reads the upper garments; returns the accessories that their text names.
    fn read_upper(&mut self, label: &Label) -> Vec<Item> {
        let found = things(&label.upper.kind, &[Part::Upper, Part::Extra], THING_COLOURS);
        let (mut items, extras) = of_part(found, Part::Upper);
        let group = label.normalised.upper_group;
        if group == UpperGroup::None {
            self.state(Part::Upper, Vec::new());
            return extras;
        }
        if tokens(&label.upper.kind).iter().any(|word| word == "under") {
            items.reverse();
        }
        within_group(&mut items, upper_group(group), Colours::default);
        let colour = tokens(&label.upper.colour);
        let layers = layers(&colour);
        // A single colour belongs to the first garment whose kind has no colour of its own.
        let first = match layers.as_slice() {
            [_] => items.iter().position(|item| item.colours.main.is_empty()).unwrap_or(0),
            _ => 0,
        };
        for (at, layer) in layers.into_iter().enumerate().map(|(at, layer)| (at + first, layer)) {
            let Colours { main, minor } = colours_of(layer, THING_COLOURS);
            match items.get_mut(at) {
                Some(item) => {
                    if !main.is_empty() {
                        item.colours.main = main;
                    }
                    item.colours.minor.extend(minor);
                }
                None => items.push(Item { kinds: INNER, colours: Colours { main, minor } }),
            }
        }
        let outer = OUTERWEAR.or(VESTS).or(KindSet::of(&[Cardigan]));
        let more_below = items.len() == 1
            && items[0].kinds.meets(outer)
            && label.captions.iter().flat_map(|text| tokens(text)).any(|word| BELOW.contains(&word.as_str()));
        self.state(Part::Upper, items);
        if more_below {
            self.seen_mut(Part::Upper).unseen = INNER;
        }
        extras
    }

    fn read_lower(&mut self, label: &Label) {
        let colours = colours_of(&tokens(&label.lower.colour), THING_COLOURS);
        let group = label.normalised.lower_group;
        if group == LowerGroup::Unknown && label.lower.kind == "unknown" && colours.main.is_empty() {
            return;
        }
        let mut items = things(&label.lower.kind, &[Part::Lower], THING_COLOURS);
        items.truncate(1);
        within_group(&mut items, lower_group(group), Colours::default);
        items[0].colours = colours;
        self.state(Part::Lower, items);
    }

    fn read_shoes(&mut self, text: &str) {
        let found = things(text, &[Part::Shoes], THING_COLOURS);
        let colours = || colours_of(&tokens(text), THING_COLOURS);
        match found.into_iter().next() {
            Some(shoes) => self.state(Part::Shoes, vec![shoes]),
            None if colours().main.is_empty() => {}
            None => self.state(Part::Shoes, vec![Item { kinds: Part::Shoes.kinds(), colours: colours() }]),
        }
    }

    fn read_bag(&mut self, label: &Label) {
        let group = match label.normalised.bag_group {
            BagGroup::Backpack => KindSet::of(&[Backpack]),
            BagGroup::Handbag => KindSet::of(&[ShoulderBag, Handbag, Tote, ShoppingBag, WaistBag, Briefcase]),
            BagGroup::Suitcase => KindSet::of(&[Suitcase, BikeBag]),
            BagGroup::None => return self.state(Part::Bag, Vec::new()),
            // Bags on a bicycle are noted, but whether the person has one is not.
            BagGroup::Unknown => return,
        };
        let mut bags = things(&label.bag, &[Part::Bag], THING_COLOURS);
        within_group(&mut bags, group, || colours_of(&tokens(&label.bag), THING_COLOURS));
        self.state(Part::Bag, bags);
    }

    /// Reads what is carried; returns the accessories. Garments named there are worn below the
    /// others, unless they hang somewhere.
    fn read_carried(&mut self, text: &str) -> Vec<Item> {
        let (mut held, mut extras) = (Vec::new(), Vec::new());
        for some in text.split(',').filter(|some| *some != "unknown") {
            let found = things(some, &[Part::Held, Part::Extra, Part::Bag, Part::Upper], THING_COLOURS);
            let hangs = tokens(some).iter().any(|word| ["arm", "waist", "tied", "ground"].contains(&word.as_str()));
            for item in found {
                match item.kinds.part().filter(|part| item.kinds.within(part.kinds())) {
                    Some(Part::Held) => held.push(item),
                    Some(Part::Extra) => extras.push(item),
                    Some(part @ (Part::Upper | Part::Bag)) if !hangs => {
                        self.seen_mut(part).items.push(item);
                        name_once(&mut self.seen_mut(part).items);
                    }
                    _ => {}
                }
            }
        }
        name_once(&mut held);
        if text != "unknown" {
            self.state(Part::Held, held);
        }
        extras
    }
}
