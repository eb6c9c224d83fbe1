//! What dictionaries know about words that training never met: colours by their place in colour space, garments and looks by
//! their kin in WordNet. A dictionary knows words that a text encoder has hardly seen ("anorak"), and what a colour looks
//! like, which no text says. Both are files of the user's; none is needed.

mod colours;
mod wordnet;

use std::collections::HashMap;
use std::path::Path;

use super::Result;

pub use colours::Colours;
pub use wordnet::WordNet;

/// Trained words with their numbers and how many captions spoke of each.
pub type Trained<'a> = HashMap<&'a str, (usize, f32)>;

/// Any of both dictionaries. With none, it knows nothing.
#[derive(Default)]
pub struct Lexicon {
    /// Names of colours.
    pub colours: Option<Colours>,
    /// Kinship of nouns and adjectives.
    pub wordnet: Option<WordNet>,
}

impl Lexicon {
    /// Reads what is given.
    ///
    /// # Errors
    /// A file that is missing or of another form, with its line.
    pub fn open(colours: Option<&Path>, wordnet: Option<&Path>) -> Result<Self> {
        Ok(Self { colours: colours.map(Colours::open).transpose()?, wordnet: wordnet.map(WordNet::open).transpose()? })
    }

    /// The trained words that `word` is a kind of, a name for, or looks like, with shares that sum to one, the largest first;
    /// at most `of`, none when nothing is near. `trained` gives their numbers.
    pub fn mixture(&self, word: &str, trained: &Trained, of: usize) -> Vec<(usize, f32)> {
        let colour = self.colours.as_ref().map(|c| c.near(word, trained)).filter(|found| !found.is_empty());
        let found = colour.or_else(|| self.wordnet.as_ref().map(|w| w.near(word, trained))).unwrap_or_default();
        shares(found, of)
    }

    /// Single words that may be mixtures of others.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let colours = self.colours.iter().flat_map(Colours::words);
        colours.chain(self.wordnet.iter().flat_map(WordNet::words))
    }
}

/// Reads `text` as each dictionary and asks for mixtures of its own words.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_any(text: &str) {
    let lexicon = Lexicon { colours: Colours::parse(text).ok(), wordnet: WordNet::parse(text).ok() };
    let words: Vec<&str> = lexicon.words().take(64).collect();
    let trained = words.iter().enumerate().map(|(at, word)| (*word, (at, 1.0))).collect();
    for word in words.iter().copied().chain(["red", "jackets"]) {
        let mixture = lexicon.mixture(word, &trained, 8);
        let sum: f32 = mixture.iter().map(|(_, share)| share).sum();
        assert!(mixture.is_empty() || (sum - 1.0).abs() < 1e-3, "shares of {word:?} sum to {sum}");
    }
}

/// Weights to shares of the `of` largest.
fn shares(mut weights: Vec<(usize, f32)>, of: usize) -> Vec<(usize, f32)> {
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    weights.truncate(of);
    let sum: f32 = weights.iter().map(|(_, w)| w).sum();
    weights.iter_mut().for_each(|(_, w)| *w /= sum);
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one_and_the_largest_come_first() {
        assert_eq!(shares(vec![(4, 1.0), (2, 3.0), (9, 0.5)], 2), [(2, 0.75), (4, 0.25)]);
        assert!(shares(Vec::new(), 3).is_empty());
        assert!(Lexicon::default().mixture("red", &Trained::from([("red", (0, 1.0))]), 3).is_empty());
    }
}
