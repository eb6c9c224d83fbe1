//! Evaluation by the paper's protocols (specification, section 6): global (cosine, CADA-G) and
//! local (the top K by cosine re-ranked with the decoder, CADA-L), over the whole gallery.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor};
use half::f16;
use rayon::prelude::*;

use super::calibrate::Pair;
use super::ranks::{TextRank, by_falling_score, order, text_ranks};
use super::{Result, TrainError};
use sightline_embed::EmbedError;
use sightline_embed::kernel::{Epilogue, Mat, Precision, product};
use sightline_embed::model::{Calibration, Evidence, Network, QueryBank, TokenBatch};
use sightline_embed::net::ShapeError;

pub use super::ranks::{Ranks, ranks};

/// Rule that combines cosine and match logits into the local score. Images outside the top K always
/// rank behind it.
#[derive(Debug, Clone, PartialEq)]
pub enum LocalScore {
    /// Sightline's search: calibrated match probability of logits, cosine and hubness; ties by
    /// cosine, which only [`Scores::ranks`] applies.
    Sightline(Calibration),
    /// The authors' code: cosine + raw match logit; images outside the top K cosine - 100.
    Reference,
    /// The paper: cosine + match probability (softmax of both logits).
    Paper,
    /// Sightline's search with a model that judges phrases: the second number of a pair, as it is;
    /// ties by cosine, which only [`Scores::ranks`] applies. [`Scores::top_k`] holds
    /// `[0, probability]` instead of logits.
    Served,
}

/// The reference subtracts this from the cosine of images outside the top K. In f32 it makes ties,
/// as in the reference.
const UNJUDGED_OFFSET: f32 = 100.0;

impl LocalScore {
    fn of_judged(&self, pair: &Evidence) -> f32 {
        match self {
            Self::Sightline(calibration) => calibration.probability(pair),
            Self::Reference => pair.cosine + pair.logits[1],
            Self::Paper => pair.cosine + Calibration::default().probability(pair),
            Self::Served => pair.logits[1],
        }
    }

    fn of_unjudged(&self, cosine: f32) -> f32 {
        match self {
            Self::Sightline(_) | Self::Served => cosine - 2.0,
            Self::Reference => cosine - UNJUDGED_OFFSET,
            Self::Paper => cosine,
        }
    }
}

/// Scores of one evaluation, per text.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Cosine with every image: texts x images.
    pub cosine: Vec<Vec<f32>>,
    /// The top K images by cosine, each with its logits (no match, match), or as
    /// [`LocalScore::Served`] has them; empty without a decoder.
    pub top_k: Vec<Vec<(usize, [f32; 2])>>,
    /// Hubness of every image; empty without a query bank.
    pub hubness: Vec<f32>,
    /// Patch features were kept as f16, because as f32 they exceed 4 GiB. It changes logits by some
    /// thousandths.
    pub half: bool,
}

impl Scores {
    /// Scores of the local protocol, texts x images.
    pub fn local(&self, local_score: &LocalScore) -> Vec<Vec<f32>> {
        (0..self.cosine.len()).into_par_iter().map(|text| self.row(local_score, text, usize::MAX)).collect()
    }

    /// Local scores of all images for a text, with the match logits of the first `k` alone.
    fn row(&self, local_score: &LocalScore, text: usize, k: usize) -> Vec<f32> {
        let cosine = &self.cosine[text];
        let mut row: Vec<f32> = cosine.iter().map(|c| local_score.of_unjudged(*c)).collect();
        for &(image, logits) in self.top_k.get(text).into_iter().flatten().take(k) {
            let pair = self.evidence(cosine, image, logits);
            let score = local_score.of_judged(&pair);
            // A search also ranks images with a non-finite score behind the others.
            if score.is_finite() && pair.logits.iter().all(|logit| logit.is_finite()) {
                row[image] = score;
            }
        }
        row
    }

    /// Ranks by the local protocol.
    pub fn ranks(&self, local_score: &LocalScore, text_ids: &[u32], image_ids: &[u32]) -> Ranks {
        self.ranks_top(local_score, usize::MAX, text_ids, image_ids)
    }

    /// As [`Scores::ranks`], with only the first `k` images of every text re-ranked.
    pub fn ranks_top(&self, local_score: &LocalScore, k: usize, text_ids: &[u32], image_ids: &[u32]) -> Ranks {
        Ranks::of(&text_ranks(|text| self.order_top(local_score, text, k), text_ids, image_ids))
    }

    /// The rank of each text by the local protocol.
    pub fn text_ranks(&self, local_score: &LocalScore, text_ids: &[u32], image_ids: &[u32]) -> Vec<TextRank> {
        text_ranks(|text| self.order(local_score, text), text_ids, image_ids)
    }

    /// All images for a text, first to last, as `local_score` ranks them.
    pub fn order(&self, local_score: &LocalScore, text: usize) -> Vec<usize> {
        self.order_top(local_score, text, usize::MAX)
    }

    fn order_top(&self, local_score: &LocalScore, text: usize, k: usize) -> Vec<usize> {
        let (row, cosine) = (self.row(local_score, text, k), &self.cosine[text]);
        let mut order = order(&row);
        if matches!(local_score, LocalScore::Sightline(_) | LocalScore::Served) {
            order.sort_by(|&a, &b| by_falling_score(&row, a, b).then(by_falling_score(cosine, a, b)));
        }
        order
    }

    fn evidence(&self, cosine: &[f32], image: usize, logits: [f32; 2]) -> Evidence {
        Evidence { logits, cosine: cosine[image], hubness: self.hubness.get(image).copied().unwrap_or_default() }
    }

    /// The scores of some of the texts.
    pub fn of_texts(&self, texts: &[usize]) -> Self {
        let judged = |text: usize| self.top_k.get(text).cloned().unwrap_or_default();
        let (cosine, top_k) = texts.iter().map(|&text| (self.cosine[text].clone(), judged(text))).unzip();
        Self { cosine, top_k, hubness: self.hubness.clone(), half: self.half }
    }

    /// Cosines of a text minus the hubness of each image; `None` without a query bank.
    pub fn without_hubness(&self, text: usize) -> Option<Vec<f32>> {
        let less = || self.cosine[text].iter().zip(&self.hubness).map(|(cosine, hubness)| cosine - hubness).collect();
        (!self.hubness.is_empty()).then(less)
    }

    /// The rank of each text by cosine minus hubness, the global protocol with a query bank; `None`
    /// without one. One row at a time is computed: the whole matrix of ICFG-PEDES takes 1.6 GB.
    pub fn bank_ranks(&self, text_ids: &[u32], image_ids: &[u32]) -> Option<Vec<TextRank>> {
        let by_row = |text: usize| order(&self.without_hubness(text).unwrap_or_default());
        (!self.hubness.is_empty()).then(|| text_ranks(by_row, text_ids, image_ids))
    }

    /// The evidence of every pair in a top K, and whether it matches.
    pub fn pairs(&self, text_ids: &[u32], image_ids: &[u32]) -> Vec<Pair> {
        let rows = self.top_k.iter().zip(&self.cosine).zip(text_ids);
        rows.flat_map(|((top_k, cosine), id)| {
            top_k.iter().map(|&(image, logits)| (self.evidence(cosine, image, logits), image_ids[image] == *id))
        })
        .collect()
    }
}

/// The part of [`score_gallery`] that reports progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EvalStage {
    /// The image encoder; counts pictures.
    Pictures,
    /// The text encoder; counts texts.
    Texts,
    /// The decoder; counts texts whose top K is done.
    Pairs,
}

/// Pictures per pass of the image encoder, and texts per pass of the text encoder.
const BATCH: usize = 16;
/// Above this many bytes, patch features are kept as f16 instead of f32.
const F32_PATCH_BYTES: usize = 4 << 30;

/// Scores `texts` (token ids) against a gallery of `pictures`.
///
/// `pixels(range)` returns normalised pixels `[n, 3, H, W]`, f32, of a range of pictures. The
/// decoder computes match logits of the top `k` of every text (0: none). With a `bank`, the hubness
/// of every picture is measured too. Equal texts are computed once.
///
/// # Errors
/// The errors of `pixels` and of the network.
pub fn score_gallery<E: From<EmbedError>>(
    network: &Network,
    texts: &[Vec<u32>],
    pictures: usize,
    pixels: impl Fn(Range<usize>) -> std::result::Result<Vec<f32>, E>,
    k: usize,
    bank: Option<&QueryBank>,
    progress: impl Fn(EvalStage, usize, usize),
) -> std::result::Result<Scores, E> {
    let arch = network.arch();
    let half = k > 0 && pictures * arch.patch_rows() * arch.vision_width * size_of::<f32>() > F32_PATCH_BYTES;
    let (mut patches, mut features) = (PatchStore::new(half, arch.patch_rows() * arch.vision_width), Vec::new());
    for from in (0..pictures).step_by(BATCH) {
        let to = (from + BATCH).min(pictures);
        let encoded = network.encode_images(&pixels(from..to)?)?;
        features.extend(encoded.features);
        if k > 0 {
            patches.push(encoded.patches);
        }
        progress(EvalStage::Pictures, to, pictures);
    }
    let hubness = match bank {
        Some(bank) => bank.hubness(&features)?,
        None => Vec::new(),
    };
    let mut unique: Vec<&Vec<u32>> = texts.iter().collect();
    // Sorted by length first, so a batch holds little padding.
    unique.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
    unique.dedup();
    let place = |t: &Vec<u32>| unique.binary_search_by(|u| u.len().cmp(&t.len()).then((*u).cmp(t))).unwrap_or(0);
    let place: Vec<usize> = texts.iter().map(place).collect();
    let cosine = cosines(network, &unique, &features, &progress)?;
    let mut top_k = Vec::with_capacity(unique.len());
    for (done, (ids, row)) in unique.iter().zip(&cosine).enumerate() {
        let top: Vec<usize> = order(row).into_iter().take(k).collect();
        top_k.push(match_top_k(network, ids, &top, &patches)?);
        progress(EvalStage::Pairs, done + 1, unique.len());
    }
    Ok(Scores { cosine: spread(cosine, &place), top_k: spread(top_k, &place), hubness, half })
}

/// `unique[place[i]]` for every `i`. Each is moved where it is used last: the cosines of a large
/// gallery must not stand in memory twice.
fn spread<T: Clone + Default>(mut unique: Vec<T>, place: &[usize]) -> Vec<T> {
    let mut left = vec![0usize; unique.len()];
    place.iter().for_each(|&p| left[p] += 1);
    let take = |&p: &usize| {
        left[p] -= 1;
        if left[p] == 0 { std::mem::take(&mut unique[p]) } else { unique[p].clone() }
    };
    place.iter().map(take).collect()
}

/// Patch features of a gallery, as f32 or f16.
struct PatchStore {
    /// Numbers per picture.
    each: usize,
    values: PatchValues,
}

enum PatchValues {
    Full(Vec<f32>),
    Half(Vec<f16>),
}

impl PatchStore {
    fn new(half: bool, each: usize) -> Self {
        let values = if half { PatchValues::Half(Vec::new()) } else { PatchValues::Full(Vec::new()) };
        Self { each, values }
    }

    /// Appends the features of some pictures.
    fn push(&mut self, patches: Vec<f32>) {
        match &mut self.values {
            PatchValues::Full(all) => all.extend(patches),
            PatchValues::Half(all) => all.extend(patches.into_iter().map(f16::from_f32)),
        }
    }

    /// The features of `pictures`, one picture after the other.
    fn of(&self, pictures: &[usize]) -> Vec<f32> {
        let range = |i: &usize| i * self.each..(i + 1) * self.each;
        match &self.values {
            PatchValues::Full(all) => pictures.iter().flat_map(|i| &all[range(i)]).copied().collect(),
            PatchValues::Half(all) => pictures.iter().flat_map(|i| &all[range(i)]).map(|v| v.to_f32()).collect(),
        }
    }
}

fn cosines(
    network: &Network,
    texts: &[&Vec<u32>],
    images: &[f32],
    progress: &impl Fn(EvalStage, usize, usize),
) -> std::result::Result<Vec<Vec<f32>>, EmbedError> {
    if images.is_empty() {
        return Ok(vec![Vec::new(); texts.len()]);
    }
    let (width, pad) = (network.arch().embed_dim, network.arch().pad_token_id);
    let gallery = images.len() / width;
    let mut all = Vec::with_capacity(texts.len());
    for some in texts.chunks(BATCH) {
        let features = network.text_features(&TokenBatch::new(some, pad, None))?;
        let text = Mat::new(&features, some.len(), width).map_err(ShapeError::from)?;
        let images = Mat::new(images, gallery, width).map_err(ShapeError::from)?;
        let cosines = product(text, images.t(), Precision::F32, Epilogue::default(), 0).map_err(ShapeError::from)?;
        all.extend(cosines.chunks_exact(gallery).map(<[f32]>::to_vec));
        progress(EvalStage::Texts, all.len(), texts.len());
    }
    Ok(all)
}

/// Match logits of one text against the images `top`.
fn match_top_k(
    network: &Network,
    ids: &[u32],
    top: &[usize],
    patches: &PatchStore,
) -> std::result::Result<Vec<(usize, [f32; 2])>, EmbedError> {
    let tokens = TokenBatch::new(&[ids], network.arch().pad_token_id, None);
    let mut top_k = Vec::with_capacity(top.len());
    for some in top.chunks(network.arch().pairs_per_pass(ids.len())) {
        let logits = network.match_logits(&tokens.select(&vec![0; some.len()]), &patches.of(some))?;
        top_k.extend(some.iter().copied().zip(logits));
    }
    Ok(top_k)
}

/// Writes score matrices (texts x images, f32) as `cosine_t2i` and, when there is one,
/// `score_local`, with the identity of every row and column as `text_ids` and `image_ids` (i64), to
/// a safetensors file.
///
/// # Errors
/// A file that cannot be written; none is left half-written.
pub fn dump(
    path: &Path,
    cosine: &[Vec<f32>],
    local: Option<&[Vec<f32>]>,
    text_ids: &[u32],
    image_ids: &[u32],
) -> Result<()> {
    let cpu = &Device::Cpu;
    let matrix = |rows: &[Vec<f32>]| {
        let flat: Vec<f32> = rows.iter().flatten().copied().collect();
        Tensor::from_vec(flat, (text_ids.len(), image_ids.len()), cpu)
    };
    let ids = |ids: &[u32]| Tensor::from_vec(ids.iter().map(|i| i64::from(*i)).collect::<Vec<_>>(), ids.len(), cpu);
    let mut tensors = HashMap::new();
    tensors.insert("cosine_t2i", matrix(cosine)?);
    if let Some(local) = local {
        tensors.insert("score_local", matrix(local)?);
    }
    tensors.insert("text_ids", ids(text_ids)?);
    tensors.insert("image_ids", ids(image_ids)?);
    super::atomic::with(path, |part| {
        candle_core::safetensors::save(&tensors, part).map_err(|e| TrainError::content(path, e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The order of six images, of which the first four are the top K.
    fn served(logits: [f32; 4], cosine: [f32; 6], calibration: Calibration) -> Vec<usize> {
        let top_k = vec![(0..4).map(|image| (image, [0.0, logits[image]])).collect()];
        let scores = Scores { cosine: vec![cosine.to_vec()], top_k, hubness: Vec::new(), half: false };
        scores.order(&LocalScore::Sightline(calibration), 0)
    }

    #[test]
    fn probabilities_are_ranked_by_themselves_however_small_and_equal_ones_by_cosine() {
        let cosine = [0.1, 0.2, 0.3, 0.4, 0.05, 0.06];
        let order = |logits| served(logits, cosine, Calibration::default());
        // Far below what a trace of the cosine would be: clear mismatches, the likelier first.
        assert_eq!(order([-20.0, -21.0, -22.0, -23.0]), [0, 1, 2, 3, 5, 4]);
        // Near 1 two steps of an f32 apart.
        assert_eq!(order([16.0, 15.5, 15.0, 14.5]), [0, 1, 2, 3, 5, 4]);
        // Equal ones.
        assert_eq!(order([1.0, 1.0, 1.0, 1.0]), [3, 2, 1, 0, 5, 4]);
        assert_eq!(order([90.0, 80.0, 70.0, 60.0]), [3, 2, 1, 0, 5, 4], "all of them 1 in f32");
        // An image with a NaN score counts as outside the top K.
        assert_eq!(order([f32::NAN, -9.0, f32::INFINITY, -9.5]), [1, 3, 2, 0, 5, 4]);
    }

    #[test]
    fn served_probabilities_are_ranked_by_themselves() {
        let order = |probabilities: [f32; 4]| {
            let top_k = vec![(0..4).map(|image| (image, [0.0, probabilities[image]])).collect()];
            let cosine = vec![vec![0.1, 0.2, 0.3, 0.4, 0.05, 0.06]];
            Scores { cosine, top_k, hubness: Vec::new(), half: false }.order(&LocalScore::Served, 0)
        };
        assert_eq!(order([1e-8, 1e-9, 1e-10, 0.0]), [0, 1, 2, 3, 5, 4]);
        assert_eq!(order([1e-9, 1e-8, 1.0, 1.0 - 6e-8]), [2, 3, 1, 0, 5, 4], "near 1 one step of an f32 apart");
        assert_eq!(order([0.5, 0.5, 0.5, 0.5]), [3, 2, 1, 0, 5, 4], "equal ones by cosine");
        assert_eq!(order([f32::NAN, 0.0, 0.2, 0.1]), [2, 3, 1, 0, 5, 4], "without a probability: behind the others");
    }

    #[test]
    fn ranks_less_hubness_are_those_of_the_whole_matrix() {
        let number = |seed: usize| ((seed * 7919) % 211) as f32 / 211.0;
        let cosine: Vec<Vec<f32>> =
            (0..9).map(|text| (0..30).map(|image| number(31 * text + image)).collect()).collect();
        let hubness: Vec<f32> = (0..30).map(|image| number(5 * image + 3)).collect();
        let whole: Vec<Vec<f32>> =
            cosine.iter().map(|row| row.iter().zip(&hubness).map(|(c, h)| c - h).collect()).collect();
        let (text_ids, image_ids): (Vec<u32>, Vec<u32>) = ((0..9).collect(), (0..30).map(|image| image % 9).collect());
        let mut scores = Scores { cosine, top_k: Vec::new(), hubness, half: false };
        let by_row = scores.bank_ranks(&text_ids, &image_ids).expect("there is a bank");
        assert_eq!(by_row, text_ranks(|text| order(&whole[text]), &text_ids, &image_ids));
        assert_eq!(Ranks::of(&by_row), ranks(&whole, &text_ids, &image_ids));
        scores.hubness.clear();
        assert_eq!((scores.bank_ranks(&text_ids, &image_ids), scores.without_hubness(0)), (None, None));
    }

    #[test]
    fn rows_of_equal_texts_are_copied_and_all_others_moved() {
        let unique = vec![vec![1.0], vec![2.0], vec![3.0]];
        let last = unique[2].as_ptr();
        let all = spread(unique, &[1, 0, 1, 2]);
        assert_eq!(all, [[2.0], [1.0], [2.0], [3.0]]);
        assert_eq!(all[3].as_ptr(), last, "it was copied");
    }

    proptest! {
        /// The top K rank before the others, whatever the logits.
        #[test]
        fn the_top_k_come_first(
            cosine in proptest::collection::vec(-1f32..1.0, 2..20), k in 1usize..20, logits: [i8; 8], local_score in 0usize..3,
        ) {
            let top: Vec<usize> = order(&cosine).into_iter().take(k).collect();
            let logit = |i: usize| [f32::from(logits[i % 8]) / 10.0, f32::from(logits[(i + 3) % 8]) / 10.0];
            let top_k = vec![top.iter().map(|&i| (i, logit(i))).collect()];
            let fitted =
                Calibration { temperature: 0.5, bias: -3.0, similarity: 4.0, hubness: -2.0, ..Calibration::default() };
            let local_score = [LocalScore::Sightline(fitted), LocalScore::Reference, LocalScore::Paper][local_score].clone();
            let hubness = cosine.iter().map(|c| c.abs()).collect();
            let row = Scores { cosine: vec![cosine], top_k, hubness, half: false }.local(&local_score).remove(0);
            let mut first = order(&row);
            first.truncate(top.len());
            prop_assert!(first.iter().all(|i| top.contains(i)));
        }
    }
}
