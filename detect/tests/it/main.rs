//! The integration tests of `sightline-detect`, one binary for all of them, because linking is what costs time.

mod track_golden;
