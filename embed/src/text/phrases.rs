//! Finds attribute words in a caption: adjectives, nouns, and the paper's phrases `[adj]...[noun]`
//! (specification, section 4, ARA).
//!
//! The reference uses a trained part-of-speech tagger. Captions of people use few constructions and
//! a narrow vocabulary, so a lexicon with rules for endings and for the next word finds more
//! phrases, in microseconds and without a model. Unknown words count as nouns.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use crate::EmbedError;
use crate::text::{CaptionTokenizer, pieces_at};

/// Role of a word in a phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Describes the noun after it.
    Adjective,
    /// The thing that is described.
    Noun,
    /// Everything else; it ends a phrase.
    Other,
}

/// A word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Byte range in the text.
    pub range: Range<usize>,
    /// Role in a phrase.
    pub tag: Tag,
}

/// Class of a word without regard to its neighbours; see `lexicon.txt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LexiconClass {
    Adjective,
    Attributive,
    Position,
    Noun,
    Person,
    Modifier,
    Participle,
    Pronoun,
    Other,
}

fn lexicon() -> &'static HashMap<&'static str, LexiconClass> {
    static LEXICON: OnceLock<HashMap<&'static str, LexiconClass>> = OnceLock::new();
    LEXICON.get_or_init(|| {
        let lines = include_str!("lexicon.txt").lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(class, _)| !class.starts_with('#'))
            .flat_map(|(class, words)| {
                let class = match class {
                    "adjective" => LexiconClass::Adjective,
                    "attributive" => LexiconClass::Attributive,
                    "position" => LexiconClass::Position,
                    "noun" => LexiconClass::Noun,
                    "person" => LexiconClass::Person,
                    "modifier" => LexiconClass::Modifier,
                    "participle" => LexiconClass::Participle,
                    "pronoun" => LexiconClass::Pronoun,
                    _ => LexiconClass::Other,
                };
                words.split_whitespace().map(move |word| (word, class))
            })
            .collect()
    })
}

/// Whether the lexicon knows a lower-case word, or a word that it is a form or compound of
/// ("jackets", "reddish", "knee-length").
pub(super) fn is_known(word: &str) -> bool {
    let stems = [word, word.strip_suffix('s').unwrap_or(word), word.strip_suffix("es").unwrap_or(word)];
    if stems.iter().any(|stem| lexicon().contains_key(stem)) {
        return true;
    }
    if let Some((first, last)) = word.rsplit_once('-') {
        return COMPOUND_ENDINGS.contains(&last) || is_known(first) && is_known(last);
    }
    let made = |ending: &str, back: &[&str]| {
        word.strip_suffix(ending).is_some_and(|stem| {
            let last = stem.len().saturating_sub(1);
            let halved = if stem.is_char_boundary(last) { &stem[..last] } else { stem };
            back.iter().any(|more| lexicon().contains_key(format!("{stem}{more}").as_str()))
                || lexicon().contains_key(halved)
        })
    };
    made("ish", &["", "e"]) || made("coloured", &[""]) || made("colored", &[""]) || made("ed", &["", "e"])
}

/// Ends of hyphenated words that describe ("knee-length", "lace-up").
const COMPOUND_ENDINGS: [&str; 17] = [
    "length", "style", "styled", "sleeve", "neck", "toe", "fit", "up", "down", "on", "off", "print", "color", "colour",
    "size", "cut", "rise",
];
/// Endings of adjectives.
const ADJECTIVE_ENDINGS: [&str; 10] = ["ish", "ful", "less", "ous", "ive", "able", "ible", "esque", "like", "coloured"];
/// Endings of nouns that would match [`ATTRIBUTIVE_ENDINGS`].
const NOUN_ENDINGS: [&str; 3] = ["ity", "ety", "ry"];
/// Endings of words that are adjectives before another adjective or a noun and nouns elsewhere.
const ATTRIBUTIVE_ENDINGS: [&str; 5] = ["y", "al", "ic", "ar", "ian"];

fn lexicon_class(word: &str, after_person: bool) -> LexiconClass {
    if let Some(class) = lexicon().get(word) {
        return *class;
    }
    if !word.chars().any(char::is_alphabetic) {
        return LexiconClass::Other;
    }
    if let Some((_, last)) = word.rsplit_once('-').filter(|(first, last)| !first.is_empty() && !last.is_empty()) {
        if COMPOUND_ENDINGS.contains(&last) {
            return LexiconClass::Attributive;
        }
        return match lexicon_class(last, false) {
            LexiconClass::Adjective => LexiconClass::Adjective,
            LexiconClass::Participle => LexiconClass::Participle,
            // An unknown last part ("tie-dye", "two-tone") describes when something follows.
            LexiconClass::Noun | LexiconClass::Person if lexicon().contains_key(last) => LexiconClass::Noun,
            _ => LexiconClass::Attributive,
        };
    }
    let ends = |endings: &[&str]| endings.iter().any(|e| word.len() > e.len() + 1 && word.ends_with(e));
    match word {
        _ if ends(&["colored", "coloured"]) => LexiconClass::Adjective,
        _ if ends(&["ed"]) => LexiconClass::Participle,
        _ if ends(&["ing", "ly", "wards"]) => LexiconClass::Other,
        _ if ends(&ADJECTIVE_ENDINGS) => LexiconClass::Adjective,
        _ if word.len() > 5 && ends(&["est"]) => LexiconClass::Attributive,
        _ if ends(&NOUN_ENDINGS) => LexiconClass::Noun,
        _ if ends(&ATTRIBUTIVE_ENDINGS) => LexiconClass::Attributive,
        _ if after_person && ends(&["s"]) && !ends(&["ss"]) => LexiconClass::Other,
        _ => LexiconClass::Noun,
    }
}

/// Splits `text` into words, as byte ranges; a punctuation mark is a word of its own. Hyphens and
/// apostrophes stay inside words, the possessive 's is split off.
fn split(text: &str) -> Vec<Range<usize>> {
    let inner = |c: char| matches!(c, '-' | '\'' | '\u{2019}' | '_');
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let inside = c.is_alphanumeric() || (start.is_some() && inner(c));
        match (inside, start) {
            (true, None) => start = Some(at),
            (false, from) => {
                if let Some(from) = from {
                    let word = text[from..at].trim_end_matches(inner);
                    let bare = word.strip_suffix("'s").or_else(|| word.strip_suffix("\u{2019}s")).unwrap_or(word);
                    words.push(from..from + bare.len());
                    if bare.len() < word.len() {
                        words.push(from + bare.len()..from + word.len());
                    }
                }
                if !c.is_whitespace() {
                    words.push(at..at + c.len_utf8());
                }
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// The words of `text` in order, each with its tag.
pub fn tag(text: &str) -> Vec<Word> {
    let ranges = split(text);
    let mut classes = Vec::with_capacity(ranges.len());
    let mut after_person = false;
    for range in &ranges {
        let found = lexicon_class(&text[range.clone()].to_lowercase(), after_person);
        after_person = matches!(found, LexiconClass::Person | LexiconClass::Pronoun);
        classes.push(found);
    }
    let mut words: Vec<Word> = ranges.into_iter().map(|range| Word { range, tag: Tag::Other }).collect();
    let mut next = Tag::Other;
    for (word, class) in words.iter_mut().zip(classes).rev() {
        word.tag = match (class, next) {
            (LexiconClass::Adjective, _) => Tag::Adjective,
            (
                LexiconClass::Attributive | LexiconClass::Position | LexiconClass::Participle,
                Tag::Adjective | Tag::Noun,
            ) => Tag::Adjective,
            (LexiconClass::Noun | LexiconClass::Person | LexiconClass::Attributive, _)
            | (LexiconClass::Modifier, Tag::Noun) => Tag::Noun,
            _ => Tag::Other,
        };
        next = word.tag;
    }
    words
}

/// The paper's attribute phrases among `words`: one or more adjectives, then one or more nouns.
/// Ranges of words.
pub fn phrases(words: &[Word]) -> Vec<Range<usize>> {
    let run = |from: usize, tag: Tag| from + words[from..].iter().take_while(|w| w.tag == tag).count();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < words.len() {
        let nouns = run(at, Tag::Adjective);
        let end = run(nouns, Tag::Noun);
        if nouns > at && end > nouns {
            found.push(at..end);
        }
        at = end.max(nouns).max(at + 1);
    }
    found
}

/// Positions of attributes among the word pieces of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// Range of pieces of each phrase, in order, without overlap.
    pub phrases: Vec<Range<usize>>,
    /// Indices of the pieces of adjectives and nouns.
    pub words: Vec<usize>,
}

/// A tokenised caption with its attributes, for training.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaggedCaption {
    /// `[CLS]`, word pieces, `[SEP]`.
    pub ids: Vec<u32>,
    /// Positions of the attributes.
    pub spans: Spans,
}

impl TaggedCaption {
    /// Cleans, tokenises (cut to the model's length) and tags `raw`.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(texts: &CaptionTokenizer, raw: &str) -> Result<Self, EmbedError> {
        let (caption, pieces) = texts.encode_with_offsets(raw)?;
        let spans = spans(&caption.text, &pieces);
        Ok(Self { ids: caption.ids, spans })
    }
}

/// Attributes of `text`, whose word pieces lie at the byte ranges `pieces`; pieces without a place
/// in the text (`[CLS]`, `[SEP]`) have an empty range.
fn spans(text: &str, pieces: &[Range<usize>]) -> Spans {
    let words = tag(text);
    let at = |range: Range<usize>| pieces_at(pieces, &(words[range.start].range.start..words[range.end - 1].range.end));
    // A piece can span two phrases: a run of characters that are not in the vocabulary is one
    // [UNK].
    let mut end = 0;
    let mut of_phrases = Vec::new();
    for mut pieces in phrases(&words).into_iter().filter_map(at) {
        pieces.start = pieces.start.max(end);
        end = end.max(pieces.end);
        if !pieces.is_empty() {
            of_phrases.push(pieces);
        }
    }
    let described = (0..words.len()).filter(|&w| words[w].tag != Tag::Other);
    let mut pieces_of_words: Vec<usize> = described.filter_map(|w| at(w..w + 1)).flatten().collect();
    pieces_of_words.dedup();
    Spans { phrases: of_phrases, words: pieces_of_words }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_word_of_the_lexicon_has_one_class() {
        let lines = include_str!("lexicon.txt").lines().filter(|l| !l.starts_with('#'));
        let words: Vec<&str> = lines.flat_map(|l| l.split_whitespace().skip(1)).collect();
        assert_eq!(words.len(), lexicon().len(), "a word stands twice");
        let known = ["adjective", "attributive", "position", "noun", "person", "modifier", "participle", "pronoun"];
        for line in include_str!("lexicon.txt").lines().filter(|l| !l.starts_with('#')) {
            let class = line.split(": ").next().unwrap_or_default();
            assert!(known.contains(&class) || ["verb", "other"].contains(&class), "{line}");
        }
    }

    fn found(text: &str) -> Vec<String> {
        let words = tag(text);
        phrases(&words)
            .iter()
            .map(|p| text[words[p.start].range.start..words[p.end - 1].range.end].to_owned())
            .collect()
    }

    #[test]
    fn phrases_of_sentences() {
        for (text, expected) in [
            ("Her hair is tied back, and she wears ripped jeans", &["ripped jeans"][..]),
            ("the man walks to the left with a v-neck jumper", &["v-neck jumper"]),
            ("a woman strolls past in reddish knee-high boots", &["reddish knee-high boots"]),
            ("the lady's bag is brown/white", &[]),
            ("male, dark grey running shoes", &["dark grey running shoes"]),
            ("a shirt tucked into khaki chinos", &["khaki chinos"]),
            ("", &[]),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn words_and_phrases_lie_in_order_within_any_text(text in "(\\PC|[ a-z,'-]|ed |ing |red |\u{2019}s ){0,60}") {
            let words = tag(&text);
            let mut end = 0;
            for word in &words {
                prop_assert!(word.range.start >= end && word.range.start < word.range.end);
                prop_assert!(text.get(word.range.clone()).is_some());
                end = word.range.end;
            }
            let mut end = 0;
            for phrase in phrases(&words) {
                prop_assert!(phrase.start >= end && phrase.len() >= 2 && phrase.end <= words.len());
                prop_assert_eq!(words[phrase.start].tag, Tag::Adjective);
                prop_assert_eq!(words[phrase.end - 1].tag, Tag::Noun);
                end = phrase.end;
            }
        }

        #[test]
        fn spans_lie_within_the_pieces(text in "\\PC{0,60}", width in 1usize..5, cut in 0usize..20) {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).step_by(width).collect();
            let mut pieces: Vec<Range<usize>> = places.windows(2).take(cut).map(|p| p[0]..p[1]).collect();
            pieces.insert(0, 0..0);
            pieces.push(0..0);
            let found = spans(&text, &pieces);
            prop_assert!(found.words.windows(2).all(|p| p[0] < p[1]));
            let last = pieces.len() - 1;
            prop_assert!(found.words.iter().all(|&i| i > 0 && i < last));
            prop_assert!(found.phrases.windows(2).all(|p| p[0].end <= p[1].start));
            prop_assert!(found.phrases.iter().all(|p| p.start > 0 && p.end <= last && !p.is_empty()));
        }
    }
}
