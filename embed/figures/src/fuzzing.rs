//! The parsers of files from elsewhere, public for the fuzz targets in `embed/fuzz` (feature `fuzzing`). Each takes any
//! bytes and must return, with a result or an error, and quickly.

use crate::mesh::parse;

/// Body and clothes meshes: `.obj`, `.mhclo`, shape targets, skeleton and weights.
pub fn meshes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(mesh) = parse::obj(&text) {
        let triangles = mesh.faces_of(|_| true);
        assert!(triangles.iter().flatten().all(|&v| (v as usize) < mesh.vertices.len()), "a corner of nothing");
    }
    let _ = parse::target(&text, 100);
    let _ = parse::mhclo(&text, 100);
    let _ = parse::rig(bytes);
    let _ = parse::weights(bytes);
}
