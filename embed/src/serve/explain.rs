//! Explanations: which patches of a picture the words and phrases of a query were read from.
//!
//! The decoder reads a text against a picture by cross-attention, so the attention of its tokens
//! shows where they were found. Word pieces are joined to words, words to the statements of the
//! query ([`crate::text::understand`]). No gradient is needed, so that a model that serves on a CPU
//! can explain as well.
//!
//! Methods compared by `sightline-finetune eval --explain` (model f7f77b91a22be90d, 200 drawn
//! persons of level 2, phrases of a list of several; times chance):
//!
//! | method | pointing | deletion, phrases | deletion, match |
//! |---|---|---|---|
//! | attention, last layer | 0.8 | 1.4 | 2.0 |
//! | attention, last 2 layers | 1.7 | 15 | 6.7 |
//! | attention, last 3 layers | 1.7 | 17 | 8.5 |
//! | own attention, last 3 layers | 2.2 | 15 | 8.5 |
//! | contribution, last 3 layers | 1.9 | 17 | 9.3 |
//! | own contribution, last 3 layers (default) | 2.3 | 15 | 9.3 |
//! | occlusion | 1.4 | 29 | 13 |
//!
//! On 200 other persons the default method reaches 2.2, 4.0 and 3.6, and shows 2.4 times as much of
//! the part as the maps of the query's other phrases; for a phrase that is the whole query its
//! pointing is 1.5 to 2.1. Some patches draw attention whatever the word is: the last layer alone
//! misses, and it helps to subtract the attention of the other tokens. Occlusion is best at finding
//! what the logit depends on, but that is often not the part that the phrase names, and it costs a
//! pass of the decoder for each window.

use std::ops::Range;

use sightline_core::PatchFeatures;

use super::model::{Model, TextQuery, f16_to_f32};
use crate::EmbedError;
use crate::model::{Grid, Logits, TokenBatch};
use crate::net::AttentionMeasure;
use crate::text::phrases::tag;
use crate::text::{pieces_at, understand};

/// Method that maps words to patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainMethod {
    /// Cross-attention of the decoder: mean over its last layers, heads and word pieces.
    Attention {
        /// Measure of attention.
        by: AttentionMeasure,
        /// Number of last layers; all where there are fewer.
        layers: usize,
        /// Whether only attention above the mean of the query's other tokens counts, `[ENC]` and
        /// `[SEP]` among them: some patches draw the attention of every token.
        own: bool,
    },
    /// Fall of the logit when a window of patches is hidden from the decoder (Zeiler and Fergus
    /// 2014): of the local head's logit for a word or phrase, of the match logit for the whole.
    Occlusion,
}

impl ExplainMethod {
    /// Methods that `sightline-finetune eval --explain` compares.
    pub const ALL: [Self; 8] = [
        Self::attention(AttentionMeasure::Probability, 1, false),
        Self::attention(AttentionMeasure::Probability, 2, false),
        Self::attention(AttentionMeasure::Probability, 3, false),
        Self::attention(AttentionMeasure::Probability, 3, true),
        Self::attention(AttentionMeasure::Contribution, 3, false),
        Self::attention(AttentionMeasure::Contribution, 3, true),
        Self::attention(AttentionMeasure::Contribution, usize::MAX, true),
        Self::Occlusion,
    ];

    const fn attention(by: AttentionMeasure, layers: usize, own: bool) -> Self {
        Self::Attention { by, layers, own }
    }
}

impl Default for ExplainMethod {
    fn default() -> Self {
        Self::attention(AttentionMeasure::Contribution, 3, true)
    }
}

impl std::fmt::Display for ExplainMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Attention { by, layers, own } = self else { return f.write_str("occlusion") };
        f.write_str(if *own { "own " } else { "" })?;
        f.write_str(if *by == AttentionMeasure::Probability { "attention" } else { "contribution" })?;
        match *layers {
            usize::MAX => f.write_str(", all layers"),
            1 => f.write_str(", last layer"),
            layers => write!(f, ", last {layers} layers"),
        }
    }
}

/// Part of a query, and where in the picture it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Highlight {
    /// Text of the part: "red jacket".
    pub text: String,
    /// Byte range in the cleaned query; for a negated phrase it includes the negation.
    pub bytes: Range<usize>,
    /// Range of its word pieces in the query, as in [`super::QueryPhrase`].
    pub pieces: Range<usize>,
    /// Whether the query negates it; a single word is never negated.
    pub negated: bool,
    /// Weights of the patches, `[rows, cols]`, row by row; 0 or more, of sum 1.
    pub weights: Vec<f32>,
}

/// Maps of where in a picture a query was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Grid of patches of the picture, whose aspect is not kept: patch (r, c) is r / rows of its
    /// height from above and c / cols of its width from the left.
    pub grid: Grid,
    /// Weights of the whole query, `[rows, cols]`, as in [`Highlight`].
    pub whole: Vec<f32>,
    /// Every word that the model read, in order.
    pub words: Vec<Highlight>,
    /// Every phrase, in order: the statements of [`TextQuery::phrases`], also for a model without
    /// phrase calibration.
    pub phrases: Vec<Highlight>,
}

impl Model {
    /// Explains where in a picture with patch features `patches` each word and each phrase of
    /// `query`, and the whole of it, was read, by the method that was best on drawn persons.
    ///
    /// # Errors
    /// Patch features of another model, or damaged ones ([`EmbedError::NotFinite`]).
    pub fn explain(&self, query: &TextQuery, patches: &PatchFeatures) -> Result<Explanation, EmbedError> {
        self.explain_by(query, patches, ExplainMethod::default())
    }

    /// [`Model::explain`] by the method `method`.
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
        let values: Vec<f32> = f16_to_f32(&patches.data).collect();
        let (caption, offsets) = self.tokenizer().encode_with_offsets(&query.text)?;
        let text = &caption.text;
        let word = |range: Range<usize>| (text[range.clone()].to_owned(), range, false);
        let words =
            tag(text).into_iter().map(|w| w.range).filter(|range| text[range.clone()].contains(char::is_alphanumeric));
        let words: Vec<_> = words.map(word).collect();
        let statements = understand(text).statements.into_iter().map(|s| (s.text, s.range, s.negated));
        let count = words.len();
        // Words, then phrases, each with its pieces; the map of the first piece, `[ENC]`, is that
        // of the whole.
        let all = words.into_iter().chain(statements).enumerate();
        let all: Vec<_> = all.filter_map(|(i, part)| Some((i < count, pieces_at(&offsets, &part.1)?, part))).collect();
        let pieces: Vec<Range<usize>> = all.iter().map(|(_, pieces, _)| pieces.clone()).collect();
        let (whole, maps) = match method {
            ExplainMethod::Attention { by, layers, own } => {
                let attention = self.attention_maps(&caption.ids, &values, by, layers)?;
                (attention[0].clone(), pieces.iter().map(|pieces| mean_attention(&attention, pieces, own)).collect())
            }
            ExplainMethod::Occlusion => self.occlusion_maps(&caption.ids, &values, &pieces)?,
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

    /// Attention of each token to the patches, `[patches]`: mean over the last `layers` layers,
    /// each scaled to sum 1.
    fn attention_maps(
        &self,
        ids: &[u32],
        patches: &[f32],
        by: AttentionMeasure,
        layers: usize,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let tokens = TokenBatch::new(&[ids], self.network().arch().pad_token_id, None);
        let all = self.network().attention_maps(&tokens, patches, by)?;
        let last = &all[all.len().saturating_sub(layers.max(1))..];
        let rows = self.info().patch_rows;
        let mut attention = vec![vec![0.0; rows - 1]; ids.len()];
        for layer in last {
            for (map, row) in attention.iter_mut().zip(layer.chunks_exact(rows)) {
                // The class token, which comes first, is not a patch.
                let scale = last.len() as f32 * row[1..].iter().sum::<f32>();
                if scale != 0.0 {
                    map.iter_mut().zip(&row[1..]).for_each(|(weight, patch)| *weight += patch / scale);
                }
            }
        }
        Ok(attention)
    }

    /// Falls of logits when a window of patches is left out, `[patches]` each: of the match logit,
    /// and of the local head's logit for each of `pieces`; 0 where the logit rises. A patch has the
    /// mean of the windows that cover it.
    fn occlusion_maps(
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
        let margin = |[no, yes]: &[f32; 2]| yes - no;
        let (whole, phrases) = logits(1, patches)?;
        let before: Vec<f32> = whole.iter().chain(&phrases).map(margin).collect();
        let (mut falls, mut covers) = (vec![vec![0.0; grid.len()]; before.len()], vec![0.0; grid.len()]);
        for part in windows.chunks(network.arch().pairs_per_pass(ids.len())) {
            let seen = part.iter().flat_map(|window| {
                let rows = patches.chunks_exact(width).enumerate();
                rows.filter(|(row, _)| *row == 0 || !window.contains(&(row - 1))).flat_map(|(_, row)| row)
            });
            let (whole, phrases) = logits(part.len(), &seen.copied().collect::<Vec<_>>())?;
            for (i, window) in part.iter().enumerate() {
                window.iter().for_each(|patch| covers[*patch] += 1.0);
                let after = std::iter::once(&whole[i]).chain(&phrases[i * pieces.len()..][..pieces.len()]);
                for ((fall, before), after) in falls.iter_mut().zip(&before).zip(after.map(margin)) {
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

/// Mean attention of the tokens `pieces`; with `own` less the mean of all other tokens, and 0 where
/// that is negative.
fn mean_attention(attention: &[Vec<f32>], pieces: &Range<usize>, own: bool) -> Vec<f32> {
    let mut map = vec![0.0; attention.first().map_or(0, Vec::len)];
    for (token, weights) in attention.iter().enumerate() {
        let factor = match pieces.contains(&token) {
            true => 1.0 / pieces.len() as f32,
            false if own => -1.0 / (attention.len() - pieces.len()) as f32,
            false => continue,
        };
        map.iter_mut().zip(weights).for_each(|(mean, weight)| *mean += factor * weight);
    }
    if own { map.iter().map(|weight| if *weight < 0.0 { 0.0 } else { *weight }).collect() } else { map }
}

/// Windows of patches, each an eighth of the picture high and as many patches wide, at every
/// position of the grid.
fn windows(grid: Grid) -> Vec<Vec<usize>> {
    let side = (grid.rows / 8).clamp(1, grid.cols.max(1));
    let at = |row: usize, col: usize| {
        (row..row + side).flat_map(|row| (col..col + side).map(move |col| row * grid.cols + col)).collect()
    };
    (0..=grid.rows - side).flat_map(|row| (0..=grid.cols - side).map(move |col| at(row, col))).collect()
}

/// Scales weights to sum 1; all are equal where nothing stands out.
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
        let attention = [vec![0.5, 0.5], vec![0.8, 0.2], vec![0.6, 0.4], vec![0.5, 0.5]];
        let near = |map: &[f32], want: [f32; 2]| map.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&mean_attention(&attention, &(1..3), false), [0.7, 0.3]));
        assert!(near(&mean_attention(&attention, &(1..3), true), [0.2, 0.0]));
        assert!(mean_attention(&[vec![f32::NAN], vec![0.0]], &(0..1), true)[0].is_nan(), "damage is not hidden");
    }

    #[test]
    fn weights_sum_to_one_and_nothing_is_even() {
        assert_eq!(normalised(vec![1.0, 0.0, 3.0]).expect("finite"), [0.25, 0.0, 0.75]);
        assert_eq!(normalised(vec![0.0; 4]).expect("finite"), [0.25; 4]);
        assert!(matches!(normalised(vec![f32::NAN, 1.0]), Err(EmbedError::NotFinite)));
    }
}
