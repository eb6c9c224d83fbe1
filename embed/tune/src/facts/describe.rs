//! Descriptions: captions generated from facts, with the phrases that they state.
//!
//! The mentioned facts are balanced: what few persons have (bags, skirts, hats, shorts, short
//! sleeves, long hair) is mentioned nearly always, what most persons have about every second time
//! or less. Otherwise nine of ten captions would say "trousers" and would distinguish nobody.

use std::ops::Range;

use rand::Rng;
use rand::seq::SliceRandom;

use super::words::Verb;
use super::{Facts, Part, Phrase, truth};

/// A caption and the phrases that it states.
#[derive(Debug, Clone)]
pub struct Description {
    text: String,
    phrases: Vec<Phrase>,
    /// Byte range of the noun of each phrase in `text`.
    ranges: Vec<Range<usize>>,
    style: Style,
}

/// How the phrases are combined.
#[derive(Debug, Clone, Copy)]
struct Style {
    form: Form,
    /// Chooses among equivalent wordings.
    way: usize,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// As operators type: "red jacket, jeans, backpack".
    List,
    Sentence,
    TwoSentences,
}

/// Share of the descriptions that mention a thing that is not rare.
fn share(part: Part, layer: usize) -> f32 {
    match part {
        Part::Upper if layer == 0 => 0.8,
        Part::Upper => 0.55,
        Part::Lower => 0.6,
        Part::Sex => 0.6,
        Part::Glasses => 0.5,
        Part::Extra => 0.35,
        Part::Shoes => 0.3,
        Part::Hair => 0.25,
        Part::Sleeves => 0.12,
        Part::Bag | Part::Hat | Part::Held => 0.85,
    }
}

/// Share of the descriptions that mention something rare.
const RARE_SHARE: f32 = 0.85;
/// Share of the mentions of a thing that include its colour.
fn colour_share(part: Part) -> f32 {
    match part {
        Part::Held | Part::Extra => 0.3,
        Part::Bag | Part::Hat | Part::Hair => 0.65,
        _ => 0.85,
    }
}

impl Description {
    /// Generates a description of the person that `facts` describe. `None` if no fact is certain.
    pub fn of(facts: &Facts, rng: &mut impl Rng) -> Option<Self> {
        let mut phrases = Vec::new();
        let mut unused = Vec::new();
        for &part in Part::ALL {
            for (layer, item) in facts.seen(part).items.iter().enumerate() {
                let Some(phrase) = Phrase::about(part, item, colour_share(part), 0.1, rng) else { continue };
                let share = match phrase.is_rare() {
                    // Two of five persons have short sleeves; they are the most common of the rare
                    // kinds.
                    true if part == Part::Sleeves => 0.5,
                    true => RARE_SHARE,
                    false => share(part, layer),
                };
                if rng.random::<f32>() < share {
                    phrases.push((part, layer, phrase));
                } else {
                    unused.push((part, layer, phrase));
                }
            }
            let share = if part == Part::Bag { 0.15 } else { 0.04 };
            let nothing = Phrase::nothing_of(part, facts, rng).filter(|_| rng.random::<f32>() < share);
            phrases.extend(nothing.map(|phrase| (part, 0, phrase)));
        }
        // There are at least two statements besides sex, if the facts allow two.
        unused.shuffle(rng);
        while phrases.iter().filter(|(part, ..)| *part != Part::Sex).count() < 2 {
            let Some(more) = unused.pop() else { break };
            phrases.push(more);
        }
        phrases.sort_by_key(|(part, layer, _)| (*part, *layer));
        let mut phrases: Vec<Phrase> = phrases.into_iter().map(|(.., phrase)| phrase).collect();
        if rng.random::<f32>() < 0.4 {
            // The parts change their order; the layers of the upper body keep theirs.
            phrases.sort_by_key(|phrase| match phrase.part() {
                Part::Hat | Part::Bag => 0,
                Part::Lower => 1,
                _ => 2,
            });
        }
        let form = match rng.random::<f32>() {
            at if at < 0.4 => Form::List,
            at if at < 0.75 => Form::Sentence,
            _ => Form::TwoSentences,
        };
        let style = Style { form, way: rng.random_range(0..12) };
        (!phrases.is_empty()).then(|| Self::new(phrases, style))
    }

    fn new(phrases: Vec<Phrase>, style: Style) -> Self {
        let Words { text, nouns } = Groups::of(&phrases).text(style);
        let mut ranges = vec![0..0; phrases.len()];
        for (index, range) in nouns {
            ranges[index] = range;
        }
        Self { text, phrases, ranges, style }
    }

    /// The caption.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The phrases that the caption states.
    pub fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    /// Byte range of the noun of each phrase in the caption, in the order of
    /// [`Description::phrases`].
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Whether the whole description is true of a person: false if a phrase is false, otherwise
    /// `None` if a phrase is open.
    pub fn truth(&self, facts: &Facts) -> Option<bool> {
        truth::all(self.phrases.iter().map(|phrase| phrase.truth(facts)))
    }

    /// The same caption with one phrase changed so that it is false of the person that `facts`
    /// describe. `None` if no phrase can be changed like that.
    pub fn changed(&self, facts: &Facts, rng: &mut impl Rng) -> Option<Self> {
        let mut places: Vec<usize> = (0..self.phrases.len()).collect();
        places.shuffle(rng);
        let (place, phrase) =
            places.into_iter().find_map(|place| Some((place, self.phrases[place].changed(facts, rng)?)))?;
        let mut phrases = self.phrases.clone();
        phrases[place] = phrase;
        Some(Self::new(phrases, self.style))
    }
}

/// Words of a caption, and the places of the phrases' nouns in them.
#[derive(Debug, Default)]
struct Words {
    text: String,
    /// Index of a phrase, and the byte range of its noun in `text`.
    nouns: Vec<(usize, Range<usize>)>,
}

impl Words {
    /// Words that end with the noun of phrase `index`.
    fn ending_with(noun: &str, index: usize, text: String) -> Self {
        let range = text.len() - noun.len()..text.len();
        Self { text, nouns: vec![(index, range)] }
    }

    fn with_text(mut self, text: &str) -> Self {
        self.text += text;
        self
    }

    fn with(mut self, other: &Self) -> Self {
        let by = self.text.len();
        self.nouns.extend(other.nouns.iter().map(|(index, range)| (*index, range.start + by..range.end + by)));
        self.text += &other.text;
        self
    }
}

/// Phrases by their place in a sentence.
#[derive(Default)]
struct Groups<'a> {
    all: &'a [Phrase],
    /// Index and noun of the phrase about sex.
    who: Option<(usize, &'a str)>,
    hair: Vec<Words>,
    worn: Vec<Words>,
    with: Vec<Words>,
    carried: Vec<Words>,
    lacking: Vec<Words>,
}

impl<'a> Groups<'a> {
    fn of(phrases: &'a [Phrase]) -> Self {
        let mut groups = Self { all: phrases, ..Self::default() };
        let mut layers = 0;
        for (index, phrase) in phrases.iter().enumerate() {
            let thing = || Words::ending_with(phrase.noun(), index, phrase.thing());
            match (phrase.part(), phrase.verb()) {
                _ if phrase.is_negated() => groups.lacking.push(noun(index, phrase)),
                (Part::Sex, _) => groups.who = Some((index, phrase.noun())),
                (Part::Hair, _) => groups.hair.push(thing()),
                (Part::Upper, _) => {
                    layers += 1;
                    match groups.worn.last_mut().filter(|_| layers == 2) {
                        Some(outer) => *outer = std::mem::take(outer).with_text(" over ").with(&thing()),
                        None => groups.worn.push(thing()),
                    }
                }
                (_, Verb::Wear) => groups.worn.push(thing()),
                (_, Verb::With) => groups.with.push(thing()),
                (_, Verb::Carry) => groups.carried.push(thing()),
            }
        }
        groups
    }

    fn text(&self, style: Style) -> Words {
        match style.form {
            Form::List => self.list(style.way),
            Form::Sentence => self.sentence(style.way),
            Form::TwoSentences => self.two_sentences(style.way),
        }
    }

    fn list(&self, way: usize) -> Words {
        let nouns: Vec<Words> = self.all.iter().enumerate().map(|(index, phrase)| noun(index, phrase)).collect();
        joined(&nouns, [", ", ", ", " "][way % 3])
    }

    fn person(&self) -> Words {
        match self.who {
            Some((index, who)) => Words::ending_with(who, index, super::phrase::with_article(who)),
            None => Words::default().with_text("a person"),
        }
    }

    fn sentence(&self, way: usize) -> Words {
        let mut text = self.person();
        if !self.hair.is_empty() {
            text = text.with_text(" with ").with(&listed(self.hair.iter()));
        }
        if !self.worn.is_empty() {
            let verb = [" wearing ", " in ", " who wears ", " dressed in "][way % 4];
            text = text.with_text(verb).with(&listed(self.worn.iter()));
        }
        if !self.carried.is_empty() {
            text = text.with_text([", carrying ", " carrying "][way % 2]).with(&listed(self.carried.iter()));
        }
        let more: Vec<&Words> = self.with.iter().chain(&self.lacking).collect();
        if !more.is_empty() {
            text = text.with_text(", with ").with(&listed(more.into_iter()));
        }
        finished(text, way)
    }

    fn two_sentences(&self, way: usize) -> Words {
        let pronoun = match self.who {
            Some((_, "man" | "male")) => " He ",
            Some(_) => " She ",
            None => " The person ",
        };
        let has: Vec<&Words> = self.hair.iter().chain(&self.with).chain(&self.lacking).collect();
        let deed = |verb: &str, things: Words| Words::default().with_text(verb).with(&things);
        let mut deeds = Vec::new();
        if !self.worn.is_empty() {
            deeds.push(deed(["wears ", "is wearing "][way % 2], listed(self.worn.iter())));
        }
        if !has.is_empty() {
            deeds.push(deed("has ", listed(has.into_iter())));
        }
        if !self.carried.is_empty() {
            deeds.push(deed(["carries ", "is carrying ", "holds "][way % 3], listed(self.carried.iter())));
        }
        let turn = if deeds.is_empty() { 0 } else { way % deeds.len() };
        deeds.rotate_left(turn);
        let Some((first, rest)) = deeds.split_first() else { return finished(self.person(), way) };
        let text = finished(self.person().with_text(" ").with(first), 0);
        match rest {
            [] => text,
            rest => text.with_text(pronoun).with(&joined(rest, " and ")).with_text("."),
        }
    }
}

/// The noun of phrase `index` alone.
fn noun(index: usize, phrase: &Phrase) -> Words {
    Words::ending_with(phrase.noun(), index, phrase.noun().to_owned())
}

/// Adds a capital letter and a full stop, in two of three ways. The words are ASCII, so a capital
/// letter moves nothing.
fn finished(mut words: Words, way: usize) -> Words {
    if way % 3 == 2 {
        return words;
    }
    if let Some(first) = words.text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words.with_text(".")
}

/// Joins `items` with `between`.
fn joined(items: &[Words], between: &str) -> Words {
    items.iter().enumerate().fold(Words::default(), |all, (place, item)| {
        let all = if place > 0 { all.with_text(between) } else { all };
        all.with(item)
    })
}

/// Joins `items` as "a, b and c".
fn listed<'w>(items: impl ExactSizeIterator<Item = &'w Words>) -> Words {
    let last = items.len().saturating_sub(1);
    items.enumerate().fold(Words::default(), |all, (place, item)| {
        let all = match place {
            0 => all,
            _ if place == last => all.with_text(" and "),
            _ => all.with_text(", "),
        };
        all.with(item)
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::facts::words::terms;
    use crate::facts::{Colours, Item, Kind, KindSet};
    use sightline_embed::text::clean;

    /// Cleaning a caption must not change the words of a phrase, for their range counts on it.
    #[test]
    fn every_word_is_clean() {
        let words = Part::ALL.iter().flat_map(|part| terms(*part)).flat_map(|term| term.words);
        let colours = Part::ALL.iter().flat_map(|part| super::super::phrase::colour_terms(*part));
        for word in words.chain(colours.flat_map(|colour| colour.words)) {
            assert!(word.is_ascii() && clean(word).0 == *word, "{word:?}");
        }
    }

    #[test]
    fn a_caption_knows_where_its_phrases_are() {
        let mut facts = Facts::unknown();
        let mut state = |part, kinds: &[Kind]| {
            let item = |kind: &Kind| Item { kinds: KindSet::of(&[*kind]), colours: Colours::default() };
            facts.state(part, kinds.iter().map(item).collect());
        };
        // The nouns of one stand in those of others: "cap" and "ball" in "baseball cap", "shirt" in
        // "t-shirt", "man" in "woman", "bag" in "no bag".
        state(Part::Sex, &[Kind::Woman]);
        state(Part::Upper, &[Kind::Shirt, Kind::TShirt]);
        state(Part::Hat, &[Kind::Cap]);
        state(Part::Held, &[Kind::Ball]);
        state(Part::Bag, &[]);
        let mut rng = StdRng::seed_from_u64(7);
        let mut inside = 0;
        for _ in 0..400 {
            let description = Description::of(&facts, &mut rng).expect("something is known");
            let changed = description.changed(&facts, &mut rng).expect("something can be false");
            for description in [description, changed] {
                let (text, ranges) = (description.text(), description.ranges());
                assert_eq!(ranges.len(), description.phrases().len());
                for (phrase, range) in description.phrases().iter().zip(ranges) {
                    assert_eq!(&text[range.clone()], phrase.noun(), "{text}");
                    inside += usize::from(text.find(phrase.noun()) != Some(range.start));
                }
                let mut sorted = ranges.to_vec();
                sorted.sort_by_key(|range| range.start);
                assert!(sorted.windows(2).all(|two| two[0].end < two[1].start), "{text}: {ranges:?}");
            }
        }
        assert!(inside > 40, "{inside} nouns stand elsewhere before their own place");
    }
}
