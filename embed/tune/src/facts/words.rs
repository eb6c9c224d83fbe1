//! Words for kinds of things, and the kinds that they mean.
//!
//! As with colours, `yes` holds kinds that everyone calls by the word, and `maybe` kinds that only
//! some people do (a padded vest or a parka is a "jacket" to some): of those a phrase is neither
//! true nor false.

use super::kind::Kind::{self, *};
use super::kind::{JACKETS, KindSet, OUTERWEAR, Part, VESTS};

/// Verb that a sentence uses for the thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// "wearing a red jacket"
    Wear,
    /// "carrying a backpack"
    Carry,
    /// "with a bicycle", "with long hair"
    With,
}

/// Words for a kind of things.
#[derive(Debug)]
pub struct Term {
    /// Words that mean the same, the most common first.
    pub words: &'static [&'static str],
    /// Kinds that the words mean.
    pub yes: KindSet,
    /// Kinds that the words mean to some people only.
    pub maybe: KindSet,
    /// Verb that a sentence uses for the thing.
    pub verb: Verb,
    /// Whether the words take no article: "jeans", "long hair".
    pub plural: bool,
    /// Whether the words name the whole part instead of a kind: "top". They are used only with a
    /// colour.
    pub wide: bool,
}

const fn term(words: &'static [&'static str], yes: &[Kind], maybe: &[Kind]) -> Term {
    let (yes, maybe) = (KindSet::of(yes), KindSet::of(maybe));
    Term { words, yes, maybe, verb: Verb::Wear, plural: false, wide: false }
}

impl Term {
    const fn plural(self) -> Self {
        Self { plural: true, ..self }
    }

    const fn carried(self) -> Self {
        Self { verb: Verb::Carry, ..self }
    }

    const fn with(self) -> Self {
        Self { verb: Verb::With, ..self }
    }

    const fn also(self, yes: KindSet) -> Self {
        Self { yes: self.yes.or(yes), ..self }
    }

    const fn perhaps(self, maybe: KindSet) -> Self {
        Self { maybe: self.maybe.or(maybe), ..self }
    }

    /// A term for anything of `part`.
    const fn any(words: &'static [&'static str], part: Part) -> Self {
        Self { wide: true, ..term(words, &[], &[]).also(part.kinds()) }
    }
}

/// The words of `part`.
pub fn terms(part: Part) -> &'static [Term] {
    match part {
        Part::Sex => SEX,
        Part::Hair => HAIR,
        Part::Sleeves => SLEEVES,
        Part::Upper => UPPER,
        Part::Lower => LOWER,
        Part::Shoes => SHOES,
        Part::Bag => BAGS,
        Part::Hat => HATS,
        Part::Glasses => GLASSES,
        Part::Held => HELD,
        Part::Extra => EXTRAS,
    }
}

static SEX: &[Term] = &[term(&["man", "male"], &[Man], &[]), term(&["woman", "female", "lady"], &[Woman], &[])];

static HAIR: &[Term] = &[
    term(&["bald head", "shaved head"], &[Bald], &[]).with(),
    term(&["short hair"], &[ShortHair], &[TiedUp, Bald]).with().plural(),
    term(&["long hair"], &[LongHair, Ponytail], &[TiedUp]).with().plural(),
    term(&["tied-back hair", "tied-up hair"], &[TiedUp, Ponytail], &[LongHair]).with().plural(),
];

static SLEEVES: &[Term] = &[
    term(&["short sleeves"], &[ShortSleeves], &[Sleeveless]).with().plural(),
    term(&["long sleeves"], &[LongSleeves], &[]).with().plural(),
    // These are true of anything with such sleeves, including jackets.
    term(&["short-sleeved top"], &[ShortSleeves], &[Sleeveless]),
    term(&["long-sleeved top"], &[LongSleeves], &[]),
    term(&["no sleeves", "bare arms"], &[Sleeveless], &[ShortSleeves]).with().plural(),
];

static UPPER: &[Term] = &[
    term(&["t-shirt", "tee", "tee shirt"], &[TShirt], &[Polo, Jersey, LongSleeveTop, TankTop]),
    term(&["polo shirt", "polo"], &[Polo], &[TShirt, Jersey]),
    term(&["sports jersey", "jersey", "sports shirt"], &[Jersey], &[TShirt, Polo, TankTop, LongSleeveTop]),
    term(&["sleeveless top", "tank top", "vest top"], &[TankTop], &[Gilet, Blouse, Jersey, BikiniTop, Dress]),
    term(
        &["shirt"],
        &[Shirt],
        &[Blouse, Polo, TShirt, LongSleeveTop, Jersey, Uniform, ChefsJacket, Tunic, TankTop, Sweatshirt],
    ),
    term(&["blouse"], &[Blouse], &[Shirt, Tunic, LongSleeveTop, TankTop]),
    term(
        &["long-sleeved t-shirt", "long-sleeve tee"],
        &[LongSleeveTop],
        &[Sweater, Sweatshirt, Shirt, Blouse, Fleece, Jersey, TShirt, Tunic, Polo],
    ),
    term(&["tunic"], &[Tunic], &[Blouse, Dress, Shirt, Robe]),
    term(&["sweater", "jumper", "pullover"], &[Sweater], &[Sweatshirt, Fleece, Cardigan, Hoodie, LongSleeveTop]),
    term(&["sweatshirt"], &[Sweatshirt, Hoodie], &[Sweater, Fleece, LongSleeveTop]),
    term(&["fleece"], &[Fleece], &[Sweatshirt, Sweater, Hoodie, Jacket]),
    term(
        &["hoodie", "hooded top", "hooded sweatshirt"],
        &[Hoodie],
        &[Sweatshirt, Fleece, Jacket, Parka, Puffer, SkiJacket, RainJacket, Sweater],
    ),
    term(&["cardigan"], &[Cardigan], &[Sweater, Coat]),
    term(&["jacket"], &[], &[Coat, Parka, Fleece, Cardigan, Hoodie, Uniform, ChefsJacket, RacingSuit, Protector])
        .also(JACKETS)
        .perhaps(VESTS),
    term(&["coat"], &[Coat, Parka], &[Robe, Cardigan, ChefsJacket, Uniform]).perhaps(JACKETS),
    term(&["jacket or coat"], &[], &[Fleece, Cardigan, Hoodie, Uniform, ChefsJacket, Robe, RacingSuit, Protector])
        .also(OUTERWEAR)
        .perhaps(VESTS),
    term(&["denim jacket", "jean jacket"], &[DenimJacket], &[]),
    term(&["leather jacket", "biker jacket"], &[LeatherJacket], &[]),
    term(&["padded jacket", "puffer jacket", "quilted jacket"], &[Puffer], &[SkiJacket, Parka, Coat, Gilet]),
    term(&["ski jacket"], &[SkiJacket], &[Puffer, RainJacket, Jacket, Parka, RacingSuit]),
    term(&["rain jacket", "waterproof jacket", "windbreaker", "anorak"], &[RainJacket], &[Jacket, Parka, SkiJacket]),
    term(&["suit jacket", "blazer"], &[Blazer], &[Coat]),
    term(&["parka"], &[Parka], &[Coat, Puffer, RainJacket, SkiJacket, Jacket]),
    term(&["padded vest", "gilet", "body warmer"], &[Gilet], &[Waistcoat, HiVis, Protector, Puffer]),
    term(&["waistcoat"], &[Waistcoat], &[Gilet]),
    term(&["vest"], &[], &[TankTop, Protector]).also(VESTS),
    term(&["high-visibility vest", "hi-vis vest", "safety vest"], &[HiVis], &[]),
    term(
        &["uniform"],
        &[Uniform],
        &[ChefsJacket, Jersey, RacingSuit, Overalls, Shirt, Jacket, HiVis, Blazer, Protector],
    ),
    term(&["chef's jacket"], &[ChefsJacket], &[]),
    term(&["wetsuit"], &[Wetsuit], &[RacingSuit]),
    term(&["racing suit"], &[RacingSuit], &[Wetsuit, Overalls]),
    term(&["overalls"], &[Overalls], &[RacingSuit, Uniform]).plural(),
    term(&["robe"], &[Robe], &[Dress, Coat, Tunic]),
    term(&["dress"], &[Dress], &[Tunic, Robe]),
    Term::any(&["top"], Part::Upper),
];

static LOWER: &[Term] = &[
    term(&["jeans", "denim jeans"], &[Jeans], &[]).plural(),
    term(
        &["trousers", "pants", "long trousers"],
        // Somebody who types "blue trousers" wants to see blue jeans too.
        &[Trousers, SuitTrousers, TrackTrousers, SkiTrousers, BaseballTrousers, Jeans],
        &[Leggings, Capri, Breeches, SuitLegs],
    )
    .plural(),
    term(&["suit trousers", "dress trousers"], &[SuitTrousers], &[Trousers]).plural(),
    term(&["tracksuit bottoms", "sweatpants", "track pants"], &[TrackTrousers], &[Trousers, SkiTrousers, Leggings])
        .plural(),
    term(&["ski trousers", "snow pants"], &[SkiTrousers], &[SuitLegs]).plural(),
    term(&["baseball trousers", "baseball pants"], &[BaseballTrousers], &[]).plural(),
    term(&["riding breeches"], &[Breeches], &[]).plural(),
    term(&["leggings", "tights"], &[Leggings], &[Capri, SuitLegs, Breeches]).plural(),
    term(&["cropped trousers", "capri trousers"], &[Capri], &[Shorts, Breeches, BaseballTrousers, Leggings]).plural(),
    term(&["shorts"], &[Shorts, DenimShorts, SportsShorts], &[Capri, SwimBottoms, BaseballTrousers]).plural(),
    term(&["denim shorts"], &[DenimShorts], &[]).plural(),
    term(&["sports shorts"], &[SportsShorts], &[Shorts]).plural(),
    term(&["skirt"], &[Skirt], &[LongDress]),
    term(&["skirt or dress"], &[Skirt, LongDress], &[]),
    Term::any(&["bottoms", "clothes on the legs"], Part::Lower).plural(),
];

static SHOES: &[Term] = &[
    term(&["trainers", "sneakers", "running shoes"], &[Trainers], &[Cleats, LeatherShoes, Flats]).plural(),
    term(&["leather shoes", "dress shoes"], &[LeatherShoes], &[Flats, Heels, Boots]).plural(),
    term(&["high heels", "heeled shoes"], &[Heels], &[Boots, Sandals, LeatherShoes]).plural(),
    term(&["flat shoes", "ballet flats"], &[Flats], &[LeatherShoes, Sandals, Trainers]).plural(),
    term(&["cleats"], &[Cleats], &[Trainers]).plural(),
    term(&["boots"], &[Boots, SkiBoots], &[LeatherShoes]).plural(),
    term(&["ski boots"], &[SkiBoots], &[]).plural(),
    term(&["sandals", "flip-flops"], &[Sandals], &[Flats, Heels]).plural(),
    term(&["bare feet"], &[Barefoot], &[Sandals]).with().plural(),
    term(&["shoes"], &[Trainers, LeatherShoes, Heels, Flats, Cleats], &[Boots, SkiBoots, Sandals]).plural(),
];

static BAGS: &[Term] = &[
    term(&["backpack", "rucksack"], &[Backpack], &[]).carried(),
    term(&["shoulder bag", "cross-body bag", "messenger bag"], &[ShoulderBag], &[Handbag, Tote, WaistBag, Briefcase])
        .carried(),
    term(&["handbag", "purse"], &[Handbag], &[ShoulderBag, Tote]).carried(),
    term(&["handbag or shoulder bag"], &[Handbag, ShoulderBag, Tote], &[WaistBag, ShoppingBag, Briefcase]).carried(),
    term(&["tote bag"], &[Tote], &[Handbag, ShoulderBag, ShoppingBag]).carried(),
    term(&["shopping bag", "carrier bag", "plastic bag"], &[ShoppingBag], &[Tote, Handbag]).carried(),
    term(&["waist bag", "belt bag"], &[WaistBag], &[ShoulderBag]).carried(),
    term(&["briefcase"], &[Briefcase], &[ShoulderBag, Handbag]).carried(),
    term(&["suitcase"], &[Suitcase], &[BikeBag, Briefcase]).carried(),
    term(&["bag"], &[Backpack, ShoulderBag, Handbag, Tote, ShoppingBag], &[WaistBag, Briefcase, Suitcase, BikeBag])
        .carried(),
];

static HATS: &[Term] = &[
    term(&["cap", "baseball cap"], &[Cap], &[FlatCap, Visor, OtherHat]),
    term(&["flat cap"], &[FlatCap], &[]),
    term(&["beanie", "knitted hat", "woolly hat"], &[Beanie], &[]),
    term(&["brimmed hat", "sun hat"], &[BrimmedHat], &[OtherHat]),
    term(&["hat"], &[Cap, FlatCap, Beanie, BrimmedHat, OtherHat], &[Helmet, HardHat, Headscarf, Headband, Visor, Hood]),
    term(&["sun visor"], &[Visor], &[Cap]),
    term(&["headscarf", "bandana"], &[Headscarf], &[Headband, Hood, OtherHat]),
    term(&["headband"], &[Headband], &[Headscarf]),
    term(&["helmet"], &[Helmet, HardHat], &[]),
    term(&["hard hat", "safety helmet"], &[HardHat], &[]),
    term(&["hood", "raised hood"], &[Hood], &[Headscarf]),
];

static GLASSES: &[Term] = &[
    term(&["glasses"], &[Spectacles, Sunglasses], &[Goggles]).plural(),
    term(&["sunglasses", "dark glasses"], &[Sunglasses], &[Goggles]).plural(),
    term(&["goggles"], &[Goggles], &[Sunglasses]).plural(),
];

static HELD: &[Term] = &[
    term(&["phone", "mobile phone", "cell phone"], &[Phone], &[Camera]).carried(),
    term(&["tennis racket", "racket"], &[Racket], &[]).carried(),
    term(&["umbrella", "parasol"], &[Umbrella], &[]).carried(),
    term(&["bicycle", "bike"], &[Bicycle], &[Motorbike]).with(),
    term(&["motorbike", "motorcycle", "scooter"], &[Motorbike], &[Bicycle]).with(),
    term(&["skateboard"], &[Skateboard], &[]).with(),
    term(&["surfboard"], &[Surfboard], &[]).carried(),
    term(&["snowboard"], &[Snowboard], &[Skis]).with(),
    term(&["skis", "ski poles"], &[Skis], &[Snowboard]).with().plural(),
    term(&["frisbee"], &[Frisbee], &[]).carried(),
    term(&["baseball bat"], &[BaseballBat], &[]).carried(),
    term(&["baseball glove"], &[BaseballGlove], &[]).with(),
    term(&["ball"], &[Ball], &[]).carried(),
    term(&["horse"], &[Horse], &[]).with(),
    term(&["dog"], &[Dog], &[]).with(),
    term(&["papers", "sheets of paper"], &[Paper], &[Carton]).carried().plural(),
    term(&["cup"], &[Cup], &[DrinkingGlass]).carried(),
    term(&["drinking glass"], &[DrinkingGlass], &[Cup, Bottle]).carried(),
    term(&["bottle"], &[Bottle], &[DrinkingGlass]).carried(),
    term(&["camera"], &[Camera], &[Phone]).carried(),
    term(&["laptop"], &[Laptop], &[Paper]).carried(),
    term(&["stick", "pole"], &[Stick], &[BaseballBat, Skis, Umbrella]).carried(),
    term(&["box"], &[Carton], &[]).carried(),
];

static EXTRAS: &[Term] = &[
    term(&["scarf"], &[Scarf], &[]),
    term(&["tie"], &[Tie], &[]),
    term(&["gloves"], &[Gloves], &[]).plural(),
    term(&["watch", "wristwatch"], &[Watch], &[]),
    term(&["lanyard", "name badge"], &[Lanyard], &[]),
    term(&["face mask"], &[FaceMask], &[]),
    term(&["apron"], &[Apron], &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_means_kinds_of_its_own_part() {
        for part in Part::ALL {
            let mut named = KindSet::NONE;
            for term in terms(*part) {
                assert!(term.yes.within(part.kinds()), "{term:?}");
                assert!(term.yes.or(term.maybe).within(part.kinds()) && !term.yes.meets(term.maybe), "{term:?}");
                named = named.or(if term.wide { KindSet::NONE } else { term.yes });
            }
            let unnamed = Kind::ALL.iter().filter(|k| KindSet::of(&[**k]).within(part.kinds()));
            let unnamed: Vec<_> = unnamed.filter(|k| !named.meets(KindSet::of(&[**k]))).collect();
            let known = [Protector, BikiniTop, SuitLegs, SwimBottoms, BikeBag, OtherHat];
            assert!(unnamed.iter().all(|kind| known.contains(kind)), "no word for {unnamed:?}");
        }
    }

    #[test]
    fn no_word_means_two_things() {
        let mut words: Vec<&str> = Part::ALL.iter().flat_map(|p| terms(*p)).flat_map(|t| t.words).copied().collect();
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all);
    }
}
