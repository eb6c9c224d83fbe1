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
    /// What a list has: "red jacket", "no bag".
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

/// `words` with "a" or "an" before them.
pub(super) fn with_article(words: &str) -> String {
    let an = words.starts_with(['a', 'e', 'i', 'o']) || words.starts_with("um");
    format!("{} {words}", if an { "an" } else { "a" })
}

/// One of `words`, the first about every second time.
fn pick(words: &'static [&'static str], rng: &mut impl Rng) -> &'static str {
    if rng.random::<f32>() < 0.4 { words[0] } else { words.choose(rng).copied().unwrap_or(words[0]) }
}

impl Phrase {
    /// The phrase that says `word` ("jacket"), in a `colour` or not. `None` if no table has such a
    /// word.
    pub fn named(word: &str, colour: Option<&str>) -> Option<Self> {
        let find =
            |part: &Part| terms(*part).iter().find_map(|term| Some((term, *term.words.iter().find(|w| **w == word)?)));
        let (part, (term, word)) = Part::ALL.iter().find_map(|part| Some((*part, find(part)?)))?;
        let of_colour = |colour: &str| {
            colour_terms(part).iter().find_map(|term| Some((term, *term.words.iter().find(|w| **w == colour)?)))
        };
        match colour {
            None => Some(Self::worded(part, (term, word), None)),
            Some(colour) => Some(Self::worded(part, (term, word), Some(of_colour(colour)?))),
        }
    }

    /// That there is what `term` names, in `colour` if there is one.
    fn has(part: Part, term: &'static Term, colour: Option<&'static ColourTerm>, rng: &mut impl Rng) -> Self {
        let word = pick(term.words, rng);
        Self::worded(part, (term, word), colour.map(|colour| (colour, pick(colour.words, rng))))
    }

    /// As [`Phrase::has`], in certain words.
    fn worded(
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

    /// That there is nothing that `term` names.
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

    /// Its words: "wearing a red jacket".
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it states.
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// The part that it speaks of.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Whether it is true of the person that `facts` tell of.
    pub fn truth(&self, facts: &Facts) -> Option<bool> {
        self.claim.truth(facts)
    }

    /// Without verb and article: "red jacket".
    pub fn noun(&self) -> &str {
        &self.noun
    }

    /// Without verb: "a red jacket".
    pub(super) fn thing(&self) -> String {
        if self.term.plural { self.noun.clone() } else { with_article(&self.noun) }
    }

    pub(super) fn verb(&self) -> Verb {
        self.term.verb
    }

    pub(super) fn is_negated(&self) -> bool {
        matches!(self.claim, Claim::HasNot(_))
    }

    /// Whether it speaks of a thing that is rare.
    pub(super) fn is_rare(&self) -> bool {
        !self.is_negated() && self.term.yes.within(super::rare::RARE)
    }

    /// A true phrase about `item`. `colour` and `wide` are the shares of phrases with the colour, and
    /// of those that have nothing but the colour. `None` if no word is sure.
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

    /// That there is nothing of `part`, if that is true.
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

    /// Phrases that are true of a person: of each thing with and without its colour, of clothes
    /// their colour alone too, and what is not there.
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
        let absent: Vec<&Term> = terms(Part::Upper).iter().filter(|term| is_false(Part::Upper, term, facts)).collect();
        if let Some(term) = absent.choose(rng) {
            phrases.push(Self::has_not(Part::Upper, term, rng));
        }
        let mut told = BTreeSet::new();
        phrases.retain(|phrase| told.insert(phrase.text.clone()));
        phrases
    }

    /// Phrases that are false of a person, each one step from a true one.
    pub fn false_of(facts: &Facts, rng: &mut impl Rng) -> Vec<Self> {
        Self::true_of(facts, rng).iter().filter_map(|phrase| phrase.changed(facts, rng)).collect()
    }

    /// The phrase with one thing changed, so that it is false of the person that `facts` tell of:
    /// another colour, another kind, or there instead of not there and the reverse. `None` if no
    /// such change is surely false.
    pub fn changed(&self, facts: &Facts, rng: &mut impl Rng) -> Option<Self> {
        let false_now = |phrase: Self| (phrase.truth(facts) == Some(false)).then_some(phrase);
        let part = self.part;
        // Of the same verb, so that the rest of a sentence stays as it is.
        let fits = |term: &&Term| term.verb == self.term.verb && (!term.wide || self.term.wide);
        let kinds = || terms(part).iter().filter(fits);
        if self.is_negated() {
            let wrong: Vec<&Term> = kinds().filter(|term| is_false(part, term, facts)).collect();
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

/// Whether nothing that `term` names is there, for sure.
fn is_false(part: Part, term: &Term, facts: &Facts) -> bool {
    debug_assert!(term.yes.within(part.kinds()));
    Claim::Has(Wanted::of(term, None)).truth(facts) == Some(false)
}
