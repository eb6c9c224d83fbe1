//! From detections to tracks: ByteTrack (Zhang et al., ECCV 2022) in double precision, in real
//! time.
//!
//! With [`TrackRules::published`] and a time step of one frame it reproduces the published Python
//! tracker association by association; the golden data under `tests/golden/tracker` verify that.
//! [`TrackRules::service`] is the same tracker for cameras that are analysed a few times a second,
//! at uneven intervals, for months. Each field of [`TrackRules`] says where and why it deviates
//! from the publication.

mod assign;
mod byte_track;
mod iou;
mod kalman;
mod rules;
mod tracklet;

pub use assign::assign;
pub use byte_track::{Association, ByteTrack, Stage, Update};
pub use iou::{Aged, duplicates, fuse, iou, iou_buffered};
pub use kalman::Kalman;
pub use rules::{LastObservation, NOMINAL_HZ, TrackRules};
pub use tracklet::{Observation, Track, TrackState};
