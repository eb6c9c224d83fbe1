//! Vocabulary of the captions, British and American.
//!
//! Each list has words for training and held-out words. Captions with held-out words test whether a
//! model understands words it was never trained on.

use rand::Rng;

use super::person::{BagKind, HairStyle, HatKind, LowerKind, ShoeKind, UpperKind};

/// Words that a caption may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Words {
    /// Only words meant for training.
    Seen,
    /// A held-out word wherever there is one: the test of generalisation.
    HeldOut,
    /// Both kinds, each as likely as its share of the list.
    #[default]
    All,
}

/// Words for the same thing; a repeated word is drawn more often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Synonyms {
    pub seen: &'static [&'static str],
    pub held_out: &'static [&'static str],
}

const fn synonyms(seen: &'static [&'static str], held_out: &'static [&'static str]) -> Synonyms {
    Synonyms { seen, held_out }
}

impl Words {
    /// Draws one of `synonyms`.
    pub(crate) fn pick(self, rng: &mut impl Rng, synonyms: &Synonyms) -> &'static str {
        let Synonyms { seen, held_out } = *synonyms;
        let at = match self {
            Words::Seen => rng.random_range(0..seen.len()),
            Words::HeldOut if held_out.is_empty() => rng.random_range(0..seen.len()),
            Words::HeldOut => seen.len() + rng.random_range(0..held_out.len()),
            Words::All => rng.random_range(0..seen.len() + held_out.len()),
        };
        if at < seen.len() { seen[at] } else { held_out[at - seen.len()] }
    }
}

// People.
pub(crate) static ANYONE: Synonyms = synonyms(&["person", "pedestrian", "individual"], &["passer-by"]);
pub(crate) static OLD: Synonyms = synonyms(&["older", "elderly", "old", "senior"], &["aged"]);
pub(crate) static HEAVY: Synonyms = synonyms(&["heavy", "large", "overweight", "big"], &["stout", "heavyset"]);
pub(crate) static SLIM: Synonyms = synonyms(&["slim", "thin"], &["slender"]);
pub(crate) static BEARD: Synonyms = synonyms(&["a beard", "a short beard", "facial hair"], &["a goatee"]);
pub(crate) static GLASSES: Synonyms = synonyms(&["glasses", "glasses", "dark framed glasses"], &["spectacles"]);

// Hair.
pub(crate) static BALD: Synonyms =
    synonyms(&["a bald head", "a shaved head", "no hair", "a bald head"], &["a hairless head"]);
pub(crate) static BALDING: Synonyms =
    synonyms(&["a receding hairline", "very little hair", "a balding head"], &["thinning hair"]);
pub(crate) static CROPPED: Synonyms = synonyms(&["very short", "short", "cropped"], &["close-cut"]);
pub(crate) static CHIN: Synonyms = synonyms(&["chin length", "short", "bobbed"], &["jaw length"]);
pub(crate) static SHOULDER: Synonyms =
    synonyms(&["shoulder length", "medium length", "shoulder-length", "long"], &["mid-length"]);
pub(crate) static LONG: Synonyms = synonyms(&["long", "long", "very long"], &["waist length", "lengthy"]);
pub(crate) static LONG_BACK: Synonyms = synonyms(&["down the back", "below the shoulders"], &["past the shoulders"]);
pub(crate) static TIED: Synonyms =
    synonyms(&["tied back", "tied back in a ponytail", "in a ponytail"], &["pulled back", "gathered at the back"]);
pub(crate) static PONYTAIL: Synonyms = synonyms(&["ponytail"], &["pony tail"]);
pub(crate) static BUN: Synonyms = synonyms(
    &["in a bun", "tied up in a bun", "tied up at the back of the head", "up in a messy bun"],
    &["pinned up", "in a topknot"],
);
pub(crate) static CURLY: Synonyms = synonyms(&["curly", "bushy", "curly"], &["frizzy"]);

// Patterns.
pub(crate) static STRIPED: Synonyms = synonyms(&["striped", "striped", "horizontally striped"], &["stripy"]);
pub(crate) static STRIPES: Synonyms = synonyms(&["stripes", "horizontal stripes"], &["bands"]);
pub(crate) static UPRIGHT: Synonyms = synonyms(&["vertical stripes", "stripes"], &["pinstripes"]);
pub(crate) static CHECKED: Synonyms = synonyms(&["checked", "plaid", "checkered", "chequered"], &["tartan"]);
pub(crate) static PRINT: Synonyms = synonyms(&["logo", "print", "writing", "graphic"], &["lettering", "slogan"]);
pub(crate) static FLORAL: Synonyms = synonyms(&["floral", "patterned"], &["flowered", "flowery"]);
pub(crate) static PATTERN: Synonyms = synonyms(&["a floral pattern", "a pattern"], &["an embroidered pattern"]);
pub(crate) static MARL: Synonyms = synonyms(&["marled", "mottled", "heather", "knitted"], &["flecked"]);
pub(crate) static PANELS: Synonyms = synonyms(&["panels", "side stripes", "vertical stripes"], &["trim"]);
pub(crate) static LOOSE: Synonyms = synonyms(&["loose", "baggy"], &["oversized"]);

/// Names of an upper garment.
pub(crate) fn upper(kind: UpperKind) -> &'static Synonyms {
    use UpperKind::*;
    macro_rules! words {
        ($seen:expr, $held:expr) => {{
            static WORDS: Synonyms = synonyms($seen, $held);
            &WORDS
        }};
    }
    match kind {
        TShirt => {
            words!(&["t-shirt", "t-shirt", "short sleeved t-shirt", "short-sleeved top"], &["tee"])
        }
        Polo => words!(&["polo shirt", "polo", "short sleeved polo shirt"], &["golf shirt"]),
        Shirt => words!(
            &["shirt", "long sleeved shirt", "button-down shirt", "dress shirt", "collared shirt"],
            &["button-up shirt"]
        ),
        ShortShirt => words!(
            &["short sleeved shirt", "short-sleeved button shirt", "shirt with short sleeves"],
            &["bowling shirt"]
        ),
        Blouse => words!(&["blouse", "top", "shirt", "blouse"], &["tunic"]),
        TankTop => {
            words!(&["sleeveless top", "tank top", "vest top", "sleeveless blouse", "sleeveless shirt"], &["camisole"])
        }
        LongSleeve => {
            words!(&["long sleeved top", "long-sleeved t-shirt", "long sleeved shirt", "top"], &["long-sleeve tee"])
        }
        Sweater => {
            words!(&["sweater", "jumper", "knitted sweater", "sweatshirt", "knitted jumper"], &["pullover", "jersey"])
        }
        Hoodie => words!(&["hoodie", "hooded sweatshirt", "hooded top", "hooded sweater"], &["hoody"]),
        Jacket => words!(
            &["jacket", "jacket", "zip jacket", "short coat", "coat", "bomber jacket"],
            &["windbreaker", "anorak"]
        ),
        DenimJacket => words!(&["denim jacket", "denim jacket"], &["jean jacket"]),
        LeatherJacket => words!(&["leather jacket", "leather jacket", "jacket"], &["biker jacket"]),
        Puffer => words!(
            &["puffer jacket", "padded jacket", "winter jacket", "quilted jacket", "winter coat", "puffy jacket"],
            &["down jacket", "quilted anorak"]
        ),
        Blazer => words!(&["blazer", "suit jacket", "jacket", "suit coat"], &["sport coat"]),
        Coat => words!(
            &["coat", "long coat", "knee length coat", "thigh length coat", "trench coat", "winter coat"],
            &["overcoat"]
        ),
        Cardigan => words!(&["cardigan", "long cardigan", "knitted cardigan"], &["sweater coat"]),
        Gilet => words!(&["vest", "gilet", "sleeveless jacket", "padded vest"], &["body warmer"]),
        HiVis => words!(
            &["safety vest", "high visibility vest", "hi-vis vest", "high-vis vest"],
            &["reflective vest", "fluorescent vest"]
        ),
    }
}

pub(crate) static REFLECTIVE: Synonyms =
    synonyms(&[" with reflective stripes", " with grey stripes"], &[" with silver strips"]);
pub(crate) static DRESS: Synonyms = synonyms(&["dress", "dress", "dress"], &["frock", "gown"]);
pub(crate) static SKIRT: Synonyms = synonyms(&["skirt"], &[]);
pub(crate) static SHORTS: Synonyms = synonyms(&["shorts", "shorts", "short trousers"], &["bermuda shorts"]);
pub(crate) static ANY_JEANS: Synonyms = synonyms(&["jeans", "denim jeans", "blue jeans"], &["denims"]);
pub(crate) static JEANS: Synonyms = synonyms(&["denim trousers", "denim jeans", "pants", "trousers"], &["denims"]);
pub(crate) static OVER: Synonyms = synonyms(&["over", "over", "on top of", "with"], &["layered over"]);

/// Names of a lower garment.
pub(crate) fn lower(kind: LowerKind) -> &'static Synonyms {
    static TROUSERS: Synonyms = synonyms(&["trousers", "pants", "trousers", "chinos", "long trousers"], &["slacks"]);
    static SWEATPANTS: Synonyms =
        synonyms(&["sweatpants", "tracksuit bottoms", "jogging pants", "track pants"], &["joggers"]);
    static LEGGINGS: Synonyms = synonyms(&["leggings", "tight trousers", "tights", "tight pants"], &["skinny pants"]);
    static CAPRI: Synonyms = synonyms(&["cropped leggings", "capri pants", "cropped trousers"], &["capri tights"]);
    match kind {
        LowerKind::Jeans => &JEANS,
        LowerKind::Trousers => &TROUSERS,
        LowerKind::Sweatpants => &SWEATPANTS,
        LowerKind::Leggings => &LEGGINGS,
        LowerKind::Capri => &CAPRI,
        LowerKind::Shorts => &SHORTS,
        LowerKind::ShortSkirt | LowerKind::LongSkirt => &SKIRT,
    }
}

/// Names of shoes.
pub(crate) fn shoes(kind: ShoeKind) -> &'static Synonyms {
    static TRAINERS: Synonyms =
        synonyms(&["trainers", "sneakers", "shoes", "running shoes", "sport shoes"], &["tennis shoes"]);
    static LEATHER: Synonyms = synonyms(&["shoes", "leather shoes", "dress shoes"], &["oxfords"]);
    static BOOTS: Synonyms = synonyms(&["boots", "ankle boots", "boots", "shoes"], &["booties"]);
    static FLATS: Synonyms =
        synonyms(&["flat shoes", "slip-on shoes", "shoes", "ballet flats"], &["slip-ons", "pumps"]);
    match kind {
        ShoeKind::Trainers => &TRAINERS,
        ShoeKind::Leather => &LEATHER,
        ShoeKind::Boots => &BOOTS,
        ShoeKind::Flats => &FLATS,
    }
}

/// Names of a bag.
pub(crate) fn bag(kind: BagKind) -> &'static Synonyms {
    static BACKPACK: Synonyms = synonyms(&["backpack", "backpack", "bag on the back"], &["rucksack"]);
    static SHOULDER: Synonyms = synonyms(
        &["shoulder bag", "bag over the shoulder", "cross-body bag", "bag", "purse"],
        &["messenger bag", "satchel"],
    );
    static HANDBAG: Synonyms = synonyms(&["handbag", "purse", "bag in the hand", "hand bag"], &["tote bag"]);
    static SUITCASE: Synonyms =
        synonyms(&["suitcase", "rolling suitcase", "wheeled suitcase"], &["trolley case", "luggage case"]);
    match kind {
        BagKind::Backpack => &BACKPACK,
        BagKind::Shoulder => &SHOULDER,
        BagKind::Handbag => &HANDBAG,
        BagKind::Suitcase => &SUITCASE,
    }
}

pub(crate) static PAPER: Synonyms =
    synonyms(&["a white sheet of paper", "some papers", "a sheet of paper", "white papers"], &["a document"]);
pub(crate) static PHONE: Synonyms = synonyms(&["a phone", "a mobile phone", "a cell phone"], &["a smartphone"]);
pub(crate) static SHOPPING: Synonyms = synonyms(&["shopping bag", "plastic bag", "paper bag"], &["carrier bag"]);
pub(crate) static BOX: Synonyms = synonyms(&["a cardboard box", "a box", "a brown box"], &["a parcel", "a carton"]);
pub(crate) static CUP: Synonyms = synonyms(&["a cup", "a white cup", "a coffee cup"], &["a mug"]);
pub(crate) static HOOD: Synonyms = synonyms(&["the hood up", "the hood pulled up"], &["a hood over the head"]);

/// Names of a hat.
pub(crate) fn hat(kind: HatKind) -> &'static Synonyms {
    static CAP: Synonyms = synonyms(&["cap", "baseball cap", "cap", "hat"], &["peaked cap"]);
    static BEANIE: Synonyms = synonyms(&["beanie", "knitted hat", "hat", "beanie hat"], &["woolly hat"]);
    static BRIMMED: Synonyms = synonyms(&["hat", "sun hat", "straw hat", "brimmed hat"], &["fedora", "trilby"]);
    static HELMET: Synonyms = synonyms(&["hard hat", "helmet", "safety helmet"], &["construction helmet"]);
    match kind {
        HatKind::Cap => &CAP,
        HatKind::Beanie => &BEANIE,
        HatKind::Brimmed => &BRIMMED,
        HatKind::HardHat => &HELMET,
        HatKind::Hood => &HOOD,
    }
}

/// Words for the length of hair, for styles that are described by it.
pub(crate) fn hair_length(style: HairStyle) -> &'static Synonyms {
    match style {
        HairStyle::Cropped => &CROPPED,
        HairStyle::Chin => &CHIN,
        HairStyle::Shoulder => &SHOULDER,
        HairStyle::Curly => &CURLY,
        _ => &LONG,
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn each_choice_keeps_to_its_words() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..50 {
            assert_ne!(Words::Seen.pick(&mut rng, &ANYONE), "passer-by");
            assert_eq!(Words::HeldOut.pick(&mut rng, &ANYONE), "passer-by");
            assert_eq!(Words::HeldOut.pick(&mut rng, &SKIRT), "skirt");
        }
        let all: std::collections::BTreeSet<&str> = (0..200).map(|_| Words::All.pick(&mut rng, &ANYONE)).collect();
        assert_eq!(all.len(), 4);
    }
}
