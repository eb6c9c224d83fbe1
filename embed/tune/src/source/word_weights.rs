//! Similarity of two persons of an annotated dataset by the words of their captions, weighted by
//! rarity (inverse document frequency).
//!
//! Datasets have no attribute labels, but captions name what persons wear, and rare words are more
//! informative than common ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The words of every identity, and the weight of each word.
pub struct WordWeights {
    /// Numbers of the words in the captions of each identity, ascending.
    words: Vec<Vec<u32>>,
    /// Weight of each word: ln(identities / identities that have the word).
    weights: Vec<f32>,
}

impl WordWeights {
    /// Counts the words in the captions of every identity.
    pub fn new<'a, C: Iterator<Item = &'a String>>(identities: impl Iterator<Item = C>) -> Self {
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut words: Vec<Vec<u32>> = Vec::new();
        for captions in identities {
            let mut own = BTreeSet::new();
            for caption in captions {
                for word in caption.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
                    let next = numbers.len() as u32;
                    own.insert(*numbers.entry(word.to_lowercase()).or_insert(next));
                }
            }
            words.push(own.into_iter().collect());
        }
        let mut having: BTreeMap<u32, usize> = BTreeMap::new();
        for word in words.iter().flatten() {
            *having.entry(*word).or_default() += 1;
        }
        let weights = having.values().map(|&n| (words.len() as f32 / n as f32).ln()).collect();
        Self { words, weights }
    }

    /// Weighted Jaccard similarity: weight of the shared words divided by the weight of all words
    /// of either, 0 to 1.
    pub fn resemblance(&self, one: usize, other: usize) -> f32 {
        let (a, b) = (&self.words[one], &self.words[other]);
        let sum = |words: &[u32]| words.iter().map(|&w| self.weights[w as usize]).sum::<f32>();
        let (mut i, mut j, mut both) = (0, 0, 0.0);
        while i < a.len() && j < b.len() {
            match a[i].cmp(&b[j]) {
                std::cmp::Ordering::Less => i += 1,
                std::cmp::Ordering::Greater => j += 1,
                std::cmp::Ordering::Equal => {
                    both += self.weights[a[i] as usize];
                    (i, j) = (i + 1, j + 1);
                }
            }
        }
        let either = sum(a) + sum(b) - both;
        if either > 0.0 { both / either } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_in_common_make_persons_alike() {
        let captions = [
            "A woman in a Teal coat, with a suitcase.",
            "a woman in a teal coat",
            "a man in a grey coat",
            "a man in a grey hoodie with a suitcase",
        ]
        .map(|c| vec![c.to_owned()]);
        let word_weights = WordWeights::new(captions.iter().map(|c| c.iter()));
        let alike = |a, b| word_weights.resemblance(a, b);
        assert!((alike(0, 0) - 1.0).abs() < 1e-6);
        assert!(alike(0, 1) > 0.5 && alike(0, 1) > alike(0, 3) && alike(0, 3) > 0.0);
        assert!(alike(1, 2) < alike(2, 3) && alike(1, 2) == alike(2, 1));
    }
}
