//! Best shots: which pictures of a tracked person are kept. At most a few per track: the first good
//! one at once, better or different ones later.
//!
//! [`assess`] rates how well a crop shows its person, [`Appearance`] tells whether two crops show
//! much the same, [`BestShots`] keeps the slots of one track, and [`encode`] makes the JPEG.

mod appearance;
mod jpeg;
mod picker;
mod quality;

pub use appearance::Appearance;
pub use jpeg::{encode, widen};
pub use picker::{BestShots, Candidate, Placement};
pub use quality::{assess, completeness, sharpness, size};
