//! `sightline` on real footage, killed in the middle: nothing acknowledged is lost, nothing appears
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sightline_testing::{Process, repository, until_some};

use crate::support::token_of;

/// Time limit of every wait: far above the usual duration, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// A configuration whose one camera plays the demo's footage as fast as the machine can, at 2
/// frames per second of footage.
fn config(data: &Path) -> PathBuf {
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nrate_per_minute = 100000\n[data]\nfolder = {data:?}\n[detect]\nweights = {weights:?}\n\
         [[cameras]]\nid = \"corridor\"\nurl = \"file:{footage}\"\nfps = 2.0\nrealtime = false\n\
         start_time = \"2026-05-01T08:00:00Z\"\n",
        weights = repository("models/nanodet-g.safetensors"),
        footage = repository("docker/demo/one-by-one-person-detection.mp4").display(),
    );
    let path = data.with_extension("toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// A running `sightline serve`.
struct Program {
    process: Process,
    token: String,
}

impl Program {
    fn start(config: &Path) -> Self {
        let process =
            Process::start(Command::new(env!("CARGO_BIN_EXE_sightline")).args(["serve", "--config"]).arg(config));
        let token = token_of(&process).to_owned();
        Self { process, token }
    }

    /// Makes a request that must succeed.
    fn call(&self, path: &str, body: Option<&Value>) -> Value {
        let url = format!("{}{path}", self.process.url());
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

    /// Returns every picture that a search finds: id -> track. While footage is indexed, a later
    /// picture may replace one between two requests; then it asks again.
    fn pictures(&self) -> BTreeMap<String, String> {
        let found = self.call("/v1/search", Some(&json!({ "query": "a person", "limit": 200, "rerank": 0 })));
        assert_eq!(found["next_cursor"], Value::Null, "one page holds all");
        let mut all = BTreeMap::new();
        for hit in found["results"].as_array().unwrap() {
            let one = self.call(&format!("/v1/sightings/{}", hit["sighting_id"].as_str().unwrap()), None);
            for p in one["track"].as_array().unwrap() {
                let id = p["sighting_id"].as_str().unwrap().to_owned();
                let bearer = format!("Bearer {}", self.token);
                let url = format!("{}{}", self.process.url(), p["thumbnail"].as_str().unwrap());
                let jpeg = match ureq::get(&url).header("authorization", &bearer).call() {
                    Err(ureq::Error::StatusCode(404)) => return self.pictures(),
                    answer => answer.unwrap().body_mut().read_to_vec().unwrap(),
                };
                assert!(jpeg.starts_with(&[0xff, 0xd8]), "a JPEG for {id}");
                all.insert(id, one["track_id"].as_str().unwrap().to_owned());
            }
        }
        all
    }

    fn wait<T>(&self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        until_some(PATIENCE, what, || ready(self))
    }

    /// Waits until the footage has ended and all of it is searchable.
    fn wait_for_the_end(&self) {
        self.wait("the end of the footage", |p| (p.camera()["state"] == "ended").then_some(()));
    }
}

#[test]
fn killed_in_the_middle_nothing_acknowledged_is_lost_and_nothing_is_double() {
    let dir = tempfile::tempdir().unwrap();
    let undisturbed = {
        let program = Program::start(&config(&dir.path().join("undisturbed")));
        program.wait_for_the_end();
        program.pictures()
    };
    assert!(undisturbed.len() >= 5, "the footage shows people: {undisturbed:?}");

    let config = config(&dir.path().join("killed"));
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
        program.process.kill_9();
    }
    let program = Program::start(&config);
    program.wait_for_the_end();
    let after = program.pictures();
    println!("undisturbed {}, after four kills {}", undisturbed.len(), after.len());
    assert_eq!(after, undisturbed, "the same pictures of the same tracks, each once");
}
