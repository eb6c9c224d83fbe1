//! Phrase probabilities: for each track from all its re-ranked pictures, and over all tracks.
//!
//! The probability of a track comes from the mean of its pictures' log-odds, so that three pictures
//! count together and not only the best one. It is the mean and not the sum, because pictures of
//! one track are too similar to count as three independent witnesses.

use sightline_embed::model::{log_odds, sigmoid};
use sightline_embed::text::NotUnderstood;

use super::request::Hit;
use crate::encoder::{EncodedText, MatchScore, PhraseAsked};

/// Probability below which a phrase is more likely false than true.
const LIKELY_TRUE: f32 = 0.5;

/// Probabilities of a track.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TrackProbabilities {
    /// Probability that the whole description is true of the person.
    pub probability: f32,
    /// Probability that each phrase is true of the person.
    pub phrases: Vec<f32>,
}

impl TrackProbabilities {
    /// Combines the re-ranked pictures of a track; `None` when there are none, or no phrase was
    /// judged.
    pub fn of<'a>(pictures: impl Iterator<Item = &'a MatchScore>) -> Option<Self> {
        let pictures: Vec<&MatchScore> = pictures.collect();
        let phrases = pictures.first()?.phrases.len();
        if phrases == 0 {
            return None;
        }
        let phrase =
            |i: usize| pooled_probability(pictures.iter().filter_map(|picture| picture.phrases.get(i).copied()));
        Some(Self {
            probability: pooled_probability(pictures.iter().map(|picture| picture.probability)),
            phrases: (0..phrases).map(phrase).collect(),
        })
    }
}

/// Returns the probability with the mean log-odds of `probabilities`, of which there is at least
/// one.
fn pooled_probability(probabilities: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = probabilities.fold((0.0, 0.0), |(sum, count), p| (sum + log_odds(f64::from(p)), count + 1.0));
    sigmoid(sum / count) as f32
}

/// The model's interpretation of a description; the same on every page of a search.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct QueryUnderstanding {
    pub phrases: Vec<PhraseAsked>,
    pub not_understood: Vec<NotUnderstood>,
    pub nobody_fulfils: Vec<String>,
}

impl QueryUnderstanding {
    /// Creates it from a text and all hits of its search.
    pub fn of(text: EncodedText, ranked: &[Hit]) -> Self {
        let nobody_fulfils = nobody_fulfils(&text.phrases, ranked);
        Self { phrases: text.phrases, not_understood: text.not_understood, nobody_fulfils }
    }
}

/// Returns the phrases that are more likely false than true of every re-ranked track; none when no
/// track was re-ranked.
fn nobody_fulfils(asked: &[PhraseAsked], ranked: &[Hit]) -> Vec<String> {
    let best =
        |i: usize| ranked.iter().filter_map(|hit| hit.phrases.get(i).map(|truth| truth.probability)).reduce(f32::max);
    let failed = asked.iter().enumerate().filter(|(i, _)| best(*i).is_some_and(|best| best < LIKELY_TRUE));
    failed.map(|(_, phrase)| phrase.to_string()).collect()
}

/// Returns the expected number of these hits that the description is not true of; `None` when no
/// hit was judged by phrases.
pub(super) fn expected_wrong(hits: &[Hit]) -> Option<f32> {
    let judged = hits.iter().filter(|hit| !hit.phrases.is_empty());
    judged.filter_map(|hit| hit.probability).map(|p| 1.0 - p).reduce(|sum, wrong| sum + wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::searcher::request::PhraseTruth;
    use sightline_core::{BBox, SightingId, Timestamp, TrackId};

    fn score(probability: f32, phrases: &[f32]) -> MatchScore {
        MatchScore { logit: 0.0, hubness: None, probability, phrases: phrases.to_vec() }
    }

    fn hit(probability: Option<f32>, phrases: &[f32]) -> Hit {
        let at = Timestamp::from_micros(0);
        Hit {
            sighting_id: SightingId::from_u128(1),
            camera: "gate".parse().expect("valid"),
            track_id: TrackId { born: at, ordinal: 0 },
            first_seen: at,
            last_seen: at,
            ended: false,
            captured_at: at,
            crop: None,
            bbox: BBox::default(),
            frame_size: (1, 1),
            similarity: 0.0,
            match_logit: None,
            hubness: None,
            probability,
            phrases: phrases
                .iter()
                .map(|p| PhraseTruth { text: "jacket".to_owned(), probability: *p, negated: false })
                .collect(),
            score: 0.0,
            crops: vec![],
        }
    }

    fn asked(phrases: &[(&str, bool)]) -> Vec<PhraseAsked> {
        phrases.iter().map(|(text, negated)| PhraseAsked { text: (*text).to_owned(), negated: *negated }).collect()
    }

    #[test]
    fn three_pictures_agree_and_the_luckiest_does_not_win() {
        // Odds of 9 and of 1/9, 1/9 have the geometric mean 9^(-1/3).
        let pictures = [score(0.9, &[0.9, 0.5]), score(0.1, &[0.1, 0.5]), score(0.1, &[0.1, 0.5])];
        let track = TrackProbabilities::of(pictures.iter()).expect("judged");
        let odds = 9f32.powf(-1.0 / 3.0);
        let want = odds / (1.0 + odds);
        assert!((track.probability - want).abs() < 1e-6, "{track:?}");
        assert!((track.phrases[0] - want).abs() < 1e-6 && (track.phrases[1] - 0.5).abs() < 1e-6, "{track:?}");

        let alone = TrackProbabilities::of(pictures[..1].iter()).expect("judged");
        assert!((alone.probability - 0.9).abs() < 1e-6, "one picture speaks for itself");
        let sure = TrackProbabilities::of([score(1.0, &[0.0]), score(1.0, &[0.0])].iter()).expect("judged");
        assert!(sure.probability > 0.999_999 && sure.phrases[0] < 1e-6, "no infinity: {sure:?}");
        assert_eq!(TrackProbabilities::of([].into_iter()), None);
        assert_eq!(TrackProbabilities::of([score(0.9, &[])].iter()), None, "no phrase was judged");
    }

    #[test]
    fn a_phrase_that_nobody_fulfils_is_named_as_it_was_asked() {
        let phrases = asked(&[("red jacket", false), ("bag", true), ("jeans", false)]);
        let hits = [hit(Some(0.1), &[0.2, 0.49, 0.5]), hit(Some(0.2), &[0.4, 0.3, 0.1]), hit(None, &[])];
        assert_eq!(nobody_fulfils(&phrases, &hits), ["red jacket", "no bag"]);
        assert!(nobody_fulfils(&phrases, &hits[2..]).is_empty(), "nobody was judged, so nothing is said");
        assert!(nobody_fulfils(&[], &hits).is_empty());
    }

    #[test]
    fn the_expected_number_of_wrong_hits_counts_the_judged() {
        let hits = [hit(Some(0.75), &[0.75]), hit(Some(0.25), &[0.25]), hit(None, &[])];
        assert_eq!(expected_wrong(&hits), Some(1.0));
        assert_eq!(expected_wrong(&hits[2..]), None);
        assert_eq!(expected_wrong(&[hit(Some(0.75), &[])]), None, "a match is no truth of phrases");
    }
}
