//! From detections to tracks: ByteTrack (Zhang et al., ECCV 2022) in double precision, in real time.
//!
//! With [`TrackRules::published`] and a time step of one frame it repeats the published Python tracker association by
//! association; the golden data under `tests/golden/tracker` hold it to that. [`TrackRules::service`] is the same
//! tracker for cameras that are analysed a few times a second, at uneven intervals, for months. Where it departs from
//! the publication, and why, is said at each field of [`TrackRules`].

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
