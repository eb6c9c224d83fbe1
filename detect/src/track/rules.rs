//! The settings of the tracker, and every deviation of the service from the published method.

use sightline_core::config::TrackConfig;

/// The frame rate for which the method's noise and thresholds were published. Time steps are
/// counted in frames of this rate.
pub const NOMINAL_HZ: f64 = 30.0;

/// The last-observation pass of OC-SORT (Cao et al., CVPR 2023): unmatched detections are compared
/// with the box in which a track was last *seen*, not with the filter's prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastObservation {
    /// Smallest IoU of a match.
    pub min_iou: f64,
    /// Share of their size by which both boxes grow on every side before they are compared.
    pub buffer: f64,
    /// Tracks last seen longer ago than this (nominal frames) are left out: another person may
    /// stand there by now.
    pub max_gap: f64,
}

/// Thresholds and switches of [`ByteTrack`](super::ByteTrack). Costs are `1 - IoU`, times are
/// nominal frames.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackRules {
    /// Detections above this score are matched first.
    pub high: f64,
    /// Detections above this and below `high` are matched second. A score that equals a bound
    /// belongs to no group.
    pub low: f64,
    /// A new track needs at least this score.
    pub new_track: f64,
    /// Largest cost in the first stage.
    pub match_cost: f64,
    /// Largest cost in the second stage.
    pub low_cost: f64,
    /// Largest cost for unconfirmed tracks.
    pub unconfirmed_cost: f64,
    /// How long a track that is not seen is kept.
    pub max_lost: f64,
    /// Costs of the first stage and for unconfirmed tracks are `1 - IoU x score`.
    pub fuse_score: bool,
    /// Tracks born in the very first update are confirmed at once. Published: yes. Service: no,
    /// because a false positive in the first picture of a connection is as likely as in any other.
    pub trust_first: bool,
    /// Lifetimes are checked after the matching, so an expired track can be matched once more.
    /// Published: yes (an artefact of the order of its steps). Service: no; nothing may be matched
    /// after a gap of a minute.
    pub revive_expired: bool,
    /// Unconfirmed tracks are predicted too. Published: no, so that a second sighting teaches the
    /// filter no velocity. Service: yes, since at five frames a second the third sighting needs it.
    pub predict_unconfirmed: bool,
    /// The last-observation pass. Published: none.
    pub last_observation: Option<LastObservation>,
}

impl TrackRules {
    /// ByteTrack as published, with its `track_thresh`, `match_thresh` and buffer in frames.
    pub fn published(track_thresh: f64, match_thresh: f64, max_lost: f64) -> Self {
        Self {
            high: track_thresh,
            low: 0.1,
            new_track: track_thresh + 0.1,
            match_cost: match_thresh,
            low_cost: 0.5,
            unconfirmed_cost: 0.7,
            max_lost,
            fuse_score: true,
            trust_first: true,
            revive_expired: true,
            predict_unconfirmed: false,
            last_observation: None,
        }
    }

    /// The tracker of a camera node, for low and uneven frame rates.
    pub fn service(cfg: &TrackConfig) -> Self {
        Self {
            low: f64::from(cfg.low),
            new_track: f64::from(cfg.new_track),
            trust_first: false,
            revive_expired: false,
            predict_unconfirmed: true,
            last_observation: Some(LastObservation { min_iou: 0.3, buffer: 0.3, max_gap: NOMINAL_HZ }),
            ..Self::published(f64::from(cfg.high), f64::from(cfg.match_cost), cfg.lost_seconds * NOMINAL_HZ)
        }
    }
}
