//! Level 2: body meshes with clothes, posed, in the scenery and cameras of level 1.
//!
//! ```text
//! Assets::load (base mesh, shape targets, rig, weights, clothes)
//! Person -> shape (macro targets) -> cloth (garments over the body at rest)
//!        -> rig (pose, linear blend skinning)
//!        -> figure (layers) -> triangles + paint (hems, cloth, folds, face) -> scene and camera
//! ```
//!
//! The attributes of a [`Person`](super::Person) stay the single source of pictures and captions:
//! meshes give the shape; hems, necklines and cloth come from the attributes.

mod assets;
mod cloth;
mod error;
pub(crate) mod figure;
mod head_wear;
mod math;
mod paint;
mod paint_head_feet;
pub(crate) mod parse;
mod rig;
mod shape;
mod surface;
pub(crate) mod triangles;
mod wardrobe;

pub use assets::Assets;
pub use error::AssetError;
