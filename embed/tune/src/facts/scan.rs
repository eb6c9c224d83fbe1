//! Finds things and colours in the free text of a label.
//!
//! The labels are short and plain ("red tote and black backpack"), so words are looked up from left
//! to right, the longest first, and colours belong to the next thing. What follows "with" is a trim
//! or a print.

use super::colour::ColourTerm;
use super::label_words::LABEL_WORDS;
use super::words::terms;
use super::{ColourSet, Colours, Item, KindSet, Part};

/// Words that only modify the colour after them, unless a term includes both.
const SHADES: [&str; 16] = [
    "dark",
    "light",
    "pale",
    "bright",
    "deep",
    "very",
    "neon",
    "faded",
    "mottled",
    "dusty",
    "royal",
    "greyish",
    "rust",
    "pinkish",
    "strawberry",
    "sky",
];

/// Splits `text` into lower-case words and commas. Hyphens separate words, apostrophes do not.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let spaced = text.to_lowercase().replace(['\'', '\u{2019}'], "").replace(',', " , ");
    let words = spaced.split(|c: char| !c.is_alphanumeric() && c != ',').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Number of tokens of `phrase` if `tokens` begin with it; its last word may be a plural.
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
    let phrase_words = Part::ALL.iter().flat_map(|part| terms(*part)).filter(|term| !term.wide);
    let phrase_words = phrase_words.flat_map(|term| term.words.iter().map(|word| (*word, term.yes, false)));
    let found =
        own.chain(phrase_words).filter_map(|(words, kinds, own)| Some((begins(tokens, words)?, own, kinds.and(parts))));
    // A word that a label uses in its own sense wins over the same word of a phrase.
    let (length, _, kinds) = found.max_by_key(|(length, own, kinds)| (*length, *own, !kinds.is_empty()))?;
    Some((length, kinds))
}

/// The longest colour word at the beginning of `tokens`: its length and its colours.
fn colour_at(tokens: &[String], table: &[ColourTerm]) -> Option<(usize, ColourSet)> {
    let all = table.iter().flat_map(|term| term.words.iter().map(move |word| (*word, term.label)));
    all.filter_map(|(word, set)| Some((begins(tokens, word)?, set))).max_by_key(|(length, _)| *length)
}

/// All colours that `tokens` name, in their order; neighbouring colour words ("grey blue") mean one
/// colour of either.
fn colours(tokens: &[String], table: &[ColourTerm]) -> Vec<ColourSet> {
    let (mut found, mut at, mut last_end) = (Vec::<ColourSet>::new(), 0, None);
    while at < tokens.len() {
        let Some((length, set)) = colour_at(&tokens[at..], table) else {
            at += 1;
            continue;
        };
        let shades =
            length == 1 && SHADES.contains(&tokens[at].as_str()) && colour_at(&tokens[at + 1..], table).is_some();
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

/// The colours of one thing; colours after "with" are minor.
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
                // "jersey t-shirt" means the kinds that both words have in common, or those of
                // either.
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
        let parts = |word: &String| ["over", "under", "with"].contains(&word.as_str()) || word == "," && from > 0;
        let cut = between.iter().rposition(parts);
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
    use super::super::kind::Kind::*;
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
            ("dark", vec![THING_COLOURS.iter().find(|t| t.words[0] == "dark").expect("a word").label], vec![]),
            ("very dark red", vec![set(&[Maroon])], vec![]),
            ("deep purple", vec![set(&[Purple])], vec![]),
            ("pale mint green", vec![set(&[LightGreen])], vec![]),
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
        let three = things("white, blue and red helmet", &[Part::Hat], THING_COLOURS);
        assert_eq!((three.len(), three[0].colours.main.len()), (1, 3));
        let carried = things("white cup, black umbrella", &[Part::Held], THING_COLOURS);
        assert_eq!(carried[1].colours.main, [ColourSet::of(&[Black])]);
        let one_of = things("flip-flops or sandals", &[Part::Shoes], THING_COLOURS);
        assert_eq!(one_of.len(), 1);
        assert_eq!(things("tennis polo top", &[Part::Upper], THING_COLOURS)[0].kinds, KindSet::of(&[Polo]));
        assert!(things("dress shirt", &[Part::Lower], THING_COLOURS).is_empty(), "no dress");
        assert!(things("two-tone", &[Part::Upper], THING_COLOURS).is_empty());
    }
}
