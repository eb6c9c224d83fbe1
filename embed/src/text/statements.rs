//! Statements of a description, phrase by phrase, and the words that state nothing a model judges.
//!
//! "A young man in a black and white jacket, no bag" states "man", "black and white jacket" and,
//! negated, "bag"; "young" is named as something that is not judged. The tagger of
//! [`super::phrases`] finds the words; here they become statements.

use std::ops::Range;

use super::phrases::{Tag, Word, is_known, tag};

/// One statement of a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Words without article and negation: "red jacket", "man".
    pub text: String,
    /// Byte range in the description, a negation included.
    pub range: Range<usize>,
    /// Whether the description negates it: "no bag", "without a hat".
    pub negated: bool,
}

/// A word that no statement was made of, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// The word as it was typed, in lower case.
    pub text: String,
    /// Byte range in the description.
    pub range: Range<usize>,
    /// The reason.
    pub why: Reason,
}

/// Reason why no statement was made of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The lexicon does not know the word.
    Unknown,
    /// The word is about a topic that is not judged.
    NotJudged(Topic),
}

/// Topic that is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Age.
    Age,
    /// Height and build.
    Build,
    /// Origin or colour of the skin.
    Origin,
    /// Mood and looks.
    Mood,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "the word is not known",
            Self::NotJudged(Topic::Age) => "age is not judged",
            Self::NotJudged(Topic::Build) => "height and build are not judged",
            Self::NotJudged(Topic::Origin) => "origin and skin are not judged",
            Self::NotJudged(Topic::Mood) => "mood and looks are not judged",
        })
    }
}

/// Statements of a description, and the words without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Understanding {
    /// Statements, in order, none twice.
    pub statements: Vec<Statement>,
    /// Words without a statement, in order.
    pub not_understood: Vec<NotUnderstood>,
}

/// Words of topics that are not judged. Words that also describe clothes or hair ("short", "thin")
/// count only before a person, and are in [`BEFORE_A_PERSON`].
const TOPICS: [(Topic, &[&str]); 4] = [
    (
        Topic::Age,
        &[
            "young",
            "old",
            "elderly",
            "older",
            "younger",
            "teenage",
            "adult",
            "mature",
            "middle-aged",
            "aged",
            "teen",
            "teenager",
            "adolescent",
            "elder",
            "senior",
            "toddler",
            "baby",
            "year",
            "years",
            "year-old",
        ],
    ),
    (
        Topic::Build,
        &[
            "tall",
            "taller",
            "fat",
            "chubby",
            "plump",
            "stout",
            "stocky",
            "muscular",
            "athletic",
            "overweight",
            "obese",
            "curvy",
            "lanky",
            "slender",
            "skinny",
            "petite",
            "build",
        ],
    ),
    (
        Topic::Origin,
        &[
            "asian",
            "african",
            "european",
            "caucasian",
            "hispanic",
            "indian",
            "arab",
            "foreign",
            "ethnic",
            "skin",
            "dark-skinned",
            "light-skinned",
        ],
    ),
    (
        Topic::Mood,
        &[
            "happy",
            "sad",
            "angry",
            "nervous",
            "tired",
            "drunk",
            "suspicious",
            "healthy",
            "beautiful",
            "pretty",
            "handsome",
            "cute",
            "nice",
            "good",
            "bad",
            "strange",
            "smiling",
            "worried",
        ],
    ),
];

/// Words about build when a person follows: "a short man", "a heavy woman", "a slim guy".
const BEFORE_A_PERSON: [&str; 9] = ["short", "big", "large", "small", "thin", "slim", "lean", "heavy", "broad"];

/// Nouns for any person: they state nothing.
const ANYBODY: [&str; 18] = [
    "person",
    "people",
    "individual",
    "subject",
    "figure",
    "someone",
    "somebody",
    "persons",
    "pedestrian",
    "passenger",
    "shopper",
    "walker",
    "kid",
    "child",
    "clothes",
    "clothing",
    "thing",
    "things",
];

/// Nouns for a man or a woman.
const SEXES: [&str; 14] = [
    "man",
    "woman",
    "boy",
    "girl",
    "lady",
    "guy",
    "gentleman",
    "male",
    "female",
    "men",
    "women",
    "boys",
    "girls",
    "ladies",
];

/// Nouns that say where or how something is and not what.
const PLACES: [&str; 20] = [
    "side",
    "bottom",
    "front",
    "back",
    "top",
    "left",
    "right",
    "hand",
    "hands",
    "shoulder",
    "shoulders",
    "arm",
    "arms",
    "head",
    "street",
    "road",
    "picture",
    "image",
    "colour",
    "color",
];

/// Words that negate what follows.
const NEGATIONS: [&str; 4] = ["no", "without", "not", "n't"];

/// Words that may stand between a negation and what it negates.
const BETWEEN: [&str; 13] =
    ["a", "an", "any", "the", "wearing", "wear", "wears", "carrying", "carry", "carries", "holding", "has", "have"];

/// Takes `text` apart into statements and words without one.
pub fn understand(text: &str) -> Understanding {
    let words = tag(text);
    let lower: Vec<String> = words.iter().map(|word| text[word.range.clone()].to_lowercase()).collect();
    let mut found = Understanding::default();
    let mut at = 0;
    while at < words.len() {
        let end = run_end(&words, &lower, at);
        if end == at {
            add_unknown_word(&words, &lower, at, &mut found);
            at += 1;
            continue;
        }
        add_statement(text, &words, &lower, at..end, &mut found);
        at = end;
    }
    let mut seen = Vec::new();
    found.statements.retain(|statement| {
        let key = (statement.text.clone(), statement.negated);
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    found
}

/// End of the run that begins at `at`: adjectives, perhaps joined by "and" or a comma, then nouns.
fn run_end(words: &[Word], lower: &[String], at: usize) -> usize {
    let is = |i: usize, tag: Tag| words.get(i).is_some_and(|word| word.tag == tag);
    let mut end = at;
    while is(end, Tag::Adjective) {
        end += 1;
        let joined = lower.get(end).is_some_and(|word| ["and", "/", "&", ","].contains(&word.as_str()));
        if joined && is(end + 1, Tag::Adjective) && noun_follows(words, end + 1) {
            end += 1;
        }
    }
    while is(end, Tag::Noun) {
        end += 1;
    }
    end
}

fn noun_follows(words: &[Word], from: usize) -> bool {
    words[from..].iter().find(|word| word.tag != Tag::Adjective).is_some_and(|word| word.tag == Tag::Noun)
}

fn topic(word: &str) -> Option<Topic> {
    TOPICS.iter().find(|(_, words)| words.contains(&word)).map(|(topic, _)| *topic)
}

/// Whether a lower-case word is about none of the topics that are not judged.
pub fn is_judged(word: &str) -> bool {
    topic(word).is_none()
}

/// Adds the statement of the words of `run`, and those of them that state nothing.
fn add_statement(text: &str, words: &[Word], lower: &[String], run: Range<usize>, found: &mut Understanding) {
    let of_person = run.clone().any(|i| SEXES.contains(&lower[i].as_str()) || ANYBODY.contains(&lower[i].as_str()));
    let mut kept = Vec::new();
    for i in run.clone() {
        let word = lower[i].as_str();
        let topic = topic(word).or((of_person && BEFORE_A_PERSON.contains(&word)).then_some(Topic::Build));
        if let Some(topic) = topic {
            let range = words[i].range.clone();
            found.not_understood.push(NotUnderstood { text: word.to_owned(), range, why: Reason::NotJudged(topic) });
        } else if words[i].tag == Tag::Noun && !is_known(word) {
            let range = words[i].range.clone();
            found.not_understood.push(NotUnderstood { text: word.to_owned(), range, why: Reason::Unknown });
        } else {
            kept.push(i);
        }
    }
    // "and" and commas at either end no longer join anything.
    let described = |i: &usize| words[*i].tag != Tag::Other;
    let (Some(first), Some(last)) = (kept.iter().copied().find(described), kept.iter().copied().rfind(described))
    else {
        return;
    };
    let kept: Vec<usize> = kept.into_iter().filter(|i| (first..=last).contains(i)).collect();
    let nouns: Vec<&str> = kept.iter().filter(|i| words[**i].tag == Tag::Noun).map(|i| lower[*i].as_str()).collect();
    let says_nothing = nouns.iter().all(|noun| ANYBODY.contains(noun) || PLACES.contains(noun));
    if !nouns.is_empty() && says_nothing {
        return;
    }
    let own: Vec<&str> = kept.iter().map(|i| lower[*i].as_str()).collect();
    let mut phrase = own.join(" ").replace(" , ", " and ").replace(" / ", " and ").replace(" & ", " and ");
    let range = words[first].range.start..words[last].range.end;
    if nouns.is_empty() {
        // "his jacket is red": the adjective speaks of the last noun.
        let before = found.statements.last().filter(|before| {
            text[before.range.end..range.start].contains(" is ")
                || text[before.range.end..range.start].contains(" are ")
        });
        match before.and_then(|before| before.text.split(' ').next_back()) {
            Some(noun) => phrase = format!("{phrase} {noun}"),
            None if ["bald", "bearded", "bespectacled", "barefoot", "bareheaded"].contains(&phrase.as_str()) => {}
            None => return,
        }
    }
    let negation = negation(lower, run.start);
    let range = negation.map_or(range.start, |i| words[i].range.start)..range.end;
    found.statements.push(Statement { text: phrase, range, negated: negation.is_some() });
}

/// Index of the word that negates the run beginning at `start`.
fn negation(lower: &[String], start: usize) -> Option<usize> {
    let mut before = lower[..start].iter().enumerate().rev().take(4);
    let (i, word) = before.find(|(_, word)| !BETWEEN.contains(&word.as_str()))?;
    NEGATIONS.contains(&word.as_str()).then_some(i)
}

/// Adds a word outside any run, if it is unknown or about a topic that is not judged.
fn add_unknown_word(words: &[Word], lower: &[String], at: usize, found: &mut Understanding) {
    let word = lower[at].as_str();
    let why = match topic(word) {
        Some(topic) => Reason::NotJudged(topic),
        None if is_known(word) || !word.chars().any(char::is_alphabetic) => return,
        None => Reason::Unknown,
    };
    found.not_understood.push(NotUnderstood { text: word.to_owned(), range: words[at].range.clone(), why });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statements(text: &str) -> Vec<String> {
        let statement = |s: &Statement| format!("{}{}", if s.negated { "-" } else { "" }, s.text);
        understand(text).statements.iter().map(statement).collect()
    }

    fn not_understood(text: &str) -> Vec<String> {
        understand(text).not_understood.iter().map(|word| format!("{}: {}", word.text, word.why)).collect()
    }

    #[test]
    fn descriptions_are_taken_apart() {
        for (text, expected) in [
            ("woman in a red jacket with a black backpack", &["woman", "red jacket", "black backpack"][..]),
            ("red jacket, jeans, backpack", &["red jacket", "jeans", "backpack"]),
            ("a man wearing a black and white striped shirt", &["man", "black and white striped shirt"]),
            ("man without a hat, no bag", &["man", "-hat", "-bag"]),
            ("she is not wearing glasses", &["-glasses"]),
            ("a person with long hair and short sleeves", &["long hair", "short sleeves"]),
            ("His jacket is dark blue", &["jacket", "dark blue jacket"]),
            ("a bald man", &["bald man"]),
            ("jeans and jeans", &["jeans"]),
            ("someone in the street", &[]),
            ("", &[]),
        ] {
            assert_eq!(statements(text), expected, "{text}");
        }
    }

    #[test]
    fn what_says_nothing_is_named() {
        assert_eq!(not_understood("a young man in a blue shirt"), ["young: age is not judged"]);
        assert_eq!(statements("a young man in a blue shirt"), ["man", "blue shirt"]);
        assert_eq!(not_understood("short man"), ["short: height and build are not judged"]);
        assert_eq!(statements("short hair, short sleeves"), ["short hair", "short sleeves"]);
        assert_eq!(
            not_understood("angry asian woman"),
            ["angry: mood and looks are not judged", "asian: origin and skin are not judged"]
        );
        assert_eq!(
            not_understood("ein Mann mit Rucksack"),
            ["ein: the word is not known", "mann: the word is not known", "mit: the word is not known",]
        );
        assert_eq!(not_understood("woman in a red jacket"), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_within_its_bytes(text in "(\\PC|[ a-z,'-]|no |red |jacket |and |is |man ){0,60}") {
            let found = understand(&text);
            let mut end = 0;
            for statement in &found.statements {
                prop_assert!(statement.range.start >= end && statement.range.start < statement.range.end);
                prop_assert!(text.get(statement.range.clone()).is_some() && !statement.text.is_empty());
                end = statement.range.end;
            }
            prop_assert!(found.not_understood.iter().all(|lost| text.get(lost.range.clone()).is_some()));
        }
    }
}
