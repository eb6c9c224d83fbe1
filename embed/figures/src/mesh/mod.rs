//! Training persons, level 2: real body meshes with clothes, posed and drawn in the places and cameras of level 1.
//!
//! ```text
//! Assets::load (base mesh, shape targets, rig, weights, clothes)
//! Person -> shape (macro targets) -> cloth (garments over the body at rest) -> rig (pose, linear blend skinning)
//!        -> figure (layers) -> triangles + paint (cut lines, cloth, folds, face) -> scene and camera
//! ```
//!
//! The attributes of a [`Person`](super::Person) stay the single source of pictures and captions: meshes give the form,
//! cut lines and cloth come from the attributes.

pub mod assets;
mod cloth;
pub mod error;
pub(crate) mod figure;
mod head_wear;
mod math;
mod paint;
mod paint_head_feet;
pub mod parse;
mod rig;
mod shape;
mod surface;
pub(crate) mod triangles;
mod wardrobe;

pub use assets::Assets;
pub use error::AssetError;
