//! Finds things and colours in the free text of a label.
//!
//! The labels are short and plain ("red tote and black backpack"), so words are looked up from left
//! to right, the longest first, and colours belong to the next thing. What follows "with" is a trim
//! or a print.

use super::colour::ColourTerm;
use super::kind::Kind::*;
use super::words::terms;
use super::{ColourSet, Colours, Item, KindSet, Part};

/// Words of labels that no phrase has, or that a phrase means more widely.
#[rustfmt::skip]
static LABEL_WORDS: &[(&str, KindSet)] = &[
    ("top", KindSet::of(&[TShirt, LongSleeveTop, Blouse, TankTop, Tunic, Shirt, Polo, Jersey, SkiJacket])),
    ("short sleeved top", KindSet::of(&[TShirt, Blouse, Polo])),
    ("henley top", KindSet::of(&[TShirt, LongSleeveTop])),
    ("sports top", KindSet::of(&[TShirt, Jersey, TankTop])),
    ("biker top", KindSet::of(&[Jersey, Jacket, LeatherJacket])),
    ("vest top", KindSet::of(&[TankTop])),
    ("sleeveless vest", KindSet::of(&[TankTop])),
    ("basketball vest", KindSet::of(&[TankTop])),
    ("rash vest", KindSet::of(&[LongSleeveTop, Wetsuit])),
    ("harness vest", KindSet::of(&[Protector])),
    ("sleeveless t shirt", KindSet::of(&[TankTop])),
    ("athletic singlet", KindSet::of(&[TankTop])),
    ("high visibility top", KindSet::of(&[HiVis])),
    ("rugby shirt", KindSet::of(&[Jersey, Polo])),
    ("hooded jacket", KindSet::of(&[Hoodie, Jacket, RainJacket, Puffer, SkiJacket, Parka])),
    ("hooded pullover", KindSet::of(&[Hoodie])),
    ("hooded parka", KindSet::of(&[Parka])),
    ("hooded coat", KindSet::of(&[Coat, Parka])),
    ("zipped hoodie", KindSet::of(&[Hoodie])),
    ("fleece jacket", KindSet::of(&[Fleece])),
    ("fleece pullover", KindSet::of(&[Fleece])),
    ("pullover jacket", KindSet::of(&[RainJacket, Jacket])),
    ("windbreaker pullover", KindSet::of(&[RainJacket])),
    ("knitted jacket", KindSet::of(&[Cardigan])),
    ("motorcycle jacket", KindSet::of(&[LeatherJacket, Jacket])),
    ("riding jacket", KindSet::of(&[Blazer, Jacket])),
    ("tuxedo jacket", KindSet::of(&[Blazer])),
    ("tailcoat", KindSet::of(&[Blazer])),
    ("suit", KindSet::of(&[Blazer, SuitTrousers])),
    ("firefighter jacket", KindSet::of(&[Uniform])),
    ("umpire jacket", KindSet::of(&[Uniform, Jacket])),
    ("umpire shirt", KindSet::of(&[Uniform, Shirt, Polo])),
    ("combat jacket", KindSet::of(&[Uniform, Jacket])),
    ("chefs jacket", KindSet::of(&[ChefsJacket])),
    ("padded coat", KindSet::of(&[Puffer, Coat])),
    ("padded gilet", KindSet::of(&[Gilet])),
    ("puffer vest", KindSet::of(&[Gilet])),
    ("robe like coat", KindSet::of(&[Coat, Robe])),
    ("knitted tunic", KindSet::of(&[Tunic, Sweater])),
    ("uniform shirt", KindSet::of(&[Uniform])),
    ("overalls", KindSet::of(&[Overalls, SuitLegs])),
    ("dungarees", KindSet::of(&[SuitLegs])),
    ("triathlon suit", KindSet::of(&[RacingSuit, SuitLegs])),
    ("racing suit", KindSet::of(&[RacingSuit])),
    ("ski jumping suit", KindSet::of(&[RacingSuit])),
    ("wetsuit top", KindSet::of(&[Wetsuit])),
    ("wetsuit", KindSet::of(&[Wetsuit, SuitLegs])),
    ("wetsuit legs", KindSet::of(&[SuitLegs])),
    ("wetsuit leggings", KindSet::of(&[SuitLegs])),
    ("ski suit bottoms", KindSet::of(&[SuitLegs])),
    ("suit legs", KindSet::of(&[SuitLegs, SuitTrousers])),
    ("academic gown", KindSet::of(&[Robe])),
    ("housedress", KindSet::of(&[Dress, LongDress])),
    ("dress", KindSet::of(&[Dress, LongDress])),
    ("dress shirt", KindSet::of(&[Shirt])),
    ("robe", KindSet::of(&[Robe, LongDress])),
    ("body armour", KindSet::of(&[Protector])),
    ("chest protector", KindSet::of(&[Protector])),
    ("race bib", KindSet::of(&[Protector])),
    ("bikini top", KindSet::of(&[BikiniTop])),
    ("bikini bottoms", KindSet::of(&[SwimBottoms])),
    ("roll neck", KindSet::of(&[Sweater, LongSleeveTop])),
    ("trousers", KindSet::of(&[Trousers])),
    ("chinos", KindSet::of(&[Trousers])),
    ("track trousers", KindSet::of(&[TrackTrousers])),
    ("tracksuit trousers", KindSet::of(&[TrackTrousers])),
    ("snow trousers", KindSet::of(&[SkiTrousers])),
    ("baseball knickers", KindSet::of(&[BaseballTrousers])),
    ("knee breeches", KindSet::of(&[Capri])),
    ("three quarter length trousers", KindSet::of(&[Capri])),
    ("denim bottoms", KindSet::of(&[Jeans, DenimShorts])),
    ("denim knee length shorts", KindSet::of(&[DenimShorts])),
    ("running shorts", KindSet::of(&[SportsShorts])),
    ("cycling shorts", KindSet::of(&[SportsShorts])),
    ("cargo shorts", KindSet::of(&[Shorts])),
    ("board shorts", KindSet::of(&[Shorts, SportsShorts])),
    ("wrap", KindSet::of(&[Skirt])),
    ("flats", KindSet::of(&[Flats])),
    ("plimsolls", KindSet::of(&[Trainers])),
    ("skate shoes", KindSet::of(&[Trainers])),
    ("lace up shoes", KindSet::of(&[LeatherShoes, Trainers])),
    ("wedge heels", KindSet::of(&[Heels])),
    ("wedge shoes", KindSet::of(&[Heels])),
    ("platform shoes", KindSet::of(&[Heels])),
    ("sports shoes", KindSet::of(&[Trainers])),
    ("high heeled sandals", KindSet::of(&[Heels, Sandals])),
    ("snowboard boots", KindSet::of(&[SkiBoots])),
    ("boots", KindSet::of(&[Boots])),
    ("barefoot", KindSet::of(&[Barefoot])),
    ("no shoes", KindSet::of(&[Barefoot])),
    ("crossbody bag", KindSet::of(&[ShoulderBag])),
    ("cross body strap", KindSet::of(&[ShoulderBag])),
    ("shoulder strap", KindSet::of(&[ShoulderBag])),
    ("backpack straps", KindSet::of(&[Backpack])),
    ("tote", KindSet::of(&[Tote])),
    ("straw bag", KindSet::of(&[Tote, Handbag, ShoulderBag])),
    ("waist pack", KindSet::of(&[WaistBag])),
    ("belt pouch", KindSet::of(&[WaistBag])),
    ("thigh bag", KindSet::of(&[WaistBag])),
    ("top box", KindSet::of(&[BikeBag])),
    ("cap", KindSet::of(&[Cap])),
    ("bobble hat", KindSet::of(&[Beanie])),
    ("cowboy hat", KindSet::of(&[BrimmedHat])),
    ("straw hat", KindSet::of(&[BrimmedHat])),
    ("bucket hat", KindSet::of(&[BrimmedHat])),
    ("fedora", KindSet::of(&[BrimmedHat])),
    ("top hat", KindSet::of(&[BrimmedHat])),
    ("peaked hat", KindSet::of(&[Cap, FlatCap])),
    ("beret", KindSet::of(&[OtherHat])),
    ("chefs hat", KindSet::of(&[OtherHat])),
    ("skullcap", KindSet::of(&[OtherHat])),
    ("skull cap", KindSet::of(&[OtherHat, Beanie])),
    ("mortarboard", KindSet::of(&[OtherHat])),
    ("headdress", KindSet::of(&[OtherHat])),
    ("fur hat", KindSet::of(&[OtherHat])),
    ("visor", KindSet::of(&[Visor])),
    ("turban", KindSet::of(&[Headscarf])),
    ("headwrap", KindSet::of(&[Headscarf])),
    ("headwear", Part::Hat.kinds()),
    ("headgear", Part::Hat.kinds()),
    ("hard hat", KindSet::of(&[HardHat])),
    ("batting helmet", KindSet::of(&[Helmet])),
    ("full face helmet", KindSet::of(&[Helmet])),
    ("riding helmet", KindSet::of(&[Helmet])),
    ("half helmet", KindSet::of(&[Helmet])),
    ("catchers mitt", KindSet::of(&[BaseballGlove])),
    ("fielding glove", KindSet::of(&[BaseballGlove])),
    ("batting gloves", KindSet::of(&[Gloves])),
    ("batting glove", KindSet::of(&[Gloves])),
    ("motor scooter", KindSet::of(&[Motorbike])),
    ("police motorcycle", KindSet::of(&[Motorbike])),
    ("quad bike", KindSet::of(&[])),
    ("toy horse", KindSet::of(&[])),
    ("bow tie", KindSet::of(&[Tie])),
    ("tennis ball", KindSet::of(&[Ball])),
    ("volleyball", KindSet::of(&[Ball])),
    ("clipboard", KindSet::of(&[Paper])),
    ("folder", KindSet::of(&[Paper])),
    ("paper sign", KindSet::of(&[Paper])),
    ("paper", KindSet::of(&[Paper])),
    ("paper cup", KindSet::of(&[Cup])),
    ("mug", KindSet::of(&[Cup])),
    ("wine glass", KindSet::of(&[Bottle])),
    ("martini glass", KindSet::of(&[Bottle])),
    ("glass of red wine", KindSet::of(&[Bottle])),
    ("champagne flute", KindSet::of(&[Bottle])),
    ("puppy", KindSet::of(&[Dog])),
    ("ski pole", KindSet::of(&[Skis])),
    ("ski poles", KindSet::of(&[Skis])),
    ("rod", KindSet::of(&[Stick])),
    ("badge", KindSet::of(&[Lanyard])),
];

/// Words that only shade the colour after them, where no term has both.
const SHADES: [&str; 16] = [
    "dark", "light", "pale", "bright", "deep", "very", "neon", "faded", "mottled", "dusty", "royal", "greyish", "rust",
    "pinkish", "strawberry", "sky",
];

/// Words with plain letters alone, and commas; hyphens part words, apostrophes do not.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let spaced = text.to_lowercase().replace(['\'', '\u{2019}'], "").replace(',', " , ");
    let words = spaced.split(|c: char| !c.is_alphanumeric() && c != ',').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Whether `tokens` begin with `phrase`, whose last word may be a plural; with how many tokens.
fn begins(tokens: &[String], phrase: &str) -> Option<usize> {
    let words: Vec<String> = self::tokens(phrase);
    let same = |(at, word): (usize, &String)| {
        let token = &tokens[at];
        token == word || at + 1 == words.len() && token.strip_suffix('s') == Some(word)
    };
    (tokens.len() >= words.len() && words.iter().enumerate().all(same)).then_some(words.len())
}

/// The longest term at the beginning of `tokens`: its length and its kinds in `parts`.
fn kind_at(tokens: &[String], parts: KindSet) -> Option<(usize, KindSet)> {
    let own = LABEL_WORDS.iter().map(|(words, kinds)| (*words, *kinds, true));
    let said = Part::ALL.iter().flat_map(|part| terms(*part)).filter(|term| !term.wide);
    let said = said.flat_map(|term| term.words.iter().map(|word| (*word, term.yes, false)));
    let found = own.chain(said).filter_map(|(words, kinds, own)| Some((begins(tokens, words)?, own, kinds.and(parts))));
    // A word that a label uses in its own sense wins over the same word of a phrase.
    let (length, _, kinds) = found.max_by_key(|(length, own, kinds)| (*length, *own, !kinds.is_empty()))?;
    Some((length, kinds))
}

/// All colours that `tokens` name, in their order; what stands side by side ("grey blue") is one of
/// both.
fn colours(tokens: &[String], table: &[ColourTerm]) -> Vec<ColourSet> {
    let (mut found, mut at, mut last_end) = (Vec::<ColourSet>::new(), 0, None);
    while at < tokens.len() {
        let all = table.iter().flat_map(|term| term.words.iter().map(move |word| (*word, term.label)));
        let named = all.filter_map(|(word, set)| Some((begins(&tokens[at..], word)?, set)));
        let Some((length, set)) = named.max_by_key(|(length, _)| *length) else {
            at += 1;
            continue;
        };
        let shades = length == 1
            && SHADES.contains(&tokens[at].as_str())
            && tokens.get(at + 1).is_some_and(|_| !colours(&tokens[at + 1..at + 2], table).is_empty());
        if !shades {
            match found.last_mut().filter(|_| last_end == Some(at)) {
                Some(last) => *last = last.or(set),
                None => found.push(set),
            }
            last_end = Some(at + length);
        }
        at += length;
    }
    found
}

/// The colours of one thing; what follows "with" is minor.
pub(super) fn colours_of(text: &[String], table: &[ColourTerm]) -> Colours {
    let end = text.iter().position(|word| word == "with").unwrap_or(text.len());
    let (main, minor) = text.split_at(end);
    Colours { main: colours(main, table), minor: colours(minor, table) }
}

/// The things of `parts` that `text` names, each with its colours.
pub(super) fn things(text: &str, parts: &[Part], table: &[ColourTerm]) -> Vec<Item> {
    let tokens = tokens(text);
    let all = parts.iter().fold(KindSet::NONE, |all, part| all.or(part.kinds()));
    let (mut found, mut at) = (Vec::<(usize, usize, KindSet)>::new(), 0);
    while at < tokens.len() {
        let Some((length, kinds)) = kind_at(&tokens[at..], all) else {
            at += 1;
            continue;
        };
        if !kinds.is_empty() {
            let between = found.last().map(|(_, end, _)| &tokens[*end..at]);
            match (between, found.last_mut()) {
                // "jersey t-shirt" is what both words say, or either.
                (Some([]), Some(last)) => {
                    let both = last.2.and(kinds);
                    (last.1, last.2) = (at + length, if both.is_empty() { last.2.or(kinds) } else { both });
                }
                (Some([or]), Some(last)) if or == "or" => (last.1, last.2) = (at + length, last.2.or(kinds)),
                _ => found.push((at, at + length, kinds)),
            }
        }
        at += length;
    }
    let mut items: Vec<Item> = Vec::new();
    let mut from = 0;
    for (start, end, kinds) in found {
        let between = &tokens[from..start];
        let cut = between.iter().rposition(|word| ["over", "under", "with", ","].contains(&word.as_str()));
        let (before, own) = between.split_at(cut.unwrap_or(0));
        if let Some(last) = items.last_mut() {
            last.colours.minor.extend(colours(before, table));
        }
        let main = colours(own, table);
        items.push(Item { kinds, colours: Colours { main, minor: Vec::new() } });
        from = end;
    }
    if let Some(last) = items.last_mut() {
        last.colours.minor.extend(colours(&tokens[from..], table));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::super::colour::{Colour::*, THING_COLOURS};
    use super::*;

    fn colours_in(text: &str) -> Colours {
        colours_of(&tokens(text), THING_COLOURS)
    }

    #[test]
    fn colours_of_labels() {
        let set = |colours: &[_]| ColourSet::of(colours);
        for (text, main, minor) in [
            ("dark navy with yellow reflective stripes", vec![set(&[Navy])], vec![set(&[Yellow])]),
            ("black, white and red", vec![set(&[Black]), set(&[White]), set(&[Red])], vec![]),
            ("grey blue", vec![set(&[SteelBlue])], vec![]),
            ("grey green", vec![set(&[Grey, Green])], vec![]),
            ("dark", vec![THING_COLOURS.iter().find(|t| t.words[0] == "dark").unwrap().label], vec![]),
            ("very dark red", vec![set(&[Maroon])], vec![]),
            ("deep purple", vec![set(&[Purple])], vec![]),
            ("yellow-green", vec![set(&[Yellow, Green])], vec![]),
            ("unknown", vec![], vec![]),
        ] {
            assert_eq!(colours_in(text), Colours { main, minor }, "{text}");
        }
    }

    #[test]
    fn things_of_labels_with_their_colours() {
        let bags = things("red tote and black backpack", &[Part::Bag], THING_COLOURS);
        let kinds: Vec<KindSet> = bags.iter().map(|item| item.kinds).collect();
        assert_eq!(kinds, [KindSet::of(&[Tote]), KindSet::of(&[Backpack])]);
        assert_eq!(bags[0].colours.main, [ColourSet::of(&[Red])]);
        assert_eq!(bags[1].colours.main, [ColourSet::of(&[Black])]);
        let two = things("red and black backpack with a white pocket", &[Part::Bag], THING_COLOURS);
        assert_eq!(two.len(), 1);
        assert_eq!(two[0].colours.main, [ColourSet::of(&[Red]), ColourSet::of(&[Black])]);
        assert_eq!(two[0].colours.minor, [ColourSet::of(&[White])]);
        let one_of = things("flip-flops or sandals", &[Part::Shoes], THING_COLOURS);
        assert_eq!(one_of.len(), 1);
        assert_eq!(things("tennis polo top", &[Part::Upper], THING_COLOURS)[0].kinds, KindSet::of(&[Polo]));
        assert!(things("dress shirt", &[Part::Lower], THING_COLOURS).is_empty(), "no dress");
        assert!(things("two-tone", &[Part::Upper], THING_COLOURS).is_empty());
    }
}
