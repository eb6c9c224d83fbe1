//! Integration tests of drawn persons, as one binary so that they link once.
#![allow(clippy::unwrap_used)]

mod doll;
mod mesh;
mod pinned;
