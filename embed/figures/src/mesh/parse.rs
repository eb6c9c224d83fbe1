//! Parsers of mesh files: Wavefront OBJ, MakeHuman shape targets, rigs, skinning weights and
//! bindings of clothes to the body (`.mhclo`).
//!
//! The files are downloads: no input makes a parser panic, and an error names the line.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::raster::Vec3;

/// A malformed line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
    /// What was expected there.
    pub what: String,
}

fn malformed(line: usize, what: impl Into<String>) -> Malformed {
    Malformed { line: line + 1, what: what.into() }
}

/// Mesh of an OBJ file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Obj {
    /// In the unit of the file.
    pub vertices: Vec<Vec3>,
    /// Vertex indices, all below `vertices.len()`; polygons are cut into fans.
    pub triangles: Vec<[u32; 3]>,
    /// Texture coordinates of each vertex: the last ones named for it, 0 without any.
    pub uv: Vec<[f32; 2]>,
    /// Ranges of `triangles` by group; a group may have several ranges.
    pub groups: Vec<(String, std::ops::Range<usize>)>,
}

impl Obj {
    /// Triangles of the groups whose name satisfies `wanted`.
    pub fn faces_of(&self, wanted: impl Fn(&str) -> bool) -> Vec<[u32; 3]> {
        self.groups
            .iter()
            .filter(|(name, _)| wanted(name))
            .flat_map(|(_, range)| self.triangles[range.clone()].iter().copied())
            .collect()
    }
}

fn floats<const N: usize>(words: &mut std::str::SplitWhitespace<'_>, line: usize) -> Result<[f32; N], Malformed> {
    let mut out = [0.0f32; N];
    for value in &mut out {
        let word = words.next().ok_or_else(|| malformed(line, format!("expected {N} numbers")))?;
        *value = word.parse().map_err(|_| malformed(line, format!("{word:?} is not a number")))?;
        if !value.is_finite() {
            return Err(malformed(line, format!("{word:?} is not a finite number")));
        }
    }
    Ok(out)
}

/// Zero-based index of a corner; files count from 1, or backwards from the last when negative.
fn corner(word: &str, count: usize, line: usize) -> Result<u32, Malformed> {
    let index: i64 = word.parse().map_err(|_| malformed(line, format!("{word:?} is not an index")))?;
    let at = if index > 0 { index - 1 } else { count as i64 + index };
    if index == 0 || at < 0 || at >= count as i64 {
        return Err(malformed(line, format!("index {index}, but {count} are defined so far")));
    }
    Ok(at as u32)
}

/// Parses an OBJ file.
///
/// # Errors
/// A malformed line, or a file without a face (for example a Git LFS pointer).
pub fn obj(text: &str) -> Result<Obj, Malformed> {
    if text.starts_with("version https://git-lfs") {
        return Err(malformed(0, "this is a Git LFS pointer, not a mesh; fetch the file itself (git lfs pull)"));
    }
    let mut out = Obj::default();
    let mut textures: Vec<[f32; 2]> = Vec::new();
    let mut uv: HashMap<u32, u32> = HashMap::new();
    out.groups.push((String::new(), 0..0));
    for (line, content) in text.lines().enumerate() {
        let mut words = content.split_whitespace();
        match words.next() {
            Some("v") => out.vertices.push(floats(&mut words, line)?),
            Some("vt") => textures.push(floats(&mut words, line)?),
            Some("g") => {
                let start = out.triangles.len();
                out.groups.push((words.next().unwrap_or_default().to_string(), start..start));
            }
            Some("f") => {
                let mut polygon: Vec<u32> = Vec::with_capacity(4);
                for word in words {
                    let mut parts = word.split('/');
                    let vertex = corner(parts.next().unwrap_or_default(), out.vertices.len(), line)?;
                    if let Some(texture) = parts.next().filter(|t| !t.is_empty()) {
                        uv.insert(vertex, corner(texture, textures.len(), line)?);
                    }
                    polygon.push(vertex);
                }
                if polygon.len() < 3 {
                    return Err(malformed(line, "a face needs three corners"));
                }
                out.triangles.extend((1..polygon.len() - 1).map(|i| [polygon[0], polygon[i], polygon[i + 1]]));
                if let Some((_, range)) = out.groups.last_mut() {
                    range.end = out.triangles.len();
                }
            }
            _ => {}
        }
    }
    if out.triangles.is_empty() {
        return Err(malformed(text.lines().count(), "the file ends without a face"));
    }
    out.uv = (0..out.vertices.len() as u32).map(|v| uv.get(&v).map_or([0.0; 2], |&t| textures[t as usize])).collect();
    Ok(out)
}

/// Parses a shape target: lines "vertex dx dy dz" with vertices below `vertices`.
///
/// # Errors
/// A malformed line.
pub fn target(text: &str, vertices: usize) -> Result<Vec<(u32, Vec3)>, Malformed> {
    let mut out = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let mut words = content.split_whitespace();
        match words.next() {
            None => {}
            Some(word) if word.starts_with('#') => {}
            Some(word) => {
                let vertex: usize = word.parse().map_err(|_| malformed(line, format!("{word:?} is not a vertex")))?;
                if vertex >= vertices {
                    return Err(malformed(line, format!("vertex {vertex} of a mesh of {vertices}")));
                }
                out.push((vertex as u32, floats(&mut words, line)?));
            }
        }
    }
    Ok(out)
}

/// Position of a joint on the body in a rig file.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "strategy", rename_all = "UPPERCASE")]
pub enum Joint {
    /// Middle of the vertices of a group of the base mesh, a small cube.
    Cube {
        cube_name: String,
    },
    Mean {
        vertex_indices: Vec<u32>,
    },
    Vertex {
        vertex_index: u32,
    },
}

/// One bone of a rig file.
#[derive(Debug, Clone, Deserialize)]
pub struct BoneEntry {
    /// The joint about which it rotates.
    pub head: Joint,
    /// Name of its parent, empty for the root.
    pub parent: String,
}

/// Parses a rig: bones by name.
///
/// # Errors
/// Malformed JSON or a missing field.
pub fn rig(bytes: &[u8]) -> Result<BTreeMap<String, BoneEntry>, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Parses skinning weights: pairs (vertex, weight) by name of the bone.
///
/// # Errors
/// Malformed JSON or a missing field.
pub fn weights(bytes: &[u8]) -> Result<BTreeMap<String, Vec<(u32, f32)>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct File {
        weights: BTreeMap<String, Vec<(u32, f32)>>,
    }
    Ok(serde_json::from_slice::<File>(bytes)?.weights)
}

/// Binding of a vertex of a garment to a triangle of the body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Binding {
    /// Vertices of the body.
    pub vertices: [u32; 3],
    /// Barycentric weights of the three.
    pub weights: [f32; 3],
    /// Added to the point on the triangle, in units of [`Clothes::scales`].
    pub offset: Vec3,
}

/// Content of a `.mhclo` file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clothes {
    /// File name of the mesh in the same folder; may be empty.
    pub obj_file: String,
    /// For x, y, z: two body vertices, and their distance along that axis on the body that the
    /// garment was made for.
    pub scales: [Option<(u32, u32, f32)>; 3],
    /// One per vertex of the mesh.
    pub bindings: Vec<Binding>,
}

/// Parses a `.mhclo` file; vertices of the body must be below `vertices`.
///
/// # Errors
/// A malformed line, or a file without bindings.
pub fn mhclo(text: &str, vertices: usize) -> Result<Clothes, Malformed> {
    let mut out = Clothes::default();
    let mut binding = false;
    let index = |word: Option<&str>, line: usize| {
        let word = word.ok_or_else(|| malformed(line, "a vertex is missing"))?;
        match word.parse::<usize>() {
            Ok(vertex) if vertex < vertices => Ok(vertex as u32),
            _ => Err(malformed(line, format!("{word:?} is not a vertex of a body of {vertices}"))),
        }
    };
    for (line, content) in text.lines().enumerate() {
        let mut words = content.split_whitespace();
        let Some(first) = words.next() else { continue };
        if binding && first.parse::<u32>().is_ok() {
            let a = index(Some(first), line)?;
            let count = content.split_whitespace().count();
            out.bindings.push(if count == 1 {
                Binding { vertices: [a; 3], weights: [1.0, 0.0, 0.0], offset: [0.0; 3] }
            } else {
                let vertices = [a, index(words.next(), line)?, index(words.next(), line)?];
                Binding { vertices, weights: floats(&mut words, line)?, offset: floats(&mut words, line)? }
            });
            continue;
        }
        // Other keys may stand between "verts" and the bindings.
        binding = (binding || first == "verts") && first != "delete_verts";
        let axis = ["x_scale", "y_scale", "z_scale"].iter().position(|&key| key == first);
        if let Some(axis) = axis {
            let (a, b) = (index(words.next(), line)?, index(words.next(), line)?);
            let [distance] = floats(&mut words, line)?;
            out.scales[axis] = Some((a, b, distance));
        } else if first == "obj_file" {
            out.obj_file = words.next().unwrap_or_default().to_string();
        }
    }
    if out.bindings.is_empty() {
        return Err(malformed(text.lines().count(), "the file ends without \"verts\" and bindings"));
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CUBE: &str = "# made by hand\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0.5 0.25\ng left\nf 1/1 2/1 3/1 4/1\ng right\nf -1 -2 -3\n";

    #[test]
    fn an_obj_file_is_cut_into_triangles_by_group() {
        let mesh = obj(CUBE).unwrap();
        assert_eq!(mesh.vertices.len(), 4);
        assert_eq!(mesh.triangles, [[0, 1, 2], [0, 2, 3], [3, 2, 1]]);
        assert_eq!(mesh.faces_of(|g| g == "right"), [[3, 2, 1]]);
        assert_eq!(mesh.uv[2], [0.5, 0.25]);
    }

    #[test]
    fn malformed_lines_are_named() {
        for (text, line, word) in [
            ("v 0 0\n", 1, "3 numbers"),
            ("v 0 0 0\nf 1 2 9\n", 2, "index 2"),
            ("v 0 0 0\nf 1 1\n", 2, "three corners"),
            ("v 0 0 x\n", 1, "not a number"),
            ("v 0 0 nan\n", 1, "finite"),
            ("v 0 0 0\n", 2, "without a face"),
            ("version https://git-lfs.github.com/spec/v1\n", 1, "Git LFS"),
        ] {
            let error = obj(text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(target("# c\n\n7 0 0 0\n", 7).unwrap_err().line, 3);
        assert!(mhclo("verts 0\n1 2\n", 9).is_err());
        assert!(mhclo("name x\n", 9).is_err());
    }

    #[test]
    fn targets_clothes_rigs_and_weights_are_read() {
        assert_eq!(target("# c\n3 .1 -.5 0\n", 4).unwrap(), [(3, [0.1, -0.5, 0.0])]);
        let text = "obj_file a.obj\nx_scale 1 2 1.5\nverts 0\n3\n1 2 3 0.5 0.25 0.25 0 0.1 0\ndelete_verts\n1 - 2\n";
        let clothes = mhclo(text, 4).unwrap();
        assert_eq!(clothes.obj_file, "a.obj");
        assert_eq!(clothes.scales, [Some((1, 2, 1.5)), None, None]);
        assert_eq!(clothes.bindings.len(), 2);
        assert_eq!(clothes.bindings[1].offset, [0.0, 0.1, 0.0]);
        let bones = rig(br#"{"Hip": {"head": {"strategy": "CUBE", "cube_name": "j", "x": 1}, "parent": ""}}"#).unwrap();
        assert!(matches!(&bones["Hip"].head, Joint::Cube { cube_name } if cube_name == "j"));
        assert_eq!(weights(br#"{"weights": {"Hip": [[2, 0.5]]}}"#).unwrap()["Hip"], [(2, 0.5)]);
    }

    proptest! {
        #[test]
        fn nothing_makes_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = (obj(&text), target(&text, 9), mhclo(&text, 9), rig(&bytes), weights(&bytes));
        }

        #[test]
        fn nor_do_lines_of_the_right_shape(lines in prop::collection::vec("(v|vt|f|g|verts|x_scale|obj_file|[0-9]{1,3})( (-?[0-9]{1,2}(/[0-9]?)?|[.e-]{1,3}|1e39)){0,9}", 0..12)) {
            let text = lines.join("\n");
            if let Ok(mesh) = obj(&text) {
                prop_assert!(mesh.triangles.iter().flatten().all(|&v| (v as usize) < mesh.vertices.len()));
            }
            let _ = (target(&text, 9), mhclo(&text, 9));
        }
    }
}
