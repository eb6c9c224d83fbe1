//! The program `sightline` itself, run as an operator runs it: on footage, killed in the middle, fed with bad input.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for anything here: far above what it takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A configuration whose one camera plays the demo's footage as fast as the machine can, 2 frames a second of it.
fn config(data: &Path, extra: &str) -> PathBuf {
    let root = repository();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nrate_per_minute = 100000\n[data]\nfolder = {data:?}\n[detect]\nweights = {weights:?}\n{extra}\n\
         [[cameras]]\nid = \"corridor\"\nurl = \"file:{footage}\"\nfps = 2.0\nrealtime = false\n\
         start_time = \"2026-05-01T08:00:00Z\"\n",
        weights = root.join("models/nanodet-g.safetensors"),
        footage = root.join("docker/demo/one-by-one-person-detection.mp4").display(),
    );
    let path = data.with_extension("toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// A running `sightline serve`.
struct Program {
    child: Child,
    base: String,
    token: String,
}

impl Program {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sightline"))
            .args(["serve", "--config"])
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("Sightline is ready: ").unwrap_or_else(|| panic!("not ready: {line:?}")).trim();
        let (base, token) = address.split_once("/?token=").unwrap();
        Self { base: base.to_owned(), token: token.to_owned(), child }
    }

    /// A request that must succeed.
    fn call(&self, path: &str, body: Option<&Value>) -> Value {
        let url = format!("{}{path}", self.base);
        let bearer = format!("Bearer {}", self.token);
        let response = match body {
            Some(body) => ureq::post(&url).header("authorization", &bearer).send_json(body),
            None => ureq::get(&url).header("authorization", &bearer).call(),
        };
        response.unwrap_or_else(|e| panic!("{path}: {e}")).body_mut().read_json().unwrap()
    }

    fn camera(&self) -> Value {
        self.call("/v1/cameras/corridor", None)
    }

    /// Every picture that a search finds: id -> track.
    fn pictures(&self) -> BTreeMap<String, String> {
        let found = self.call("/v1/search", Some(&json!({ "query": "a person", "limit": 200, "rerank": 0 })));
        assert_eq!(found["next_cursor"], Value::Null, "one page holds all");
        let mut all = BTreeMap::new();
        for hit in found["results"].as_array().unwrap().iter().chain(found["nearest_misses"].as_array().unwrap()) {
            let one = self.call(&format!("/v1/sightings/{}", hit["sighting_id"].as_str().unwrap()), None);
            for p in one["track"].as_array().unwrap() {
                let id = p["sighting_id"].as_str().unwrap().to_owned();
                let bearer = format!("Bearer {}", self.token);
                let url = format!("{}{}", self.base, p["thumbnail"].as_str().unwrap());
                let jpeg = ureq::get(&url).header("authorization", &bearer).call().unwrap().body_mut().read_to_vec();
                assert!(jpeg.unwrap().starts_with(&[0xff, 0xd8]), "a JPEG for {id}");
                all.insert(id, one["track_id"].as_str().unwrap().to_owned());
            }
        }
        all
    }

    fn wait<T>(&self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(v) = ready(self) {
                return v;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {}", self.camera());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the footage has ended and all of it is searchable.
    fn wait_for_the_end(&self) {
        self.wait("the end of the footage", |p| (p.camera()["state"] == "ended").then_some(()));
    }

    fn kill(mut self) {
        // SIGKILL: no destructor, no flush, no goodbye.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn killed_in_the_middle_nothing_acknowledged_is_lost_and_nothing_is_double() {
    let dir = tempfile::tempdir().unwrap();
    let undisturbed = {
        let program = Program::start(&config(&dir.path().join("undisturbed"), ""));
        program.wait_for_the_end();
        program.pictures()
    };
    assert!(undisturbed.len() >= 5, "the footage shows people: {undisturbed:?}");

    let config = config(&dir.path().join("killed"), "");
    let mut acknowledged = BTreeSet::new();
    for round in 1..=4 {
        let program = Program::start(&config);
        let before = program.pictures();
        let lost: Vec<_> = acknowledged.iter().filter(|id| !before.contains_key(*id)).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
        // Each round is killed somewhat later in the footage than the one before.
        let target = undisturbed.len() * round / 5;
        let seen = program.wait("more pictures", |p| {
            let now = p.pictures();
            (now.len() >= target.max(1) || p.camera()["state"] == "ended").then_some(now)
        });
        println!("round {round}: {} acknowledged before the kill", seen.len());
        acknowledged.extend(seen.into_keys());
        program.kill();
    }
    let program = Program::start(&config);
    program.wait_for_the_end();
    let after = program.pictures();
    println!("undisturbed {}, after four kills {}", undisturbed.len(), after.len());
    assert_eq!(after, undisturbed, "the same pictures of the same tracks, each once");
}

fn sightline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sightline")).args(args).current_dir(repository()).output().unwrap()
}

/// The program fails with exit code 1 and one line that contains `what`.
fn fails(config: &Path, what: &str) {
    let out = sightline(&["serve", "--config", config.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&out.stderr);
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(errors.len() == 1 && errors[0].contains(what), "expected {what:?} in one line, got:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_broken_model_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let shipped = repository().join("embed/models/default");
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(shipped.join(file), model.join(file)).unwrap();
    }
    let section = format!("[model]\nfolder = {model:?}\n");
    let config = config(&dir.path().join("data"), &section);

    fails(&config, "model.safetensors");
    std::fs::write(model.join("model.safetensors"), b"").unwrap();
    fails(&config, "empty");

    // Another width than the tensors have: every shape is checked, and the message names tensor and both shapes.
    std::fs::copy(shipped.join("model.safetensors"), model.join("model.safetensors")).unwrap();
    let text = std::fs::read_to_string(shipped.join("config.json")).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    let width = &mut changed["architecture"]["embed_dim"];
    *width = json!(width.as_u64().unwrap() + 8);
    std::fs::write(model.join("config.json"), changed.to_string()).unwrap();
    fails(&config, "proj");
}

#[test]
fn detect_prints_one_line_an_image() {
    let root = repository();
    let picture = root.join("detect/tests/golden/vtest_100.png");
    let out = sightline(&["detect", "--json", picture.to_str().unwrap(), "no-such-picture.png"]);
    assert_eq!(out.status.code(), Some(1), "one of two failed");
    let lines: Vec<Value> =
        String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["image"], picture.to_str().unwrap());
    let persons = lines[0]["persons"].as_array().unwrap();
    assert_eq!(persons.len(), 6, "{persons:?}");
    assert!(persons.iter().all(|p| p["box"].as_array().unwrap().len() == 4 && p["score"].as_f64().unwrap() >= 0.35));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no-such-picture.png"));
}
