//! Descriptions: captions made of facts, with the phrases that they state.
//!
//! Which facts are mentioned is balanced: what few persons have (bags, skirts, hats, shorts, short
//! sleeves, long hair) nearly always, what most have about every second time or less. Otherwise
//! nine captions of ten would say "trousers" and none of them would tell anybody apart.

use rand::Rng;
use rand::seq::SliceRandom;

use super::words::Verb;
use super::{Facts, Part, Phrase, truth};

/// A caption and what it states.
#[derive(Debug, Clone)]
pub struct Description {
    text: String,
    phrases: Vec<Phrase>,
    style: Style,
}

/// How the phrases are put together.
#[derive(Debug, Clone, Copy)]
struct Style {
    form: Form,
    /// Chooses among ways to say the same.
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
/// Share of the mentions with the thing's colour.
fn colour_share(part: Part) -> f32 {
    match part {
        Part::Held | Part::Extra => 0.3,
        Part::Bag | Part::Hat | Part::Hair => 0.65,
        _ => 0.85,
    }
}

impl Description {
    /// A description of the person that `facts` tell of. `None` if nothing is sure of them.
    pub fn of(facts: &Facts, rng: &mut impl Rng) -> Option<Self> {
        let mut phrases = Vec::new();
        let mut unused = Vec::new();
        for &part in Part::ALL {
            for (layer, item) in facts.seen(part).items.iter().enumerate() {
                let Some(phrase) = Phrase::about(part, item, colour_share(part), 0.1, rng) else { continue };
                let share = match phrase.is_rare() {
                    // Two of five persons have short sleeves; they are the commonest of what is rare.
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
        // Two statements at least, if there are two, sex not counted.
        unused.shuffle(rng);
        while phrases.iter().filter(|(part, ..)| *part != Part::Sex).count() < 2 {
            let Some(more) = unused.pop() else { break };
            phrases.push(more);
        }
        phrases.sort_by_key(|(part, layer, _)| (*part, *layer));
        let mut phrases: Vec<Phrase> = phrases.into_iter().map(|(.., phrase)| phrase).collect();
        if rng.random::<f32>() < 0.4 {
            // Another order of parts; the layers of the upper body keep theirs.
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
        let text = Groups::of(&phrases).text(style);
        Self { text, phrases, style }
    }

    /// The caption.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it states.
    pub fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    /// Whether all of it is true of a person: false if a phrase is false, open if one is open.
    pub fn truth(&self, facts: &Facts) -> Option<bool> {
        truth::all(self.phrases.iter().map(|phrase| phrase.truth(facts)))
    }

    /// The same caption with one phrase that is false of the person that `facts` tell of. `None` if
    /// no phrase can be changed so.
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

/// Phrases by their place in a sentence.
#[derive(Default)]
struct Groups<'a> {
    all: &'a [Phrase],
    who: Option<&'a str>,
    hair: Vec<String>,
    worn: Vec<String>,
    with: Vec<String>,
    carried: Vec<String>,
    lacking: Vec<String>,
}

impl<'a> Groups<'a> {
    fn of(phrases: &'a [Phrase]) -> Self {
        let mut groups = Self { all: phrases, ..Self::default() };
        let mut layers = 0;
        for phrase in phrases {
            match (phrase.part(), phrase.verb()) {
                _ if phrase.is_negated() => groups.lacking.push(phrase.noun().to_owned()),
                (Part::Sex, _) => groups.who = Some(phrase.noun()),
                (Part::Hair, _) => groups.hair.push(phrase.thing()),
                (Part::Upper, _) => {
                    layers += 1;
                    match groups.worn.last_mut().filter(|_| layers == 2) {
                        Some(outer) => *outer += &format!(" over {}", phrase.thing()),
                        None => groups.worn.push(phrase.thing()),
                    }
                }
                (_, Verb::Wear) => groups.worn.push(phrase.thing()),
                (_, Verb::With) => groups.with.push(phrase.thing()),
                (_, Verb::Carry) => groups.carried.push(phrase.thing()),
            }
        }
        groups
    }

    fn text(&self, style: Style) -> String {
        match style.form {
            Form::List => self.list(style.way),
            Form::Sentence => self.sentence(style.way),
            Form::TwoSentences => self.two_sentences(style.way),
        }
    }

    fn list(&self, way: usize) -> String {
        let nouns: Vec<&str> = self.all.iter().map(Phrase::noun).collect();
        nouns.join([", ", ", ", " "][way % 3])
    }

    fn person(&self) -> String {
        super::phrase::with_article(self.who.unwrap_or("person"))
    }

    fn sentence(&self, way: usize) -> String {
        let mut text = self.person();
        if !self.hair.is_empty() {
            text += &format!(" with {}", listed(&self.hair));
        }
        if !self.worn.is_empty() {
            text += &format!(" {} {}", ["wearing", "in", "who wears", "dressed in"][way % 4], listed(&self.worn));
        }
        if !self.carried.is_empty() {
            text += &format!("{} carrying {}", [",", ""][way % 2], listed(&self.carried));
        }
        let more: Vec<String> = self.with.iter().chain(&self.lacking).cloned().collect();
        if !more.is_empty() {
            text += &format!(", with {}", listed(&more));
        }
        finished(&text, way)
    }

    fn two_sentences(&self, way: usize) -> String {
        let pronoun = match self.who {
            Some("man" | "male") => "He",
            Some(_) => "She",
            None => "The person",
        };
        let has: Vec<String> = self.hair.iter().chain(&self.with).chain(&self.lacking).cloned().collect();
        let mut deeds = Vec::new();
        if !self.worn.is_empty() {
            deeds.push(format!("{} {}", ["wears", "is wearing"][way % 2], listed(&self.worn)));
        }
        if !has.is_empty() {
            deeds.push(format!("has {}", listed(&has)));
        }
        if !self.carried.is_empty() {
            deeds.push(format!("{} {}", ["carries", "is carrying", "holds"][way % 3], listed(&self.carried)));
        }
        let turn = if deeds.is_empty() { 0 } else { way % deeds.len() };
        deeds.rotate_left(turn);
        match deeds.split_first() {
            None => finished(&self.person(), way),
            Some((first, [])) => finished(&format!("{} {first}", self.person()), 0),
            Some((first, rest)) => {
                finished(&format!("{} {first}", self.person()), 0) + &format!(" {pronoun} {}.", rest.join(" and "))
            }
        }
    }
}

/// With a capital letter and a full stop, in two of three ways.
fn finished(text: &str, way: usize) -> String {
    if way % 3 == 2 {
        return text.to_owned();
    }
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str() + ".")
}

/// "a, b and c".
fn listed(items: &[String]) -> String {
    match items.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}
