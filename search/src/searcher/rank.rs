//! Stage two of a search: the decoder re-ranks the best candidates (method, section 6). Re-ranked
//! tracks are ordered by match probability, or by cosine plus match; the others by cosine alone,
//! always behind. Where phrases are judged the probability is the track's ([`super::phrases`]),
//! otherwise that of its best picture.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;

use sightline_core::config::ScoreForm;
use sightline_core::{PatchFeatures, SightingId};

use sightline_embed::model::shift_odds;

use super::candidates::Candidate;
use super::phrases::TrackProbabilities;
use super::request::{Hit, PhraseTruth, Sort};
use crate::encoder::{EncodeError, EncodedText, MatchScore, PhraseAsked, QueryEncoder};
use crate::gallery::Gallery;
use crate::picture::PictureKey;
use crate::store::Scored;

/// Patch features read from the gallery, with a count of those that could not be read, by reason.
#[derive(Default)]
pub(super) struct FetchedFeatures {
    pictures: Vec<(SightingId, PatchFeatures)>,
    missing: usize,
    unreadable: usize,
    misshapen: usize,
}

/// Match scores by picture, with a count of the pictures without a score, by reason.
#[derive(Default)]
pub(super) struct DecoderScores {
    pub matches: HashMap<SightingId, MatchScore>,
    missing: usize,
    unreadable: usize,
    misshapen: usize,
    /// Pictures for which the decoder gave no finite score.
    unscored: usize,
}

impl DecoderScores {
    /// Describes the pictures without a score and the reasons; `None` when all have one.
    pub fn degraded(&self) -> Option<String> {
        let lost = self.missing + self.unreadable + self.misshapen + self.unscored;
        (lost > 0).then(|| {
            format!(
                "{lost} of {} pictures could not be re-ranked and count by similarity only (patch features: {} missing, \
                 {} unreadable, {} of the wrong shape, {} not finite)",
                lost + self.matches.len(),
                self.missing,
                self.unreadable,
                self.misshapen,
                self.unscored
            )
        })
    }
}

/// Reads the patch features of all pictures of these candidates. An unreadable one is logged and
/// counted, and does not fail the others.
pub(super) fn fetch_features(gallery: &dyn Gallery, candidates: &[Candidate], shape: (u32, u32)) -> FetchedFeatures {
    let mut fetched = FetchedFeatures::default();
    let keys: Vec<PictureKey> = candidates.iter().flat_map(|c| c.crops.iter().map(Scored::key)).collect();
    for (id, read) in keys.iter().map(|key| key.id).zip(gallery.patches_of(&keys)) {
        match read {
            Ok(Some(p)) if (p.rows, p.width) == shape => fetched.pictures.push((id, p)),
            Ok(Some(p)) => {
                tracing::warn!(sighting = %id, rows = p.rows, width = p.width, "patch features of the wrong shape");
                fetched.misshapen += 1;
            }
            Ok(None) => {
                tracing::warn!(sighting = %id, "patch features are missing");
                fetched.missing += 1;
            }
            Err(error) => {
                tracing::error!(sighting = %id, %error, "patch features are unreadable");
                fetched.unreadable += 1;
            }
        }
    }
    fetched
}

/// Scores all pictures in one request: between two requests the model would take a batch of crops,
/// which each request would wait for. The model splits the pictures as its memory demands. One
/// without a finite score is logged and counted, and does not fail the others.
pub(super) fn score_pictures(
    encoder: &dyn QueryEncoder,
    text: &EncodedText,
    fetched: FetchedFeatures,
) -> Result<DecoderScores, EncodeError> {
    let FetchedFeatures { pictures, missing, unreadable, misshapen } = fetched;
    let (ids, pictures): (Vec<_>, Vec<_>) = pictures.into_iter().unzip();
    let mut judged = DecoderScores { missing, unreadable, misshapen, ..DecoderScores::default() };
    let scores = if pictures.is_empty() { Vec::new() } else { encoder.match_scores(text, pictures)? };
    if scores.len() != ids.len() {
        return Err(EncodeError::Failed(format!("{} scores for {} pictures", scores.len(), ids.len()).into()));
    }
    let asked = text.phrases.len();
    if let Some(odd) = scores.iter().flatten().find(|score| score.phrases.len() != asked) {
        return Err(EncodeError::Failed(format!("{} answers for {asked} phrases", odd.phrases.len()).into()));
    }
    for (id, score) in ids.into_iter().zip(scores) {
        if let Some(score) = score {
            judged.matches.insert(id, score);
        } else {
            tracing::error!(sighting = %id, "patch features give no finite match score");
            judged.unscored += 1;
        }
    }
    metrics::counter!("sightline_search_unscored_pictures_total").increment(judged.unscored as u64);
    Ok(judged)
}

/// Smallest number of tracks to adjust to: the person may not be among them at all, and the
/// calibration is untested for a handful of tracks.
const MIN_TRACKS: f32 = 25.0;

/// Adjusts probabilities that are calibrated for `persons` candidates to `tracks` candidates: the
/// odds of a match fall as the number of others grows.
pub(super) fn adjust_to_track_count(matches: &mut HashMap<SightingId, MatchScore>, persons: f32, tracks: f32) {
    let shift = f64::from(persons / tracks.max(MIN_TRACKS)).ln();
    for found in matches.values_mut() {
        found.probability = shift_odds(f64::from(found.probability).clamp(1e-12, 1.0 - 1e-7), shift);
    }
}

/// Ranks the hits of all candidates; `asked` are the phrases that they were judged by.
pub(super) fn rank(
    candidates: Vec<Candidate>,
    matches: &HashMap<SightingId, MatchScore>,
    asked: &[PhraseAsked],
    form: ScoreForm,
    sort: Sort,
) -> Vec<Hit> {
    let mut hits: Vec<Hit> = candidates.into_iter().filter_map(|c| hit(c, matches, asked, form)).collect();
    hits.sort_by(|a, b| order(a, b, sort));
    hits
}

fn order(a: &Hit, b: &Hit, sort: Sort) -> Ordering {
    let judged = b.probability.is_some().cmp(&a.probability.is_some());
    let within = match sort {
        Sort::Relevance => b.score.total_cmp(&a.score).then(b.similarity.total_cmp(&a.similarity)),
        Sort::Time => b.captured_at.cmp(&a.captured_at),
    };
    judged.then(within).then(a.sighting_id.cmp(&b.sighting_id))
}

/// Combines cosine and, where re-ranked, logit and probability into one score.
fn combine(form: ScoreForm, cosine: f32, judged: Option<(f32, f32)>) -> f32 {
    match (judged, form) {
        (Some((logit, _)), ScoreForm::Raw) => cosine + logit,
        (Some((_, probability)), ScoreForm::Probability) => cosine + probability,
        (Some((_, probability)), ScoreForm::Calibrated) => probability,
        (None, _) => cosine,
    }
}

/// Builds the hit of one track, shown by its best picture.
fn hit(
    mut c: Candidate,
    matches: &HashMap<SightingId, MatchScore>,
    asked: &[PhraseAsked],
    form: ScoreForm,
) -> Option<Hit> {
    let score = |id: SightingId, cosine: f32| combine(form, cosine, matches.get(&id).map(|m| (m.logit, m.probability)));
    c.crops.sort_by(|a, b| {
        let judged = (Reverse(matches.contains_key(&a.id))).cmp(&Reverse(matches.contains_key(&b.id)));
        let better = score(b.id, b.cosine).total_cmp(&score(a.id, a.cosine)).then(b.cosine.total_cmp(&a.cosine));
        judged.then(better).then(a.id.cmp(&b.id))
    });
    let best = c.crops.first()?;
    let found = matches.get(&best.id);
    let truth = TrackProbabilities::of(c.crops.iter().filter_map(|x| matches.get(&x.id)));
    let probability = truth.as_ref().map(|t| t.probability).or(found.map(|m| m.probability));
    let first_seen = c.crops.iter().map(|x| x.payload.first_seen).min()?;
    let last_seen = c.crops.iter().map(|x| x.payload.last_seen).max()?;
    Some(Hit {
        sighting_id: best.id,
        camera: c.camera.clone(),
        track_id: c.track,
        first_seen,
        last_seen,
        ended: c.crops.iter().any(|x| x.payload.ended),
        captured_at: best.payload.captured_at,
        crop: best.payload.crop,
        bbox: best.payload.bbox,
        frame_size: best.payload.frame_size,
        similarity: best.cosine,
        match_logit: found.map(|m| m.logit),
        hubness: found.and_then(|m| m.hubness),
        probability,
        phrases: truth.map(|t| asked.iter().zip(t.phrases).map(phrase_truth).collect()).unwrap_or_default(),
        score: combine(form, best.cosine, found.map(|m| m.logit).zip(probability)),
        crops: c.crops.iter().map(|x| x.id).collect(),
    })
}

fn phrase_truth((asked, probability): (&PhraseAsked, f32)) -> PhraseTruth {
    PhraseTruth { text: asked.text.clone(), probability, negated: asked.negated }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(p: f32, persons: f32, tracks: f32) -> f32 {
        let id = SightingId::from_u128(1);
        let score = MatchScore { logit: 0.0, hubness: None, probability: p, phrases: Vec::new() };
        let mut matches = HashMap::from([(id, score)]);
        adjust_to_track_count(&mut matches, persons, tracks);
        matches[&id].probability
    }

    #[test]
    fn odds_fall_as_the_others_grow_in_number() {
        // 1 to 3 among 200 is 1 to 30 among 2,000, and 1 to 3/8 among 25 or fewer.
        for (tracks, odds) in [(200.0, 1.0 / 3.0), (2000.0, 1.0 / 30.0), (25.0, 8.0 / 3.0), (3.0, 8.0 / 3.0)] {
            let p = moved(0.25, 200.0, tracks);
            assert!((p / (1.0 - p) - odds).abs() < 1e-4 * odds, "{tracks}: {p}");
        }
        for p in [0.0, 1e-30, 1.0] {
            assert!((0.0..=1.0).contains(&moved(p, 200.0, 1e6)) && moved(p, 200.0, 1e6) <= moved(p, 200.0, 100.0));
        }
    }
}
