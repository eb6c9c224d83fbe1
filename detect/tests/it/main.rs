//! The integration tests of `sightline-detect`, one binary for all of them, because linking is what costs time.

mod analyzer;
mod scenes;
mod track_golden;
mod track_scenes;
