//! The log and the curves of a run folder.
//!
//! ```text
//! run.json               settings (written by the command that starts the run)
//! log.jsonl              one line per report
//! curves.svg             losses, learning rate and ranks over the steps
//! checkpoint/            state to resume from
//! best/                  weights of the best validation so far
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::plot::{self, Curve, Panel};
use super::{Result, TrainError, atomic};

/// The log of a run, open for appending.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens `run`/log.jsonl. Lines after `step`, which a killed run wrote after its last
    /// checkpoint, are removed: the resumed run writes them again.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(run: &Path, step: usize) -> Result<Self> {
        let path = run.join("log.jsonl");
        if path.is_file() {
            let kept: String = lines(&path)?
                .iter()
                .filter(|line| line["step"].as_u64().is_none_or(|at| at as usize <= step))
                .map(|line| format!("{line}\n"))
                .collect();
            atomic::file(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(TrainError::io(&path))?;
        Ok(Self { path, file })
    }

    /// Appends `line`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, line: &Value) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(TrainError::io(&self.path))
    }
}

/// Lines of a log. A line that a kill cut short is skipped.
fn lines(path: &Path) -> Result<Vec<Value>> {
    let bytes = std::fs::read(path).map_err(TrainError::io(path))?;
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Fields of a line that are not losses.
const NOT_A_LOSS: [&str; 9] = ["step", "steps", "planned_steps", "fall", "ms", "lr", "norm", "pairs_per_s", "eta_min"];

/// Draws `run`/curves.svg from the log.
///
/// # Errors
/// A log that cannot be read, or a plot that cannot be written.
pub fn curves(run: &Path) -> Result<()> {
    let lines = lines(&run.join("log.jsonl"))?;
    let mut losses: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut ranks: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut rate = Vec::new();
    for line in &lines {
        let Some(step) = line["step"].as_f64() else { continue };
        if let Some(lr) = line["lr"].as_f64() {
            rate.push((step, lr));
        }
        for (name, value) in line.as_object().into_iter().flatten() {
            if let Some(value) = value.as_f64().filter(|_| !NOT_A_LOSS.contains(&name.as_str())) {
                losses.entry(name.clone()).or_default().push((step, value));
            }
        }
        for protocol in ["global", "local", "served"] {
            for (field, name) in [("rank1", "Rank-1"), ("map", "mAP")] {
                if let Some(value) = line["validation"][protocol][field].as_f64() {
                    ranks.entry(format!("{protocol} {name}")).or_default().push((step, value));
                }
            }
        }
    }
    let all = |curves: BTreeMap<String, Vec<(f64, f64)>>| -> Vec<Curve> {
        curves.into_iter().map(|(name, points)| Curve::new(name, points)).collect()
    };
    let panel =
        |title: &str, y: &str, curves: Vec<Curve>| Panel { title: title.into(), x: "step".into(), y: y.into(), curves };
    let mut panels = vec![panel("Losses", "nats", all(losses))];
    if !ranks.is_empty() {
        panels.push(panel("Validation", "%", all(ranks)));
    }
    panels.push(panel("Learning rate", "", vec![Curve::new("lr", rate)]));
    plot::curves(&run.join("curves.svg"), &panels)
}

/// Settings in which `old` and `new` differ, as `a.b: old, now new`; paths in `except` are skipped.
pub fn differences(old: &Value, new: &Value, except: &[&str]) -> Vec<String> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    flatten(String::new(), old, &mut a);
    flatten(String::new(), new, &mut b);
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    let absent = Value::Null;
    keys.into_iter()
        .filter(|key| !except.contains(&key.as_str()))
        .filter_map(|key| {
            let (old, new) = (a.get(key).unwrap_or(&absent), b.get(key).unwrap_or(&absent));
            (old != new).then(|| format!("{key}: {old}, now {new}"))
        })
        .collect()
}

fn flatten(path: String, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                flatten(if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, into);
            }
        }
        other => {
            into.insert(path, other.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_resumed_log_goes_on_at_its_step() {
        let run = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(run.path(), 0).expect("opens");
        for step in 1..=5 {
            let line = json!({"step": step, "loss": 9.0 / f64::from(step), "ndf": 1.0, "lr": 0.1, "right": [1, 2]});
            log.write(&line).expect("written");
        }
        log.write(&json!({"step": 4, "validation": {"global": {"rank1": 10.0, "map": 5.0}, "local": null}}))
            .expect("written");
        drop(log);
        let path = run.path().join("log.jsonl");
        let mut text = std::fs::read_to_string(&path).expect("there");
        text += "{\"step\": 6, \"lo";
        std::fs::write(&path, text).expect("written");
        let mut log = Log::open(run.path(), 4).expect("opens");
        log.write(&json!({"step": 5, "loss": 1.0})).expect("written");
        let steps: Vec<_> = lines(&path).expect("read").iter().filter_map(|l| l["step"].as_u64()).collect();
        assert_eq!(steps, [1, 2, 3, 4, 4, 5]);
        curves(run.path()).expect("drawn");
        let svg = std::fs::read_to_string(run.path().join("curves.svg")).expect("there");
        assert!(["ndf", "Validation", "global Rank-1", "Learning rate"].iter().all(|t| svg.contains(t)));
    }

    #[test]
    fn differing_settings_are_named() {
        let old = json!({"a": {"b": 1, "c": [1]}, "d": "x", "steps": 5});
        let new = json!({"a": {"b": 2, "c": [1]}, "e": null, "d": "x", "steps": 6});
        assert_eq!(differences(&old, &new, &["steps"]), ["a.b: 1, now 2"]);
        assert_eq!(differences(&old, &old, &[]), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_log_is_read_without_a_panic(bytes: Vec<u8>, step: usize) {
            let run = tempfile::tempdir().expect("a folder");
            std::fs::write(run.path().join("log.jsonl"), &bytes).expect("written");
            Log::open(run.path(), step).expect("opens");
            curves(run.path()).expect("drawn");
        }
    }
}
