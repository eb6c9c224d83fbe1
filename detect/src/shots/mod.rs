//! Which pictures of a tracked person are worth keeping: at most a few per track, the first good one at once, better or
//! different ones later.
//!
//! [`quality`](assess) says how well a crop shows its person, [`Look`] whether two crops show much the same,
//! [`BestShots`] keeps the slots of one track, [`encode`] makes the JPEG.

mod jpeg;
mod look;
mod picker;
mod quality;

pub use jpeg::{encode, widen};
pub use look::Look;
pub use picker::{BestShots, Candidate, Placement};
pub use quality::{assess, completeness, sharpness, size};
