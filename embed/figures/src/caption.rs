//! Captions of a drawn person: sentences, lists and short search queries.
//!
//! Order, omitted details, synonyms and spelling vary. Every statement is true of the person, a
//! vague word such as "dark" included. The wording follows the captions of person retrieval data
//! sets: one or two long sentences in the present tense.

use rand::Rng;

use super::colour::{DENIM_COLOURS, GARMENT_COLOURS, HAIR_COLOURS, Shade};
use super::person::{Garment, HairStyle, HatKind, HeldItem, LowerKind, Pattern, Person, UpperKind};
use super::vocabulary::{self as v, Words};
use crate::random::{chance, pick, weighted};

/// One caption of `person` with [`Words::All`].
pub fn caption(person: &Person, rng: &mut impl Rng) -> String {
    caption_with(person, Words::All, rng)
}

/// One caption of `person` that keeps to `words`.
pub fn caption_with(person: &Person, words: Words, rng: &mut impl Rng) -> String {
    match weighted(rng, &[0.5, 0.28, 0.22]) {
        0 => sentence(person, words, rng),
        1 => two_sentences(person, words, rng),
        _ => query(person, words, rng),
    }
}

/// `words` with "a" or "an" before them.
fn article(words: &str) -> String {
    let an = words.starts_with(['a', 'e', 'i', 'o']) || words.starts_with("un") && !words.starts_with("uni");
    format!("{} {words}", if an { "an" } else { "a" })
}

fn shade_word(shade: &Shade, words: Words, rng: &mut impl Rng) -> &'static str {
    shade.word(&GARMENT_COLOURS, words, rng)
}

fn subject(person: &Person, words: Words, rng: &mut impl Rng) -> String {
    let noun = if chance(rng, 0.07) {
        words.pick(rng, &v::ANYONE)
    } else if person.woman {
        ["woman", "lady", "female", "girl", "young woman"]
            [weighted(rng, &if person.age == 0 { [0.66, 0.1, 0.06, 0.08, 0.1] } else { [0.84, 0.1, 0.06, 0.0, 0.0] })]
    } else {
        ["man", "guy", "male", "boy", "young man", "gentleman"][weighted(
            rng,
            &if person.age == 0 { [0.68, 0.1, 0.06, 0.04, 0.12, 0.0] } else { [0.8, 0.08, 0.06, 0.0, 0.0, 0.06] },
        )]
    };
    let mut text = noun.to_string();
    if person.age == 2 && chance(rng, 0.5) && !text.starts_with("young") {
        text = format!("{} {text}", words.pick(rng, &v::OLD));
    } else if person.girth > 1.22 && chance(rng, 0.3) {
        text = format!("{} {text}", words.pick(rng, &v::HEAVY));
    } else if person.girth < 0.9 && chance(rng, 0.12) {
        text = format!("{} {text}", words.pick(rng, &v::SLIM));
    }
    text
}

/// Hair: "long blonde hair", "a shaved head", "dark hair in a ponytail". `None` if a hat hides it.
fn hair(person: &Person, words: Words, rng: &mut impl Rng) -> Option<String> {
    let hidden = matches!(person.hat, Some((HatKind::Hood, _)));
    let short = matches!(person.hair, HairStyle::Short | HairStyle::Cropped | HairStyle::Balding | HairStyle::Bald);
    if hidden || (person.hat.is_some() && short) {
        return None;
    }
    let colour = person.hair_shade.word(&HAIR_COLOURS, words, rng);
    let curl = pick(rng, &["", "", "straight ", "wavy "]);
    Some(match person.hair {
        HairStyle::Bald => words.pick(rng, &v::BALD).to_string(),
        HairStyle::Balding => words.pick(rng, &v::BALDING).to_string(),
        HairStyle::Cropped => {
            format!("{} {colour} hair", words.pick(rng, v::hair_length(person.hair)))
        }
        HairStyle::Short => format!("short {colour} hair"),
        HairStyle::Chin => {
            format!("{} {curl}{colour} hair", words.pick(rng, v::hair_length(person.hair)))
        }
        HairStyle::Shoulder => format!("{} {curl}{colour} hair", words.pick(rng, v::hair_length(person.hair))),
        HairStyle::Long => match weighted(rng, &[0.7, 0.3]) {
            0 => format!("{} {curl}{colour} hair", words.pick(rng, v::hair_length(person.hair))),
            _ => format!("{curl}{colour} hair {}", words.pick(rng, &v::LONG_BACK)),
        },
        HairStyle::Ponytail => match weighted(rng, &[0.5, 0.5]) {
            0 => article(&format!("{} {}", pick(rng, &[colour, "long", "low"]), words.pick(rng, &v::PONYTAIL))),
            _ => format!("{colour} hair {}", words.pick(rng, &v::TIED)),
        },
        HairStyle::Bun => format!("{colour} hair {}", words.pick(rng, &v::BUN)),
        HairStyle::Curly => format!("{} {colour} hair", words.pick(rng, v::hair_length(person.hair))),
    })
}

/// Beard or glasses, when mentioned.
fn beard_or_glasses(person: &Person, words: Words, rng: &mut impl Rng) -> Option<&'static str> {
    match (person.beard, person.glasses) {
        (true, _) if chance(rng, 0.6) => Some(words.pick(rng, &v::BEARD)),
        (_, true) if chance(rng, 0.6) => Some(words.pick(rng, &v::GLASSES)),
        _ => None,
    }
}

/// Colour, pattern and noun of a garment: "red and white striped shirt".
fn patterned<K>(garment: &Garment<K>, colour: &str, noun: &str, words: Words, rng: &mut impl Rng) -> String {
    let other = shade_word(&garment.second_shade, words, rng);
    let both = chance(rng, 0.5);
    match garment.pattern {
        _ if chance(rng, 0.25) => format!("{colour} {noun}"),
        Pattern::Plain => format!("{}{colour} {noun}", if chance(rng, 0.06) { "plain " } else { "" }),
        Pattern::HorizontalStripes => match (both, chance(rng, 0.5)) {
            (true, true) => format!("{colour} and {other} striped {noun}"),
            (true, false) => format!("{colour} {noun} with {other} {}", words.pick(rng, &v::STRIPES)),
            _ => format!("{} {colour} {noun}", words.pick(rng, &v::STRIPED)),
        },
        Pattern::VerticalStripes => {
            if both {
                format!("{colour} {noun} with {other} {}", words.pick(rng, &v::UPRIGHT))
            } else {
                format!("striped {colour} {noun}")
            }
        }
        Pattern::Checks => {
            let word = words.pick(rng, &v::CHECKED);
            if both { format!("{colour} and {other} {word} {noun}") } else { format!("{colour} {word} {noun}") }
        }
        Pattern::Print => {
            let word = words.pick(rng, &v::PRINT);
            let place = pick(rng, &["", " on the chest", " on the front"]);
            if both {
                format!("{colour} {noun} with {} {word}{place}", article(other))
            } else {
                format!("{colour} {noun} with a {word}{place}")
            }
        }
        Pattern::Floral => match weighted(rng, &[0.4, 0.3, 0.3]) {
            0 => format!("{colour} {} {noun}", words.pick(rng, &v::FLORAL)),
            1 => format!("{colour} {noun} with {other} flowers"),
            _ => format!("{colour} {noun} with {}", words.pick(rng, &v::PATTERN)),
        },
        Pattern::Marl => {
            format!("{} {colour} {noun}", words.pick(rng, &v::MARL))
        }
        Pattern::ContrastSleeves => match both {
            true => format!("{colour} {noun} with {other} sleeves"),
            false => format!("{colour} and {other} {noun}"),
        },
        Pattern::SidePanels => {
            format!("{colour} {noun} with {other} {}", words.pick(rng, &v::PANELS))
        }
    }
}

fn upper(garment: &Garment<UpperKind>, person: &Person, outer: bool, words: Words, rng: &mut impl Rng) -> String {
    use UpperKind::*;
    let palette = if garment.kind == DenimJacket { &DENIM_COLOURS[..] } else { &GARMENT_COLOURS[..] };
    let colour = garment.shade.word(palette, words, rng);
    let noun = words.pick(rng, v::upper(garment.kind));
    let mut text = patterned(garment, colour, noun, words, rng);
    if garment.kind == HiVis && chance(rng, 0.4) {
        text += words.pick(rng, &v::REFLECTIVE);
    }
    if outer && person.outer_open && chance(rng, 0.3) {
        text = format!("open {text}");
    } else if garment.looseness > 1.2 && chance(rng, 0.12) {
        text = format!("{} {text}", words.pick(rng, &v::LOOSE));
    }
    text
}

/// Upper garments with their articles: "a red jacket over a white t-shirt".
fn uppers(person: &Person, brief: bool, words: Words, rng: &mut impl Rng) -> String {
    if let Some(outer) = &person.outer {
        let first = article(&upper(outer, person, true, words, rng));
        let seen = person.outer_open
            || matches!(outer.kind, UpperKind::Blazer | UpperKind::HiVis | UpperKind::Gilet | UpperKind::Cardigan);
        if brief || !seen || chance(rng, 0.25) {
            return first;
        }
        let under = match &person.dress {
            Some((dress, length)) => dress_words(dress, *length, words, rng),
            None => upper(&person.top, person, false, words, rng),
        };
        return format!("{first} {} {}", words.pick(rng, &v::OVER), article(&under));
    }
    match &person.dress {
        Some((dress, length)) => article(&dress_words(dress, *length, words, rng)),
        None => article(&upper(&person.top, person, false, words, rng)),
    }
}

fn dress_words(dress: &Garment<UpperKind>, length: u8, words: Words, rng: &mut impl Rng) -> String {
    let colour = shade_word(&dress.shade, words, rng);
    let noun = patterned(dress, colour, words.pick(rng, &v::DRESS), words, rng);
    let size = match length {
        0 => pick(rng, &["short ", "", "summer "]),
        1 => pick(rng, &["knee length ", "", ""]),
        _ => pick(rng, &["long ", "ankle length ", ""]),
    };
    format!("{size}{noun}")
}

/// Lower garment: "dark blue jeans", "a black skirt". `None` with a dress.
fn lower(person: &Person, words: Words, rng: &mut impl Rng) -> Option<String> {
    if person.dress.is_some() {
        return None;
    }
    let garment = &person.lower;
    use LowerKind::*;
    Some(match garment.kind {
        Jeans => {
            let colour = garment.shade.word(&DENIM_COLOURS, words, rng);
            match weighted(rng, &[0.72, 0.14, 0.14]) {
                0 => format!("{}{colour} jeans", pick(rng, &["", "", "", "", "slim "])),
                1 if garment.shade.colour < 3 => words.pick(rng, &v::ANY_JEANS).to_string(),
                _ => format!("{colour} {}", words.pick(rng, &v::JEANS)),
            }
        }
        Trousers | Sweatpants => {
            let noun = words.pick(rng, v::lower(garment.kind));
            let colour = shade_word(&garment.shade, words, rng);
            patterned(garment, colour, noun, words, rng)
        }
        Leggings | Capri => {
            let noun = words.pick(rng, v::lower(garment.kind));
            format!("{} {noun}", shade_word(&garment.shade, words, rng))
        }
        Shorts => {
            let colour = shade_word(&garment.shade, words, rng);
            patterned(garment, colour, words.pick(rng, &v::SHORTS), words, rng)
        }
        ShortSkirt | LongSkirt => {
            let size = if garment.kind == ShortSkirt {
                pick(rng, &["", "short ", "knee length "])
            } else {
                pick(rng, &["long ", "ankle length ", ""])
            };
            let colour = shade_word(&garment.shade, words, rng);
            article(&format!("{size}{}", patterned(garment, colour, words.pick(rng, &v::SKIRT), words, rng)))
        }
    })
}

fn shoes(person: &Person, words: Words, rng: &mut impl Rng) -> String {
    let (kind, shade) = &person.shoes;
    let noun = words.pick(rng, v::shoes(*kind));
    format!("{} {noun}", shade_word(shade, words, rng))
}

fn bag(person: &Person, words: Words, rng: &mut impl Rng) -> Option<String> {
    let (kind, shade) = person.bag?;
    let noun = words.pick(rng, v::bag(kind));
    Some(if chance(rng, 0.8) { article(&format!("{} {noun}", shade_word(&shade, words, rng))) } else { article(noun) })
}

fn held_item(person: &Person, words: Words, rng: &mut impl Rng) -> Option<String> {
    let (kind, shade) = person.held_item?;
    let colour = shade_word(&shade, words, rng);
    Some(match kind {
        HeldItem::Paper => words.pick(rng, &v::PAPER).to_string(),
        HeldItem::Phone => words.pick(rng, &v::PHONE).to_string(),
        HeldItem::Shopping => article(&format!("{colour} {}", words.pick(rng, &v::SHOPPING))),
        HeldItem::Box => words.pick(rng, &v::BOX).to_string(),
        HeldItem::Cup => words.pick(rng, &v::CUP).to_string(),
    })
}

fn hat(person: &Person, words: Words, rng: &mut impl Rng) -> Option<String> {
    let (kind, shade) = person.hat?;
    let colour = shade_word(&shade, words, rng);
    let noun = words.pick(rng, v::hat(kind));
    Some(if kind == HatKind::Hood { noun.to_string() } else { article(&format!("{colour} {noun}")) })
}

/// "a, b and c".
fn listed(mut items: Vec<String>) -> String {
    let last = items.pop();
    match (items.is_empty(), last) {
        (true, last) => last.unwrap_or_default(),
        (false, last) => format!("{} and {}", items.join(", "), last.unwrap_or_default()),
    }
}

/// Clothes from the top down; each except the first may be left out.
fn clothes(person: &Person, words: Words, rng: &mut impl Rng) -> Vec<String> {
    let mut items = vec![uppers(person, false, words, rng)];
    if let Some(words) = lower(person, words, rng).filter(|_| chance(rng, 0.93)) {
        items.push(words);
    }
    if chance(rng, 0.62) {
        items.push(shoes(person, words, rng));
    }
    if let Some(words) = hat(person, words, rng).filter(|_| chance(rng, 0.85)) {
        if chance(rng, 0.5) { items.insert(0, words) } else { items.push(words) }
    }
    items
}

/// Bag and held item, when mentioned.
fn carried_items(person: &Person, words: Words, rng: &mut impl Rng) -> Vec<String> {
    [bag(person, words, rng).filter(|_| chance(rng, 0.85)), held_item(person, words, rng).filter(|_| chance(rng, 0.8))]
        .into_iter()
        .flatten()
        .collect()
}

fn sentence(person: &Person, words: Words, rng: &mut impl Rng) -> String {
    let who = subject(person, words, rng);
    let start = if chance(rng, 0.6) { article(&who) } else { format!("the {who}") };
    let mut features: Vec<String> = hair(person, words, rng).filter(|_| chance(rng, 0.7)).into_iter().collect();
    features.extend(beard_or_glasses(person, words, rng).map(str::to_string));
    let with = if features.is_empty() { String::new() } else { format!(" with {}", listed(features)) };
    let verb = pick(rng, &["wears", "wearing", "is wearing", "is dressed in", "in", "has on", "wears"]);
    let mut text = format!("{start}{with} {verb} {}", listed(clothes(person, words, rng)));
    let carried = carried_items(person, words, rng);
    if !carried.is_empty() {
        let verb = pick(rng, &["and carries", "carrying", "and is carrying", "with", "and holds", "holding"]);
        text = format!("{text}, {verb} {}", listed(carried));
    } else if person.bag.is_none() && person.held_item.is_none() && chance(rng, 0.05) {
        text += pick(rng, &[" and carries no bag", ", without a bag"]);
    }
    text + "."
}

fn two_sentences(person: &Person, words: Words, rng: &mut impl Rng) -> String {
    let who = subject(person, words, rng);
    let pronoun = if person.woman { "She" } else { "He" };
    let mut features: Vec<String> = hair(person, words, rng).into_iter().collect();
    features.extend(beard_or_glasses(person, words, rng).map(str::to_string));
    let look = (!features.is_empty()).then(|| listed(features));
    let verb = pick(rng, &["is dressed in", "is wearing", "wears", "has on"]);
    let dressed = format!("{verb} {}", listed(clothes(person, words, rng)));
    let mut text = match (look, chance(rng, 0.55)) {
        (Some(look), true) => format!("The {who} has {look}. {pronoun} {dressed}."),
        (Some(look), false) => format!("The {who} {dressed}. {pronoun} has {look}."),
        (None, _) => format!("{} {dressed}.", article(&who)),
    };
    let carried = carried_items(person, words, rng);
    if !carried.is_empty() {
        text += &format!(" {pronoun} {} {}.", pick(rng, &["carries", "is carrying", "holds", "has"]), listed(carried));
    }
    text
}

/// A search query as an operator types it: "man red jacket, jeans, backpack".
fn query(person: &Person, words: Words, rng: &mut impl Rng) -> String {
    let who = subject(person, words, rng);
    let top = uppers(person, chance(rng, 0.7), words, rng);
    let bare = |text: &str| text.strip_prefix("a ").or(text.strip_prefix("an ")).unwrap_or(text).to_string();
    let bottom = lower(person, words, rng).map(|words| bare(&words));
    let mut items = vec![bare(&top)];
    items.extend(bottom.filter(|_| chance(rng, 0.85)));
    items.extend(bag(person, words, rng).map(|w| bare(&w)).filter(|_| chance(rng, 0.55)));
    items.extend(hat(person, words, rng).map(|w| bare(&w)).filter(|_| chance(rng, 0.5)));
    if chance(rng, 0.25) {
        items.push(shoes(person, words, rng));
    }
    if chance(rng, 0.3) {
        items.extend(hair(person, words, rng).map(|w| bare(&w)));
    }
    match weighted(rng, &[0.4, 0.25, 0.15, 0.2]) {
        0 => format!("{who} {} {}", pick(rng, &["in", "wearing", "with"]), listed(items)),
        1 => items.join(", "),
        2 => format!("{who}, {}", items.join(", ")),
        _ => format!("{who} {}", items.join(" ")),
    }
}
