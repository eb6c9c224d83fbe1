//! A phrase: one statement in words, such as "wearing a red jacket", "a woman" or "no bag".

use std::collections::BTreeSet;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::colour::{ColourTerm, HAIR_COLOURS, THING_COLOURS};
use super::words::{Term, Verb, terms};
use super::{Claim, Facts, Item, Part, Wanted};

/// One statement about a person, in words.
#[derive(Debug, Clone)]
pub struct Phrase {
    text: String,
    /// Words in a list: "red jacket", "no bag".
    noun: String,
    claim: Claim,
    part: Part,
    term: &'static Term,
    colour: Option<&'static ColourTerm>,
}

/// Words for the colours of `part`.
pub(super) fn colour_terms(part: Part) -> &'static [ColourTerm] {
    if part == Part::Hair { HAIR_COLOURS } else { THING_COLOURS }
}

/// Puts "a" or "an" before `words`.
pub(super) fn with_article(words: &str) -> String {
    let an = words.starts_with(['a', 'e', 'i', 'o']) || words.starts_with("um");
    format!("{} {words}", if an { "an" } else { "a" })
}

/// Picks one of `words`; the first one is the most likely.
fn pick(words: &'static [&'static str], rng: &mut impl Rng) -> &'static str {
    if rng.random::<f32>() < 0.4 { words[0] } else { words.choose(rng).copied().unwrap_or(words[0]) }
}

impl Phrase {
    /// The phrase with the word `word` ("jacket") and, optionally, a `colour`. `None` if no table
    /// has such a word.
    pub fn named(word: &str, colour: Option<&str>) -> Option<Self> {
        let find =
            |part: &Part| terms(*part).iter().find_map(|term| Some((term, *term.words.iter().find(|w| **w == word)?)));
        let (part, (term, word)) = Part::ALL.iter().find_map(|part| Some((*part, find(part)?)))?;
        let of_colour = |colour: &str| {
            colour_terms(part).iter().find_map(|term| Some((term, *term.words.iter().find(|w| **w == colour)?)))
        };
        match colour {
            None => Some(Self::with_words(part, (term, word), None)),
            Some(colour) => Some(Self::with_words(part, (term, word), Some(of_colour(colour)?))),
        }
    }

    /// States that there is a thing that `term` names, in `colour` if given.
    fn has(part: Part, term: &'static Term, colour: Option<&'static ColourTerm>, rng: &mut impl Rng) -> Self {
        let word = pick(term.words, rng);
        Self::with_words(part, (term, word), colour.map(|colour| (colour, pick(colour.words, rng))))
    }

    /// Makes a phrase like [`Phrase::has`], with the given words.
    fn with_words(
        part: Part,
        (term, word): (&'static Term, &'static str),
        colour: Option<(&'static ColourTerm, &'static str)>,
    ) -> Self {
        let noun = match (colour.map(|(_, word)| word), part) {
            (Some(colour), Part::Hair) => word.replace("hair", &format!("{colour} hair")),
            (Some(colour), _) => format!("{colour} {word}"),
            (None, _) => word.to_owned(),
        };
        let colour = colour.map(|(term, _)| term);
        let mut phrase =
            Self { text: String::new(), noun, claim: Claim::Has(Wanted::of(term, colour)), part, term, colour };
        phrase.text = match (part, term.verb) {
            (Part::Sex, _) => phrase.thing(),
            (_, Verb::Wear) => format!("wearing {}", phrase.thing()),
            (_, Verb::Carry) => format!("carrying {}", phrase.thing()),
            (_, Verb::With) => format!("with {}", phrase.thing()),
        };
        phrase
    }

    /// States that there is nothing that `term` names.
    fn has_not(part: Part, term: &'static Term, rng: &mut impl Rng) -> Self {
        let word = pick(term.words, rng);
        let noun = format!("no {word}");
        let text = match rng.random_range(0..3) {
            0 => noun.clone(),
            1 if term.plural => format!("without {word}"),
            1 => format!("without {}", with_article(word)),
            _ => {
                let verb = if term.verb == Verb::Carry { "carrying" } else { "wearing" };
                format!("not {verb} {}", if term.plural { word.to_owned() } else { with_article(word) })
            }
        };
        Self { text, noun, claim: Claim::HasNot(Wanted::of(term, None)), part, term, colour: None }
    }

    /// The words of the phrase: "wearing a red jacket".
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The claim that the phrase states.
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// The part that the phrase is about.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Whether the phrase is true of the person that `facts` describe; `None` if they leave it
    /// open.
    pub fn truth(&self, facts: &Facts) -> Option<bool> {
        self.claim.truth(facts)
    }

    /// The phrase without verb and article: "red jacket".
    pub fn noun(&self) -> &str {
        &self.noun
    }

    /// The phrase without verb: "a red jacket".
    pub(super) fn thing(&self) -> String {
        if self.term.plural { self.noun.clone() } else { with_article(&self.noun) }
    }

    pub(super) fn verb(&self) -> Verb {
        self.term.verb
    }

    pub(super) fn is_negated(&self) -> bool {
        matches!(self.claim, Claim::HasNot(_))
    }

    /// Whether the phrase names a rare kind.
    pub(super) fn is_rare(&self) -> bool {
        !self.is_negated() && self.term.yes.within(super::rare::RARE)
    }

    /// Generates a true phrase about `item`. `colour` is the share of phrases that include the
    /// colour, `wide` the share that name the colour but no kind. `None` if no word is certain.
    pub(crate) fn about(part: Part, item: &Item, colour: f32, wide: f32, rng: &mut impl Rng) -> Option<Self> {
        let sure = |term: &&'static ColourTerm| item.colours.are(term.yes, term.maybe) == Some(true);
        let colours: Vec<&ColourTerm> = colour_terms(part).iter().filter(sure).collect();
        let kinds: Vec<&Term> = terms(part).iter().filter(|t| !t.wide && item.kinds.within(t.yes)).collect();
        let any = terms(part).iter().find(|term| term.wide);
        let coloured = rng.random::<f32>() < colour;
        let wide = rng.random::<f32>() < wide || kinds.is_empty();
        match (any.filter(|_| wide), colours.choose(rng), kinds.choose(rng)) {
            (Some(any), Some(colour), _) => Some(Self::has(part, any, Some(colour), rng)),
            (_, colour, Some(kind)) => Some(Self::has(part, kind, colour.copied().filter(|_| coloured), rng)),
            _ => None,
        }
    }

    /// States that there is nothing of `part`; `None` unless that is true.
    pub(super) fn nothing_of(part: Part, facts: &Facts, rng: &mut impl Rng) -> Option<Self> {
        let word = match part {
            Part::Bag => "bag",
            Part::Hat => "hat",
            Part::Glasses => "glasses",
            _ => return None,
        };
        let term = terms(part).iter().find(|term| term.words[0] == word)?;
        let phrase = Self::has_not(part, term, rng);
        (phrase.truth(facts) == Some(true)).then_some(phrase)
    }

    /// Phrases that are true of a person: each thing with and without its colour, clothes also by
    /// their colour alone, and what the person does not have.
    pub fn true_of(facts: &Facts, rng: &mut impl Rng) -> Vec<Self> {
        let mut phrases = Vec::new();
        for &part in Part::ALL {
            for item in &facts.seen(part).items {
                for (colour, wide) in [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0)] {
                    phrases.extend(Self::about(part, item, colour, wide, rng));
                }
            }
            phrases.extend(Self::nothing_of(part, facts, rng));
        }
        let absent: Vec<&Term> = terms(Part::Upper).iter().filter(|term| is_false(term, facts)).collect();
        if let Some(term) = absent.choose(rng) {
            phrases.push(Self::has_not(Part::Upper, term, rng));
        }
        let mut texts = BTreeSet::new();
        phrases.retain(|phrase| texts.insert(phrase.text.clone()));
        phrases
    }

    /// Phrases that are false of a person, each a true one with one change.
    pub fn false_of(facts: &Facts, rng: &mut impl Rng) -> Vec<Self> {
        Self::true_of(facts, rng).iter().filter_map(|phrase| phrase.changed(facts, rng)).collect()
    }

    /// The phrase with one change that makes it false of the person that `facts` describe: another
    /// colour, another kind, or presence instead of absence and the reverse. `None` if no such
    /// change is certainly false.
    pub fn changed(&self, facts: &Facts, rng: &mut impl Rng) -> Option<Self> {
        let false_now = |phrase: Self| (phrase.truth(facts) == Some(false)).then_some(phrase);
        let part = self.part;
        // The verb must be the same, so that the rest of a sentence stays unchanged.
        let fits = |term: &&Term| term.verb == self.term.verb && (!term.wide || self.term.wide);
        let kinds = || terms(part).iter().filter(fits);
        if self.is_negated() {
            let wrong: Vec<&Term> = kinds().filter(|term| is_false(term, facts)).collect();
            return wrong.choose(rng).and_then(|term| false_now(Self::has(part, term, None, rng)));
        }
        let colours: Vec<&ColourTerm> = match self.colour {
            None => Vec::new(),
            Some(_) => colour_terms(part)
                .iter()
                .filter(|colour| Claim::Has(Wanted::of(self.term, Some(colour))).truth(facts) == Some(false))
                .collect(),
        };
        let kinds: Vec<&Term> =
            kinds().filter(|term| Claim::Has(Wanted::of(term, self.colour)).truth(facts) == Some(false)).collect();
        let can_lack = matches!(part, Part::Bag | Part::Hat | Part::Glasses | Part::Held | Part::Extra);
        let at = rng.random::<f32>();
        let recoloured = colours.choose(rng).filter(|_| at < 0.5);
        let other = kinds.choose(rng).filter(|_| at < 0.85 || !can_lack);
        match (recoloured, other) {
            (Some(colour), _) => false_now(Self::has(part, self.term, Some(colour), rng)),
            (None, Some(term)) => false_now(Self::has(part, term, self.colour, rng)),
            (None, None) if can_lack => {
                let whole = terms(part).iter().find(|term| ["bag", "hat"].contains(&term.words[0]));
                false_now(Self::has_not(part, whole.unwrap_or(self.term), rng))
            }
            (None, None) => None,
        }
    }
}

/// Whether it is certain that nothing that `term` names is there.
fn is_false(term: &Term, facts: &Facts) -> bool {
    Claim::Has(Wanted::of(term, None)).truth(facts) == Some(false)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// The kinds of a term are all of its own part. Facts about another part would otherwise decide
    /// whether a phrase is true, since a claim looks at the part of its first kind.
    #[test]
    fn a_phrase_is_about_the_part_of_its_term() {
        let mut rng = StdRng::seed_from_u64(1);
        for &part in Part::ALL {
            for term in terms(part) {
                assert!(term.yes.within(part.kinds()), "{term:?}");
                assert_eq!(term.yes.part(), Some(part), "{term:?}");
                for phrase in [Phrase::has(part, term, None, &mut rng), Phrase::has_not(part, term, &mut rng)] {
                    assert_eq!(phrase.part(), part, "{}", phrase.text());
                    assert_eq!(phrase.truth(&Facts::unknown()), None, "{}", phrase.text());
                }
            }
        }
    }
}
