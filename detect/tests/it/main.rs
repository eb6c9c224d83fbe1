//! The integration tests of `sightline-detect`, in one binary, because linking takes most of the
//! time.

#![allow(clippy::unwrap_used)]

mod analyzer;
mod nanodet_conv;
mod nanodet_convert;
mod nanodet_golden;
mod scenes;
mod shots;
mod track_golden;
mod track_scenes;
