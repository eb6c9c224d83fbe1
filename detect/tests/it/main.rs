//! The integration tests of `sightline-detect`, one binary for all of them, because linking is what costs time.

#![allow(clippy::unwrap_used)]

mod analyzer;
mod nanodet_conv;
mod nanodet_convert;
mod nanodet_golden;
mod scenes;
mod shots;
mod track_golden;
mod track_scenes;
