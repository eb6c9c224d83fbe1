//! Kinship of words in WordNet 3's database files (wndb(5WN)): `data.noun` and `data.adj`.
//!
//! Of nouns, those count that are a kind of something a person wears, carries or is: "jet" is no drug here, "tee" no peg. Near
//! are words of the same synset ("rucksack": backpack), one step away what it is a kind of or similar to ("anorak": jacket),
//! two steps away what that is a kind of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

use super::Trained;
use crate::train::vocabulary::is_word;
use crate::train::{Result, TrainError};

/// Nouns count when they are one of these or a kind of them.
const ROOTS: [&str; 11] = [
    "clothing",
    "footwear",
    "garment",
    "fabric",
    "bag",
    "baggage",
    "hair",
    "spectacles",
    "person",
    "headdress",
    "jewelry",
];
/// Steps between synsets, at most.
const STEPS: usize = 2;
/// What a step takes away from a word's weight.
const STEP: f32 = 0.2;

type Outcome<T> = std::result::Result<T, String>;

#[derive(Debug, PartialEq)]
struct Synset {
    words: Vec<String>,
    /// Hypernyms, or similar adjectives.
    near: Vec<(char, u32)>,
    root: bool,
}

/// Synsets by part of speech (`n`, `a`) and offset, and where each word stands.
pub struct WordNet {
    synsets: HashMap<(char, u32), Synset>,
    places: BTreeMap<String, Vec<(char, u32)>>,
}

impl WordNet {
    /// Reads `data.noun` and `data.adj` in `folder`.
    ///
    /// # Errors
    /// A file that is missing or of another form, with its line.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut synsets = HashMap::new();
        for (name, part) in [("data.noun", 'n'), ("data.adj", 'a')] {
            let path = folder.join(name);
            let text = fs::read_to_string(&path).map_err(TrainError::io(&path))?;
            read(&text, part, &mut synsets).map_err(|what| TrainError::content(&path, what))?;
        }
        Ok(Self::of(synsets))
    }

    /// Of nouns in `text` and no adjectives.
    #[cfg(feature = "fuzzing")]
    pub(super) fn parse(text: &str) -> Outcome<Self> {
        let mut synsets = HashMap::new();
        read(text, 'n', &mut synsets)?;
        Ok(Self::of(synsets))
    }

    fn of(all: HashMap<(char, u32), Synset>) -> Self {
        let worn: HashSet<(char, u32)> = all.keys().copied().filter(|at| at.0 == 'a' || rooted(&all, *at)).collect();
        let synsets: HashMap<_, _> = all.into_iter().filter(|(at, _)| worn.contains(at)).collect();
        let mut places: BTreeMap<String, Vec<(char, u32)>> = BTreeMap::new();
        for (at, synset) in &synsets {
            for word in &synset.words {
                places.entry(word.clone()).or_default().push(*at);
            }
        }
        places.values_mut().for_each(|senses| senses.sort_unstable());
        Self { synsets, places }
    }

    /// All words that are one word.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Trained words with their weights: a step away counts a fifth, and words of one distance share. Of a word's senses
    /// those count whose nearest trained word is nearest.
    pub fn near(&self, word: &str, trained: &Trained) -> Vec<(usize, f32)> {
        let (mut found, mut least) = (HashMap::<usize, f32>::new(), usize::MAX);
        for sense in self.senses(word) {
            let around = self.around(sense, trained);
            let Some(first) = around.iter().position(|words| !words.is_empty()) else { continue };
            if first < least {
                (found, least) = (HashMap::new(), first);
            }
            if first == least {
                for (steps, words) in around.iter().enumerate() {
                    let each = STEP.powi(steps as i32) / words.len().max(1) as f32;
                    words.iter().for_each(|at| *found.entry(*at).or_default() += each);
                }
            }
        }
        found.into_iter().collect()
    }

    /// A plural stands for its singular.
    fn senses(&self, word: &str) -> Vec<(char, u32)> {
        let singular = word.strip_suffix('s').filter(|w| w.len() > 2);
        let places = self.places.get(word).or_else(|| self.places.get(singular?));
        places.cloned().unwrap_or_default()
    }

    /// Trained words by their distance in steps.
    fn around(&self, sense: (char, u32), trained: &Trained) -> Vec<Vec<usize>> {
        let (mut seen, mut here) = (HashSet::from([sense]), vec![sense]);
        let (mut all, mut told) = (Vec::new(), HashSet::new());
        for _ in 0..=STEPS {
            let words = here.iter().flat_map(|at| &self.synsets[at].words);
            let known = words.flat_map(|w| [trained.get(w.as_str()), trained.get(format!("{w}s").as_str())]);
            all.push(known.flatten().map(|(at, _)| *at).filter(|at| told.insert(*at)).collect());
            let up = here.iter().flat_map(|at| &self.synsets[at].near).copied();
            here = up.filter(|at| self.synsets.contains_key(at) && seen.insert(*at)).collect();
        }
        all
    }
}

/// Whether the noun `at` is one of [`ROOTS`] or a kind of one.
fn rooted(all: &HashMap<(char, u32), Synset>, at: (char, u32)) -> bool {
    let (mut seen, mut here) = (HashSet::from([at]), vec![at]);
    while let Some(at) = here.pop() {
        let Some(synset) = all.get(&at) else { continue };
        if synset.root {
            return true;
        }
        here.extend(synset.near.iter().copied().filter(|above| seen.insert(*above)));
    }
    false
}

/// Adds the synsets of a data file. Lines that begin with a space are its licence.
fn read(text: &str, part: char, synsets: &mut HashMap<(char, u32), Synset>) -> Outcome<()> {
    let before = synsets.len();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with(' ')) {
        let synset = synset(line, part).map_err(|what| format!("line {}: {what}", number + 1))?;
        synsets.extend([synset]);
    }
    if synsets.len() == before { Err("there is no synset in it".into()) } else { Ok(()) }
}

/// One line: `offset file type count (word id)... count (symbol offset part source)... | gloss`, the first count in
/// hexadecimal digits.
fn synset(line: &str, part: char) -> Outcome<((char, u32), Synset)> {
    let data = line.split('|').next().unwrap_or_default();
    let mut fields = data.split_ascii_whitespace();
    let mut next = |what: &str| fields.next().ok_or_else(|| format!("{what} is missing"));
    let offset = next("the offset")?.parse().map_err(|_| "the offset is no number")?;
    next("the lexicographer file")?;
    next("the type")?;
    let count = usize::from_str_radix(next("the number of words")?, 16).map_err(|_| "no number of words")?;
    let mut words = Vec::new();
    for _ in 0..count {
        // "galore(ip)": where an adjective stands.
        let word = next("a word")?.split('(').next().unwrap_or_default().to_lowercase();
        next("a word's id")?;
        if is_word(&word) {
            words.push(word);
        }
    }
    let pointers: usize = next("the number of pointers")?.parse().map_err(|_| "no number of pointers")?;
    let mut near = Vec::new();
    for _ in 0..pointers {
        let symbol = next("a pointer")?;
        let to = next("where a pointer goes")?.parse().map_err(|_| "a pointer goes nowhere")?;
        let kind = next("a pointer's part of speech")?;
        next("a pointer's source")?;
        if symbol == "@" && kind == "n" && part == 'n' || symbol == "&" && part == 'a' {
            near.push((part, to));
        }
    }
    let root = part == 'n' && words.iter().any(|word| ROOTS.contains(&word.as_str()));
    Ok(((part, offset), Synset { words, near, root }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Abridged synsets in WordNet's form, the offsets made up.
    const NOUNS: &str = "  1 This is a licence.\n\
        00000100 06 n 01 garment 0 000 | an article of clothing\n\
        00000200 06 n 01 jacket 0 001 @ 00000100 n 0000 | a short coat\n\
        00000300 06 n 03 parka 0 Anorak 0 wind_cheater 0 001 @ 00000200 n 0000 | with a hood\n\
        00000400 06 n 02 rucksack 0 backpack 0 001 @ 00000410 n 0000 | a bag\n\
        00000410 06 n 01 bag 0 000 | a container\n\
        00000500 04 n 02 rucksack 1 coat 1 000 | nothing that is worn\n\
        00000600 06 n 01 coat 0 001 @ 00000100 n 0000 | over other clothes\n\
        00000700 06 n 02 shoe 0 footwear 0 000 | on feet\n\
        00000800 06 n 01 pump 0 001 @ 00000700 n 0000 | low-cut\n";
    const ADJECTIVES: &str = "00000100 00 a 01 slim 0 001 & 00000200 a 0000 | thin\n\
        00000200 00 s 01 svelte(p) 0 001 & 00000100 a 0000 | being of delicate build\n";

    fn wordnet() -> WordNet {
        let mut synsets = HashMap::new();
        read(NOUNS, 'n', &mut synsets).expect("nouns");
        read(ADJECTIVES, 'a', &mut synsets).expect("adjectives");
        WordNet::of(synsets)
    }

    fn near(word: &str) -> Vec<(usize, f32)> {
        let trained = ["jacket", "backpack", "coat", "slim", "shoes"];
        let trained = trained.iter().enumerate().map(|(at, word)| (*word, (at, 1.0))).collect();
        let mut found = wordnet().near(word, &trained);
        found.sort_by_key(|(at, _)| *at);
        found
    }

    #[test]
    fn kin_lends_its_meaning() {
        assert_eq!(near("rucksack"), [(1, 1.0)], "the same synset");
        assert_eq!(near("anorak"), [(0, STEP)], "a kind of it");
        assert_eq!(near("svelte"), [(3, STEP)], "similar to it");
        assert_eq!(near("pumps"), [(4, STEP)], "plurals, both ways");
        assert!(near("zorblat").is_empty());
        assert!(near("garment").is_empty(), "kinds of it are not what it is");
    }

    #[test]
    fn words_of_several_words_are_left_out() {
        let wordnet = wordnet();
        assert!(wordnet.words().all(|w| !w.contains('_')));
        assert!(wordnet.words().any(|w| w == "anorak"));
    }

    #[test]
    fn other_files_are_refused() {
        let said = |text: &str| read(text, 'n', &mut HashMap::new()).expect_err("refused");
        assert!(said("00000100 06 n 02 garment 0").contains("line 1"));
        assert!(said("  1 licence\nhello world").contains("line 2"));
        assert!(said("").contains("no synset"));
    }
}
