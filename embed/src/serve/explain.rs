//! Why: which patches of a picture the words and phrases of a query were read from.
//!
//! The decoder reads a text against a picture by cross-attention, so what its tokens look at says where they were found.
//! Word pieces are joined to words, words to the statements of the query ([`crate::text::understand`]). No gradient is needed,
//! so that what serves on a CPU explains as well.
//!
//! What was tried, and what `sightline-finetune eval --explain` says of it (model f7f77b91a22be90d, 200 drawn persons of
//! level 2, phrases of a list of several; times chance):
//!
//! | method | pointing | deletion, phrases | deletion, match |
//! |---|---|---|---|
//! | attention, last layer | 0.8 | 1.4 | 2.0 |
//! | attention, last 2 layers | 1.7 | 15 | 6.7 |
//! | attention, last 3 layers | 1.7 | 17 | 8.5 |
//! | own attention, last 3 layers | 2.2 | 15 | 8.5 |
//! | contribution, last 3 layers | 1.9 | 17 | 9.3 |
//! | own contribution, last 3 layers (serves) | 2.3 | 15 | 9.3 |
//! | occlusion | 1.4 | 29 | 13 |
//!
//! On 200 other persons the one that serves reaches 2.2, 4.0 and 3.6, and 2.4 times what the maps of the query's other phrases
//! show of the part; of a phrase that is the whole query its pointing is 1.5 to 2.1. Attention goes to some patches whatever
//! the word: the last layer alone misses, and taking away the other tokens' look helps. Occlusion finds best what the logit
//! depends on, but that is often not the part that the phrase speaks of, and it costs a pass of the decoder for each window.

use std::ops::Range;

use sightline_core::PatchFeatures;

use super::model::{Model, TextQuery, halves};
use crate::EmbedError;
use crate::model::{Grid, Logits, TokenBatch};
use crate::net::LookBy;
use crate::text::phrases::tag;
use crate::text::{pieces_at, understand};

/// How a map from words to patches is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainMethod {
    /// What tokens look at in the decoder's cross-attention: mean over its last layers, heads and word pieces.
    Looks {
        /// What counts as looking.
        by: LookBy,
        /// The last ones; all where there are fewer.
        layers: usize,
        /// Only what a word or phrase looks at above the mean of the query's other tokens, `[ENC]` and `[SEP]` among them: some
        /// patches draw the look of every token.
        own: bool,
    },
    /// By how much the logit falls when the decoder does not see a window of patches (Zeiler and Fergus 2014): the local
    /// head's of a word or phrase, the match logit of the whole.
    Occlusion,
}

impl ExplainMethod {
    /// Those that `sightline-finetune eval --explain` compares.
    pub const ALL: [Self; 8] = [
        Self::looks(LookBy::Probability, 1, false),
        Self::looks(LookBy::Probability, 2, false),
        Self::looks(LookBy::Probability, 3, false),
        Self::looks(LookBy::Probability, 3, true),
        Self::looks(LookBy::Contribution, 3, false),
        Self::looks(LookBy::Contribution, 3, true),
        Self::looks(LookBy::Contribution, usize::MAX, true),
        Self::Occlusion,
    ];

    const fn looks(by: LookBy, layers: usize, own: bool) -> Self {
        Self::Looks { by, layers, own }
    }
}

impl Default for ExplainMethod {
    fn default() -> Self {
        Self::looks(LookBy::Contribution, 3, true)
    }
}

impl std::fmt::Display for ExplainMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Looks { by, layers, own } = self else { return f.write_str("occlusion") };
        f.write_str(if *own { "own " } else { "" })?;
        f.write_str(if *by == LookBy::Probability { "attention" } else { "contribution" })?;
        match *layers {
            usize::MAX => f.write_str(", all layers"),
            1 => f.write_str(", last layer"),
            layers => write!(f, ", last {layers} layers"),
        }
    }
}

/// A part of a query and where in the picture it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Highlight {
    /// "red jacket"
    pub text: String,
    /// Its bytes in the cleaned query; those of a negated phrase include the negation.
    pub bytes: Range<usize>,
    /// Its word pieces in the query, as in [`super::QueryPhrase`].
    pub pieces: Range<usize>,
    /// The query says that it is not so. No word is negated by itself.
    pub negated: bool,
    /// `[rows, cols]` of the grid, row by row; 0 or more, of sum 1.
    pub weights: Vec<f32>,
}

/// Where in a picture a query was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Patches of the picture, whose aspect is not kept: patch (r, c) is r / rows of its height from above and c / cols of
    /// its width from the left.
    pub grid: Grid,
    /// Of the whole query: `[rows, cols]`, as in [`Highlight`].
    pub whole: Vec<f32>,
    /// Every word that the model read, in order.
    pub words: Vec<Highlight>,
    /// Every phrase, in order: the statements of [`TextQuery::phrases`], also from a model that judges none.
    pub phrases: Vec<Highlight>,
}

impl Model {
    /// Where in a picture with `patches` each word and each phrase of `query`, and the whole of it, was read; by the method
    /// that was best on drawn persons.
    ///
    /// # Errors
    /// Patch features of another model, or damaged ones ([`EmbedError::NotFinite`]).
    pub fn explain(&self, query: &TextQuery, patches: &PatchFeatures) -> Result<Explanation, EmbedError> {
        self.explain_by(query, patches, ExplainMethod::default())
    }

    /// [`Model::explain`] by another method than the default one.
    ///
    /// # Errors
    /// As [`Model::explain`].
    pub fn explain_by(
        &self,
        query: &TextQuery,
        patches: &PatchFeatures,
        method: ExplainMethod,
    ) -> Result<Explanation, EmbedError> {
        self.check_patches(patches)?;
        let values: Vec<f32> = halves(&patches.data).collect();
        let (caption, offsets) = self.tokenizer().encode_with_offsets(&query.text)?;
        let text = &caption.text;
        let word = |range: Range<usize>| (text[range.clone()].to_owned(), range, false);
        let words =
            tag(text).into_iter().map(|w| w.range).filter(|range| text[range.clone()].contains(char::is_alphanumeric));
        let words: Vec<_> = words.map(word).collect();
        let statements = understand(text).statements.into_iter().map(|s| (s.text, s.range, s.negated));
        let count = words.len();
        // Words, then phrases, each with its pieces; the first piece, `[ENC]`, decides on the whole.
        let all = words.into_iter().chain(statements).enumerate();
        let all: Vec<_> = all.filter_map(|(i, part)| Some((i < count, pieces_at(&offsets, &part.1)?, part))).collect();
        let pieces: Vec<Range<usize>> = all.iter().map(|(_, pieces, _)| pieces.clone()).collect();
        let (whole, maps) = match method {
            ExplainMethod::Looks { by, layers, own } => {
                let looks = self.looks(&caption.ids, &values, by, layers)?;
                (looks[0].clone(), pieces.iter().map(|pieces| joined(&looks, pieces, own)).collect())
            }
            ExplainMethod::Occlusion => self.occluded(&caption.ids, &values, &pieces)?,
        };
        let mut explanation = Explanation {
            grid: self.network().arch().grid(),
            whole: normalised(whole)?,
            words: Vec::new(),
            phrases: Vec::new(),
        };
        for ((is_word, pieces, (text, bytes, negated)), map) in all.into_iter().zip(maps) {
            let part = Highlight { text, bytes, pieces, negated, weights: normalised(map)? };
            if is_word { explanation.words.push(part) } else { explanation.phrases.push(part) }
        }
        Ok(explanation)
    }

    /// What each token looks at, `[patches]`, as the mean over the last `layers` layers.
    fn looks(&self, ids: &[u32], patches: &[f32], by: LookBy, layers: usize) -> Result<Vec<Vec<f32>>, EmbedError> {
        let tokens = TokenBatch::new(&[ids], self.network().arch().pad_token_id, None);
        let all = self.network().looks(&tokens, patches, by)?;
        let last = &all[all.len().saturating_sub(layers.max(1))..];
        let rows = self.info().patch_rows;
        let mut looks = vec![vec![0.0; rows - 1]; ids.len()];
        for layer in last {
            for (look, row) in looks.iter_mut().zip(layer.chunks_exact(rows)) {
                // The class token, which comes first, is no place.
                let scale = last.len() as f32 * row[1..].iter().sum::<f32>();
                if scale != 0.0 {
                    look.iter_mut().zip(&row[1..]).for_each(|(look, patch)| *look += patch / scale);
                }
            }
        }
        Ok(looks)
    }

    /// By how much logits fall when a window of patches is left out: the match logit, and the local head's for each of
    /// `pieces`; `[patches]` each, 0 where they rise. A patch has the mean of the windows that cover it.
    fn occluded(
        &self,
        ids: &[u32],
        patches: &[f32],
        pieces: &[Range<usize>],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>), EmbedError> {
        let (network, width) = (self.network(), self.info().patch_width);
        let grid = network.arch().grid();
        let windows = windows(grid);
        let logits = |batch: usize, patches: &[f32]| -> Result<(Logits, Logits), EmbedError> {
            let tokens = TokenBatch::new(&vec![ids; batch], network.arch().pad_token_id, None);
            network.match_and_phrase_logits(&tokens, patches, pieces)
        };
        let yes = |[no, yes]: &[f32; 2]| yes - no;
        let (whole, phrases) = logits(1, patches)?;
        let before: Vec<f32> = whole.iter().chain(&phrases).map(yes).collect();
        let (mut falls, mut covers) = (vec![vec![0.0; grid.len()]; before.len()], vec![0.0; grid.len()]);
        for part in windows.chunks(self.pairs_per_pass(ids.len())) {
            let seen = part.iter().flat_map(|window| {
                let rows = patches.chunks_exact(width).enumerate();
                rows.filter(|(row, _)| *row == 0 || !window.contains(&(row - 1))).flat_map(|(_, row)| row)
            });
            let (whole, phrases) = logits(part.len(), &seen.copied().collect::<Vec<_>>())?;
            for (i, window) in part.iter().enumerate() {
                window.iter().for_each(|patch| covers[*patch] += 1.0);
                let after = std::iter::once(&whole[i]).chain(&phrases[i * pieces.len()..][..pieces.len()]);
                for ((fall, before), after) in falls.iter_mut().zip(&before).zip(after.map(yes)) {
                    window.iter().for_each(|patch| fall[*patch] += before - after);
                }
            }
        }
        if !falls.iter().flatten().all(|fall| fall.is_finite()) {
            return Err(EmbedError::NotFinite);
        }
        for fall in &mut falls {
            fall.iter_mut().zip(&covers).for_each(|(fall, covers)| *fall = (*fall / f32::max(*covers, 1.0)).max(0.0));
        }
        let whole = falls.remove(0);
        Ok((whole, falls))
    }
}

/// What the tokens `pieces` look at, as their mean; with `own` what of it is above the mean of all other tokens.
fn joined(looks: &[Vec<f32>], pieces: &Range<usize>, own: bool) -> Vec<f32> {
    let mut map = vec![0.0; looks.first().map_or(0, Vec::len)];
    for (token, look) in looks.iter().enumerate() {
        let factor = match pieces.contains(&token) {
            true => 1.0 / pieces.len() as f32,
            false if own => -1.0 / (looks.len() - pieces.len()) as f32,
            false => continue,
        };
        map.iter_mut().zip(look).for_each(|(map, look)| *map += factor * look);
    }
    if own { map.iter().map(|weight| if *weight < 0.0 { 0.0 } else { *weight }).collect() } else { map }
}

/// Windows of patches, each an eighth of the picture high and as many patches wide, at every place of the grid.
fn windows(grid: Grid) -> Vec<Vec<usize>> {
    let side = (grid.rows / 8).clamp(1, grid.cols.max(1));
    let at = |row: usize, col: usize| {
        (row..row + side).flat_map(|row| (col..col + side).map(move |col| row * grid.cols + col)).collect()
    };
    (0..=grid.rows - side).flat_map(|row| (0..=grid.cols - side).map(move |col| at(row, col))).collect()
}

/// Weights of sum 1; all equal where nothing stands out.
fn normalised(mut weights: Vec<f32>) -> Result<Vec<f32>, EmbedError> {
    let sum: f32 = weights.iter().sum();
    if !sum.is_finite() {
        return Err(EmbedError::NotFinite);
    }
    let even = 1.0 / weights.len().max(1) as f32;
    weights.iter_mut().for_each(|weight| *weight = if sum > 0.0 { *weight / sum } else { even });
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_grid_and_stay_within_it() {
        let one = windows(Grid { rows: 8, cols: 4 });
        assert_eq!((one.len(), &one[5]), (32, &vec![5]));
        let two = windows(Grid { rows: 16, cols: 8 });
        assert_eq!((two.len(), &two[0], &two[104]), (15 * 7, &vec![0, 1, 8, 9], &vec![118, 119, 126, 127]));
        let narrow = windows(Grid { rows: 24, cols: 2 });
        assert!(narrow.len() == 23 && narrow.iter().all(|window| window.len() == 4));
        assert_eq!(windows(Grid { rows: 1, cols: 3 }).len(), 3);
    }

    #[test]
    fn tokens_are_joined_and_what_others_look_at_is_taken_away() {
        let looks = [vec![0.5, 0.5], vec![0.8, 0.2], vec![0.6, 0.4], vec![0.5, 0.5]];
        let near = |map: &[f32], want: [f32; 2]| map.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&joined(&looks, &(1..3), false), [0.7, 0.3]));
        assert!(near(&joined(&looks, &(1..3), true), [0.2, 0.0]));
        assert!(joined(&[vec![f32::NAN], vec![0.0]], &(0..1), true)[0].is_nan(), "damage is not hidden");
    }

    #[test]
    fn weights_sum_to_one_and_nothing_is_even() {
        assert_eq!(normalised(vec![1.0, 0.0, 3.0]).expect("finite"), [0.25, 0.0, 0.75]);
        assert_eq!(normalised(vec![0.0; 4]).expect("finite"), [0.25; 4]);
        assert!(matches!(normalised(vec![f32::NAN, 1.0]), Err(EmbedError::NotFinite)));
    }
}
