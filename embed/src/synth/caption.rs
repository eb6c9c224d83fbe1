//! What people would write about a drawn person: sentences, lists and short search queries.
//!
//! Order, omitted details, synonyms and spelling vary; what is said is always true of the person (a vague word such as
//! "dark" included). The wording follows person-retrieval captions: two long sentences or one, present tense.

use rand::Rng;

use super::colour::{DENIMS, HAIRS, REGIONS, Shade};
use super::person::{
    BagKind, Garment, HairStyle, HatKind, LowerKind, Pattern, Person, ShoeKind, ThingKind, UpperKind, chance, pick,
    weighted,
};

/// Writes one caption of `person`.
pub fn caption(person: &Person, rng: &mut impl Rng) -> String {
    match weighted(rng, &[0.5, 0.28, 0.22]) {
        0 => sentence(person, rng),
        1 => two_sentences(person, rng),
        _ => query(person, rng),
    }
}

fn article(words: &str) -> String {
    let an = words.starts_with(['a', 'e', 'i', 'o']) || words.starts_with("un") && !words.starts_with("uni");
    format!("{} {words}", if an { "an" } else { "a" })
}

fn shade_word(shade: &Shade, rng: &mut impl Rng) -> &'static str {
    shade.word(&REGIONS, rng)
}

fn subject(person: &Person, rng: &mut impl Rng) -> String {
    let noun = if chance(rng, 0.07) {
        pick(rng, &["person", "pedestrian", "individual", "passer-by"])
    } else if person.woman {
        ["woman", "lady", "female", "girl", "young woman"]
            [weighted(rng, &if person.age == 0 { [0.66, 0.1, 0.06, 0.08, 0.1] } else { [0.84, 0.1, 0.06, 0.0, 0.0] })]
    } else {
        ["man", "guy", "male", "boy", "young man", "gentleman"][weighted(
            rng,
            &if person.age == 0 { [0.68, 0.1, 0.06, 0.04, 0.12, 0.0] } else { [0.8, 0.08, 0.06, 0.0, 0.0, 0.06] },
        )]
    };
    let mut words = noun.to_string();
    if person.age == 2 && chance(rng, 0.5) && !words.starts_with("young") {
        words = format!("{} {words}", pick(rng, &["older", "elderly", "old", "senior"]));
    } else if person.girth > 1.22 && chance(rng, 0.3) {
        words = format!("{} {words}", pick(rng, &["heavy", "large", "stout", "overweight", "big"]));
    } else if person.girth < 0.9 && chance(rng, 0.12) {
        words = format!("{} {words}", pick(rng, &["slim", "thin", "slender"]));
    }
    words
}

/// "long blonde hair", "a shaved head", "her dark hair in a ponytail"; nothing if a hat hides it.
fn hair(person: &Person, rng: &mut impl Rng) -> Option<String> {
    let hidden = matches!(person.hat, Some((HatKind::Hood, _)));
    let short = matches!(person.hair, HairStyle::Short | HairStyle::Cropped | HairStyle::Balding | HairStyle::Bald);
    if hidden || (person.hat.is_some() && short) {
        return None;
    }
    let colour = person.hair_shade.word(&HAIRS, rng);
    let curl = pick(rng, &["", "", "straight ", "wavy "]);
    Some(match person.hair {
        HairStyle::Bald => pick(rng, &["a bald head", "a shaved head", "no hair", "a bald head"]).to_string(),
        HairStyle::Balding => {
            pick(rng, &["a receding hairline", "thinning hair", "very little hair", "a balding head"]).to_string()
        }
        HairStyle::Cropped => {
            format!("{} {colour} hair", pick(rng, &["very short", "short", "cropped", "close cropped"]))
        }
        HairStyle::Short => format!("short {colour} hair"),
        HairStyle::Chin => {
            format!("{} {curl}{colour} hair", pick(rng, &["chin length", "short", "bobbed", "jaw length"]))
        }
        HairStyle::Shoulder => format!(
            "{} {curl}{colour} hair",
            pick(rng, &["shoulder length", "medium length", "shoulder-length", "long"])
        ),
        HairStyle::Long => match weighted(rng, &[0.7, 0.15, 0.15]) {
            0 => format!("{} {curl}{colour} hair", pick(rng, &["long", "long", "very long", "waist length"])),
            1 => format!("{curl}{colour} hair down the back"),
            _ => format!("{curl}{colour} hair below the shoulders"),
        },
        HairStyle::Ponytail => match weighted(rng, &[0.5, 0.5]) {
            0 => article(&format!("{} ponytail", pick(rng, &[colour, "long", "low"]))),
            _ => format!(
                "{colour} hair {}",
                pick(rng, &["tied back", "tied back in a ponytail", "in a ponytail", "pulled back"])
            ),
        },
        HairStyle::Bun => format!(
            "{colour} hair {}",
            pick(
                rng,
                &["in a bun", "pinned up", "tied up in a bun", "tied up at the back of the head", "up in a messy bun"]
            )
        ),
        HairStyle::Curly => format!("{} {colour} hair", pick(rng, &["curly", "bushy", "frizzy", "curly"])),
    })
}

fn extras(person: &Person, rng: &mut impl Rng) -> Option<&'static str> {
    match (person.beard, person.glasses) {
        (true, _) if chance(rng, 0.6) => Some(pick(rng, &["a beard", "a short beard", "facial hair", "a goatee"])),
        (_, true) if chance(rng, 0.6) => Some(pick(rng, &["glasses", "glasses", "dark framed glasses", "spectacles"])),
        _ => None,
    }
}

fn patterned<K>(garment: &Garment<K>, colour: &str, noun: &str, rng: &mut impl Rng) -> String {
    let other = shade_word(&garment.second, rng);
    let both = chance(rng, 0.5);
    match garment.pattern {
        _ if chance(rng, 0.25) => format!("{colour} {noun}"),
        Pattern::Plain => format!("{}{colour} {noun}", if chance(rng, 0.06) { "plain " } else { "" }),
        Pattern::HStripes => match (both, chance(rng, 0.5)) {
            (true, true) => format!("{colour} and {other} striped {noun}"),
            (true, false) => format!("{colour} {noun} with {other} {}", pick(rng, &["stripes", "horizontal stripes"])),
            _ => format!("{} {colour} {noun}", pick(rng, &["striped", "horizontally striped"])),
        },
        Pattern::VStripes => {
            if both {
                format!("{colour} {noun} with {other} {}", pick(rng, &["vertical stripes", "pinstripes", "stripes"]))
            } else {
                format!("striped {colour} {noun}")
            }
        }
        Pattern::Checks => {
            let word = pick(rng, &["checked", "plaid", "checkered", "tartan", "chequered"]);
            if both { format!("{colour} and {other} {word} {noun}") } else { format!("{colour} {word} {noun}") }
        }
        Pattern::Print => {
            let word = pick(rng, &["logo", "print", "writing", "graphic", "lettering"]);
            let place = pick(rng, &["", " on the chest", " on the front"]);
            if both {
                format!("{colour} {noun} with {} {word}{place}", article(other))
            } else {
                format!("{colour} {noun} with a {word}{place}")
            }
        }
        Pattern::Floral => match weighted(rng, &[0.4, 0.3, 0.3]) {
            0 => format!("{colour} {} {noun}", pick(rng, &["floral", "flowered", "patterned"])),
            1 => format!("{colour} {noun} with {other} flowers"),
            _ => format!(
                "{colour} {noun} with {}",
                pick(rng, &["a floral pattern", "a pattern", "an embroidered pattern"])
            ),
        },
        Pattern::Marl => {
            format!("{} {colour} {noun}", pick(rng, &["marled", "mottled", "heather", "knitted", "flecked"]))
        }
        Pattern::Sleeves => match both {
            true => format!("{colour} {noun} with {other} sleeves"),
            false => format!("{colour} and {other} {noun}"),
        },
        Pattern::Panels => {
            format!("{colour} {noun} with {other} {}", pick(rng, &["panels", "side stripes", "vertical stripes"]))
        }
    }
}

fn upper(garment: &Garment<UpperKind>, person: &Person, outer: bool, rng: &mut impl Rng) -> String {
    use UpperKind::*;
    let palette = if garment.kind == DenimJacket { &DENIMS[..] } else { &REGIONS[..] };
    let colour = garment.shade.word(palette, rng);
    let noun: &str = match garment.kind {
        TShirt => pick(rng, &["t-shirt", "t-shirt", "tee", "short sleeved t-shirt", "short-sleeved top", "tee shirt"]),
        Polo => pick(rng, &["polo shirt", "polo", "short sleeved polo shirt", "golf shirt"]),
        Shirt => pick(
            rng,
            &["shirt", "long sleeved shirt", "button-down shirt", "dress shirt", "collared shirt", "button-up shirt"],
        ),
        ShortShirt => pick(
            rng,
            &["short sleeved shirt", "short-sleeved button shirt", "bowling shirt", "shirt with short sleeves"],
        ),
        Blouse => pick(rng, &["blouse", "top", "shirt", "blouse"]),
        TankTop => {
            pick(rng, &["sleeveless top", "tank top", "vest top", "sleeveless blouse", "sleeveless shirt", "camisole"])
        }
        LongSleeve => pick(rng, &["long sleeved top", "long-sleeved t-shirt", "long sleeved shirt", "top"]),
        Sweater => pick(rng, &["sweater", "jumper", "pullover", "knitted sweater", "sweatshirt", "knitted jumper"]),
        Hoodie => pick(rng, &["hoodie", "hooded sweatshirt", "hoody", "hooded top", "hooded sweater"]),
        Jacket => pick(rng, &["jacket", "jacket", "zip jacket", "short coat", "windbreaker", "coat", "bomber jacket"]),
        DenimJacket => pick(rng, &["denim jacket", "jean jacket", "denim jacket"]),
        LeatherJacket => pick(rng, &["leather jacket", "leather jacket", "jacket", "biker jacket"]),
        Puffer => pick(
            rng,
            &[
                "puffer jacket",
                "padded jacket",
                "down jacket",
                "winter jacket",
                "quilted jacket",
                "winter coat",
                "puffy jacket",
            ],
        ),
        Blazer => pick(rng, &["blazer", "suit jacket", "sport coat", "jacket", "suit coat"]),
        Coat => pick(
            rng,
            &["coat", "long coat", "overcoat", "knee length coat", "thigh length coat", "trench coat", "winter coat"],
        ),
        Cardigan => pick(rng, &["cardigan", "long cardigan", "knitted cardigan", "sweater coat"]),
        Gilet => pick(rng, &["vest", "gilet", "body warmer", "sleeveless jacket", "padded vest"]),
        HiVis => pick(rng, &["safety vest", "high visibility vest", "hi-vis vest", "reflective vest", "high-vis vest"]),
    };
    let mut words = patterned(garment, colour, noun, rng);
    if garment.kind == HiVis && chance(rng, 0.4) {
        words += pick(rng, &[" with reflective stripes", " with silver bands", " with grey stripes"]);
    }
    if outer && person.open && chance(rng, 0.3) {
        words = format!("open {words}");
    } else if garment.loose > 1.2 && chance(rng, 0.12) {
        words = format!("{} {words}", pick(rng, &["loose", "baggy"]));
    }
    words
}

/// With its article: "a red jacket over a white t-shirt".
fn uppers(person: &Person, brief: bool, rng: &mut impl Rng) -> String {
    if let Some(outer) = &person.outer {
        let first = article(&upper(outer, person, true, rng));
        let seen = person.open
            || matches!(outer.kind, UpperKind::Blazer | UpperKind::HiVis | UpperKind::Gilet | UpperKind::Cardigan);
        if brief || !seen || chance(rng, 0.25) {
            return first;
        }
        let under = match &person.dress {
            Some((dress, length)) => dress_words(dress, *length, rng),
            None => upper(&person.top, person, false, rng),
        };
        return format!("{first} {} {}", pick(rng, &["over", "over", "on top of", "with"]), article(&under));
    }
    match &person.dress {
        Some((dress, length)) => article(&dress_words(dress, *length, rng)),
        None => article(&upper(&person.top, person, false, rng)),
    }
}

fn dress_words(dress: &Garment<UpperKind>, length: u8, rng: &mut impl Rng) -> String {
    let colour = shade_word(&dress.shade, rng);
    let noun = patterned(dress, colour, "dress", rng);
    let size = match length {
        0 => pick(rng, &["short ", "", "summer "]),
        1 => pick(rng, &["knee length ", "", ""]),
        _ => pick(rng, &["long ", "ankle length ", ""]),
    };
    format!("{size}{noun}")
}

/// "dark blue jeans", "a black skirt"; nothing with a dress.
fn lower(person: &Person, rng: &mut impl Rng) -> Option<String> {
    if person.dress.is_some() {
        return None;
    }
    let garment = &person.lower;
    use LowerKind::*;
    Some(match garment.kind {
        Jeans => {
            let colour = garment.shade.word(&DENIMS, rng);
            match weighted(rng, &[0.72, 0.14, 0.14]) {
                0 => format!("{}{colour} jeans", pick(rng, &["", "", "", "", "slim ", "denim "])),
                1 if garment.shade.region < 3 => pick(rng, &["jeans", "denim jeans", "blue jeans"]).to_string(),
                _ => format!("{colour} {}", pick(rng, &["denim trousers", "denim jeans", "pants", "trousers"])),
            }
        }
        Trousers => {
            let noun = pick(rng, &["trousers", "pants", "trousers", "slacks", "chinos", "long trousers"]);
            let colour = shade_word(&garment.shade, rng);
            patterned(garment, colour, noun, rng)
        }
        Sweatpants => {
            let noun = pick(rng, &["sweatpants", "tracksuit bottoms", "joggers", "jogging pants", "track pants"]);
            let colour = shade_word(&garment.shade, rng);
            patterned(garment, colour, noun, rng)
        }
        Leggings => format!(
            "{} {}",
            shade_word(&garment.shade, rng),
            pick(rng, &["leggings", "tight trousers", "tights", "skinny pants", "tight pants"])
        ),
        Capri => format!(
            "{} {}",
            shade_word(&garment.shade, rng),
            pick(rng, &["cropped leggings", "capri pants", "cropped trousers", "capri tights"])
        ),
        Shorts => {
            let colour = shade_word(&garment.shade, rng);
            patterned(garment, colour, "shorts", rng)
        }
        ShortSkirt | LongSkirt => {
            let size = if garment.kind == ShortSkirt {
                pick(rng, &["", "short ", "knee length "])
            } else {
                pick(rng, &["long ", "ankle length ", ""])
            };
            let colour = shade_word(&garment.shade, rng);
            article(&format!("{size}{}", patterned(garment, colour, "skirt", rng)))
        }
    })
}

fn shoes(person: &Person, rng: &mut impl Rng) -> String {
    let (kind, shade) = &person.shoes;
    let noun = match kind {
        ShoeKind::Trainers => pick(rng, &["trainers", "sneakers", "shoes", "running shoes", "sport shoes"]),
        ShoeKind::Leather => pick(rng, &["shoes", "leather shoes", "dress shoes"]),
        ShoeKind::Boots => pick(rng, &["boots", "ankle boots", "boots", "shoes"]),
        ShoeKind::Flats => pick(rng, &["flat shoes", "slip-on shoes", "flats", "shoes", "ballet flats"]),
    };
    format!("{} {noun}", shade_word(shade, rng))
}

fn bag(person: &Person, rng: &mut impl Rng) -> Option<String> {
    let (kind, shade) = person.bag?;
    let noun = match kind {
        BagKind::Backpack => pick(rng, &["backpack", "rucksack", "backpack", "bag on the back"]),
        BagKind::Shoulder => {
            pick(rng, &["shoulder bag", "bag over the shoulder", "messenger bag", "cross-body bag", "bag", "purse"])
        }
        BagKind::Handbag => pick(rng, &["handbag", "purse", "bag in the hand", "tote bag", "hand bag"]),
        BagKind::Suitcase => pick(rng, &["suitcase", "rolling suitcase", "trolley case", "wheeled suitcase"]),
    };
    Some(if chance(rng, 0.8) { article(&format!("{} {noun}", shade_word(&shade, rng))) } else { article(noun) })
}

fn thing(person: &Person, rng: &mut impl Rng) -> Option<String> {
    let (kind, shade) = person.thing?;
    let colour = shade_word(&shade, rng);
    Some(match kind {
        ThingKind::Paper => {
            pick(rng, &["a white sheet of paper", "some papers", "a sheet of paper", "white papers"]).to_string()
        }
        ThingKind::Phone => pick(rng, &["a phone", "a mobile phone", "a cell phone"]).to_string(),
        ThingKind::Shopping => {
            article(&format!("{colour} {}", pick(rng, &["shopping bag", "plastic bag", "carrier bag", "paper bag"])))
        }
        ThingKind::Box => pick(rng, &["a cardboard box", "a box", "a brown box", "a parcel"]).to_string(),
        ThingKind::Cup => pick(rng, &["a cup", "a white cup", "a coffee cup"]).to_string(),
    })
}

fn hat(person: &Person, rng: &mut impl Rng) -> Option<String> {
    let (kind, shade) = person.hat?;
    let colour = shade_word(&shade, rng);
    Some(match kind {
        HatKind::Cap => article(&format!("{colour} {}", pick(rng, &["cap", "baseball cap", "cap", "hat"]))),
        HatKind::Beanie => {
            article(&format!("{colour} {}", pick(rng, &["beanie", "knitted hat", "woolly hat", "hat", "beanie hat"])))
        }
        HatKind::Brimmed => {
            article(&format!("{colour} {}", pick(rng, &["hat", "fedora", "sun hat", "straw hat", "brimmed hat"])))
        }
        HatKind::HardHat => {
            article(&format!("{colour} {}", pick(rng, &["hard hat", "helmet", "safety helmet", "construction helmet"])))
        }
        HatKind::Hood => pick(rng, &["the hood up", "a hood over the head", "the hood pulled up"]).to_string(),
    })
}

fn listed(mut items: Vec<String>) -> String {
    let last = items.pop();
    match (items.is_empty(), last) {
        (true, last) => last.unwrap_or_default(),
        (false, last) => format!("{} and {}", items.join(", "), last.unwrap_or_default()),
    }
}

/// Clothes from the top down; each but the first may be left out.
fn clothes(person: &Person, rng: &mut impl Rng) -> Vec<String> {
    let mut items = vec![uppers(person, false, rng)];
    if let Some(words) = lower(person, rng).filter(|_| chance(rng, 0.93)) {
        items.push(words);
    }
    if chance(rng, 0.62) {
        items.push(shoes(person, rng));
    }
    if let Some(words) = hat(person, rng).filter(|_| chance(rng, 0.85)) {
        if chance(rng, 0.5) { items.insert(0, words) } else { items.push(words) }
    }
    items
}

fn burden(person: &Person, rng: &mut impl Rng) -> Vec<String> {
    [bag(person, rng).filter(|_| chance(rng, 0.85)), thing(person, rng).filter(|_| chance(rng, 0.8))]
        .into_iter()
        .flatten()
        .collect()
}

fn sentence(person: &Person, rng: &mut impl Rng) -> String {
    let who = subject(person, rng);
    let start = if chance(rng, 0.6) { article(&who) } else { format!("the {who}") };
    let mut features: Vec<String> = hair(person, rng).filter(|_| chance(rng, 0.7)).into_iter().collect();
    features.extend(extras(person, rng).map(str::to_string));
    let with = if features.is_empty() { String::new() } else { format!(" with {}", listed(features)) };
    let verb = pick(rng, &["wears", "wearing", "is wearing", "is dressed in", "in", "has on", "wears"]);
    let mut text = format!("{start}{with} {verb} {}", listed(clothes(person, rng)));
    let carried = burden(person, rng);
    if !carried.is_empty() {
        let verb = pick(rng, &["and carries", "carrying", "and is carrying", "with", "and holds", "holding"]);
        text = format!("{text}, {verb} {}", listed(carried));
    } else if person.bag.is_none() && person.thing.is_none() && chance(rng, 0.05) {
        text += pick(rng, &[" and carries no bag", ", without a bag"]);
    }
    text + "."
}

fn two_sentences(person: &Person, rng: &mut impl Rng) -> String {
    let who = subject(person, rng);
    let pronoun = if person.woman { "She" } else { "He" };
    let mut features: Vec<String> = hair(person, rng).into_iter().collect();
    features.extend(extras(person, rng).map(str::to_string));
    let look = (!features.is_empty()).then(|| listed(features));
    let verb = pick(rng, &["is dressed in", "is wearing", "wears", "has on"]);
    let dressed = format!("{verb} {}", listed(clothes(person, rng)));
    let mut text = match (look, chance(rng, 0.55)) {
        (Some(look), true) => format!("The {who} has {look}. {pronoun} {dressed}."),
        (Some(look), false) => format!("The {who} {dressed}. {pronoun} has {look}."),
        (None, _) => format!("{} {dressed}.", article(&who)),
    };
    let carried = burden(person, rng);
    if !carried.is_empty() {
        text += &format!(" {pronoun} {} {}.", pick(rng, &["carries", "is carrying", "holds", "has"]), listed(carried));
    }
    text
}

/// What an operator types.
fn query(person: &Person, rng: &mut impl Rng) -> String {
    let who = subject(person, rng);
    let top = uppers(person, chance(rng, 0.7), rng);
    let bare = |text: &str| text.strip_prefix("a ").or(text.strip_prefix("an ")).unwrap_or(text).to_string();
    let bottom = lower(person, rng).map(|words| bare(&words));
    let mut items = vec![bare(&top)];
    items.extend(bottom.filter(|_| chance(rng, 0.85)));
    items.extend(bag(person, rng).map(|w| bare(&w)).filter(|_| chance(rng, 0.55)));
    items.extend(hat(person, rng).map(|w| bare(&w)).filter(|_| chance(rng, 0.5)));
    if chance(rng, 0.25) {
        items.push(shoes(person, rng));
    }
    if chance(rng, 0.3) {
        items.extend(hair(person, rng).map(|w| bare(&w)));
    }
    match weighted(rng, &[0.4, 0.25, 0.15, 0.2]) {
        0 => format!("{who} {} {}", pick(rng, &["in", "wearing", "with"]), listed(items)),
        1 => items.join(", "),
        2 => format!("{who}, {}", items.join(", ")),
        _ => format!("{who} {}", items.join(" ")),
    }
}
