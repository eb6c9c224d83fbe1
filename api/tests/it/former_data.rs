//! Data of an earlier version opens and answers as it did: a model folder that `sightline-finetune
//! import` wrote, and the data folders that `sightline serve` left behind, one of that model and
//! one of the shipped one. `recorded.json` beside each holds the answers of that version;
//! tests/golden/former/README.md says how all of it was made, and what to do when a test fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sightline_testing::{Process, repository};

/// Tolerance of a score. Both versions compute in f32; another CPU, or another order of the sums,
/// moves cosines by some 1e-7 and the steepest calibrated probability by some 1e-5.
const TOLERANCE: f64 = 1e-4;

#[test]
fn an_imported_model_and_its_data_answer_as_before() {
    let folder = former("tiny").join("model");
    Reopened::start(&Copied::new("tiny", &folder)).check();
}

#[test]
fn data_of_the_shipped_model_answers_as_before() {
    Reopened::start(&Copied::new("default", &repository("embed/models/former"))).check();
}

pub fn former(name: &str) -> PathBuf {
    repository("api/tests/golden/former").join(name)
}

/// Copies a folder; files named in `sizes` get back the zeros that were cut off their ends.
fn restore(from: &Path, to: &Path, sizes: &Value) {
    let mut left = vec![PathBuf::new()];
    while let Some(inside) = left.pop() {
        fs::create_dir_all(to.join(&inside)).unwrap();
        for entry in fs::read_dir(from.join(&inside)).unwrap() {
            let entry = entry.unwrap();
            let path = inside.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                left.push(path);
                continue;
            }
            fs::write(to.join(&path), fs::read(entry.path()).unwrap()).unwrap();
            if let Some(size) = sizes[path.to_str().unwrap()].as_u64() {
                File::options().write(true).open(to.join(&path)).unwrap().set_len(size).unwrap();
            }
        }
    }
}

/// A copy of a data folder with a configuration for it, without cameras.
pub struct Copied {
    pub recorded: Value,
    name: String,
    dir: tempfile::TempDir,
}

impl Copied {
    /// Copies the data folder `name`, to be opened with `model`.
    pub fn new(name: &str, model: &Path) -> Self {
        let text = fs::read_to_string(former(name).join("recorded.json")).unwrap();
        let recorded: Value = serde_json::from_str(&text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        restore(&former(name).join("data"), &dir.path().join("data"), &recorded["sizes"]);
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data\"\n[model]\nfolder = {model:?}\n\
             [audit]\nretention_days = 0.0\n[detect]\nweights = {:?}\n",
            repository("models/nanodet-g.safetensors"),
        );
        fs::write(dir.path().join("sightline.toml"), config).unwrap();
        Self { recorded, name: name.to_owned(), dir }
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// Returns the program with the settings that the data folder was recorded with.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sightline"));
        command.args(args).args(["--config", "sightline.toml"]).current_dir(self.dir.path()).env_clear();
        command.env("SIGHTLINE_LOG", "warn").env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // GStreamer's registry cache belongs into the test's own folder.
        command.env("HOME", self.dir.path());
        for (section, keys) in self.recorded["settings"].as_object().unwrap() {
            for (key, value) in keys.as_object().unwrap() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                command.env(format!("SIGHTLINE__{section}__{key}").to_uppercase(), value);
            }
        }
        command
    }
}

/// `sightline serve` over a copy of the data folder; killed on drop.
pub struct Reopened<'a> {
    recorded: &'a Value,
    process: Process,
}

impl<'a> Reopened<'a> {
    pub fn start(copied: &'a Copied) -> Self {
        let Copied { recorded, name, .. } = copied;
        let mut command = copied.command(&["serve"]);
        let said = File::create(copied.path("stderr")).unwrap();
        let process = Process::try_start(command.stderr(said)).unwrap_or_else(|problem| {
            let said = fs::read_to_string(copied.path("stderr")).unwrap();
            panic!("the data folder {name:?} of an earlier version cannot be opened: {problem}\n{said}")
        });
        Self { recorded, process }
    }

    /// Makes a request that must succeed, with the token that the earlier version created.
    fn raw(&self, path: &str, body: Option<&Value>) -> Vec<u8> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let url = format!("{}{path}", self.process.url());
        let bearer = format!("Bearer {}", self.recorded["token"].as_str().unwrap());
        let response = match body {
            Some(body) => agent.post(&url).header("authorization", &bearer).send_json(body),
            None => agent.get(&url).header("authorization", &bearer).call(),
        };
        let mut response = response.unwrap_or_else(|e| panic!("{path}: {e}"));
        let content = response.body_mut().read_to_vec().unwrap();
        assert_eq!(response.status(), 200, "{path}: {}", String::from_utf8_lossy(&content));
        content
    }

    pub fn call(&self, path: &str, body: Option<&Value>) -> Value {
        serde_json::from_slice(&self.raw(path, body)).unwrap()
    }

    fn thumbnail(&self, id: &str) -> Vec<u8> {
        self.raw(&format!("/v1/sightings/{id}/thumbnail.jpg"), None)
    }

    /// Asserts that everything is as recorded.
    pub fn check(&self) {
        let (now, then) = (self.call("/readyz", None), &self.recorded["model"]);
        assert_eq!(&now["model"]["id"], then, "the model has another id: whoever was indexed with it is not found");
        self.everybody_is_there();
        let pictures = by_id(&self.recorded["pictures"]);
        for search in self.recorded["searches"].as_array().unwrap() {
            self.answers_as_before(search, &pictures);
        }
        // Cameras that left the configuration are kept because of their footage; the audit trail
        // continues.
        let cameras = self.call("/v1/cameras", None);
        let archived = |c: &Value| (c["id"].as_str().unwrap().to_owned(), c["archived"] == json!(true));
        let cameras: BTreeMap<String, bool> = cameras["cameras"].as_array().unwrap().iter().map(archived).collect();
        assert_eq!(cameras, [("corridor".to_owned(), true), ("entrance".to_owned(), true)].into());
        let trail = self.call("/v1/audit?verify=true&limit=1000", None);
        assert_eq!(trail["chain"]["intact"], true, "{}", trail["chain"]);
        let records = trail["records"].as_array().unwrap();
        assert!(records.iter().any(|r| r["purpose"] == "made by the version before"), "{trail}");
    }

    /// Asserts that exactly the recorded pictures are there, with their metadata, byte for byte.
    pub fn everybody_is_there(&self) {
        let pictures = by_id(&self.recorded["pictures"]);
        let all = self.call("/v1/search", Some(&json!({ "query": "a person", "limit": 200, "rerank": 0 })));
        let mut found = BTreeSet::new();
        for hit in all["results"].as_array().unwrap() {
            let one = self.call(&format!("/v1/sightings/{}", hit["sighting_id"].as_str().unwrap()), None);
            found.extend(ids(&one["track"]));
        }
        assert_eq!(found, pictures.keys().map(|id| (*id).to_owned()).collect(), "the sightings that are stored");
        for (id, picture) in &pictures {
            let mut now = self.call(&format!("/v1/sightings/{id}"), None);
            now["track"] = json!(ids(&now["track"]));
            let jpeg = Sha256::digest(self.thumbnail(id));
            now["sha256"] = json!(jpeg.iter().map(|b| format!("{b:02x}")).collect::<String>());
            assert_same(picture, &now, id);
        }
    }

    fn answers_as_before(&self, search: &Value, pictures: &BTreeMap<&str, &Value>) {
        let (request, then) = (&search["request"], &search["answer"]);
        let mut body = request.clone();
        if let Some(id) = body.as_object_mut().unwrap().remove("image_of") {
            body["image"] = json!(STANDARD.encode(self.thumbnail(id.as_str().unwrap())));
        }
        let mut now = self.call("/v1/search", Some(&body));
        // An answer without a note means that the patch features of every candidate were read.
        let notes = now["degraded"].as_array().unwrap();
        assert_eq!(json!(notes.len()), then["degraded"], "notes on {request}: {notes:?}");
        now["more"] = json!(!now["next_cursor"].is_null());
        if request.get("from").or(request.get("to")).is_some() {
            // Since then a time finds whoever was in view, wherever in it the pictures were taken.
            let track = |hit: &Value| pictures[hit["sighting_id"].as_str().unwrap()]["track_id"].clone();
            let tracks = |answer: &Value| answer["results"].as_array().unwrap().iter().map(track).collect::<Vec<_>>();
            let (before, found) = (tracks(then), tracks(&now));
            assert!(before.iter().all(|t| found.contains(t)), "{request}: {before:?}, then {found:?}");
            return;
        }
        for list in ["results", "nearest_misses"] {
            let now = now.get(list).cloned().unwrap_or_else(|| json!([]));
            same_hits(&then[list], &now, pictures, request);
        }
        assert_same(&then["coverage"], &now["coverage"], &format!("coverage of {request}"));
        // Since then doubt hides no further page, and where nothing was judged nothing is claimed.
        let judged = ["results", "nearest_misses"].iter().any(|list| !then[list][0]["probability"].is_null());
        let confident = if judged { then["confident"].clone() } else { Value::Null };
        assert_same(&confident, &now["confident"], &format!("confident of {request}"));
        assert!(now["more"] == json!(true) || then["more"] == json!(false), "more of {request}");
    }
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    list.as_array().unwrap().iter().map(|v| (v["sighting_id"].as_str().unwrap(), v)).collect()
}

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|v| v["sighting_id"].as_str().unwrap().to_owned()).collect()
}

/// Asserts the same pictures with the same scores, in the same order except for equal scores.
fn same_hits(then: &Value, now: &Value, pictures: &BTreeMap<&str, &Value>, request: &Value) {
    let (order, before) = (ids(then), by_id(then));
    let found = ids(now);
    let equal = |a: &str, b: &str| {
        let score = |id: &str| before.get(id).and_then(|h| h["score"].as_f64());
        let near = score(a).zip(score(b)).is_some_and(|(a, b)| (a - b).abs() <= TOLERANCE);
        a == b || near && request["sort"] != "time"
    };
    let ordered = found.len() == order.len() && order.iter().zip(&found).all(|(a, b)| equal(a, b));
    let complete = found.iter().collect::<BTreeSet<_>>() == order.iter().collect();
    assert!(ordered && complete, "{request}: before {order:#?}, now {found:#?}");
    for (id, hit) in by_id(now) {
        assert_same(before[id], hit, &format!("{id} of {request}"));
        for part in ["camera", "track_id", "first_seen", "last_seen", "captured_at", "box"] {
            assert_same(&pictures[id][part], &hit[part], &format!("{part} of {id} of {request}"));
        }
    }
}

/// Asserts that `now` contains everything in `then`; numbers may differ by [`TOLERANCE`].
fn assert_same(then: &Value, now: &Value, what: &str) {
    match (then, now) {
        (Value::Object(parts), Value::Object(_)) => {
            parts.iter().for_each(|(key, part)| assert_same(part, &now[key], &format!("{key} of {what}")));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| assert_same(a, b, what));
        }
        (Value::Number(a), Value::Number(b)) => {
            let off = (a.as_f64().unwrap() - b.as_f64().unwrap()).abs();
            assert!(off <= TOLERANCE, "{what}: before {a}, now {b}");
        }
        _ => assert_eq!(then, now, "{what}: left is before, right is now"),
    }
}
