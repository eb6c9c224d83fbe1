//! Entry points for the fuzz targets in `embed/fuzz` (feature `fuzzing`): parsers of downloaded
//! files.
//!
//! Each takes any bytes and must return quickly, with a result or an error; a panic is a bug.

use crate::mesh::parse;

/// Parses `bytes` as every mesh format: `.obj`, `.mhclo`, shape targets, rig and weights.
pub fn meshes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(mesh) = parse::obj(&text) {
        let triangles = mesh.faces_of(|_| true);
        assert!(
            triangles.iter().flatten().all(|&v| (v as usize) < mesh.vertices.len()),
            "a triangle without its vertex"
        );
    }
    let _ = parse::target(&text, 100);
    let _ = parse::mhclo(&text, 100);
    let _ = parse::rig(bytes);
    let _ = parse::weights(bytes);
}
