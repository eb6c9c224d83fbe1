//! `sightline reindex` over a data folder of an earlier version with its model: killed in the
//! middle and resumed. Until the new index is complete the former model answers, as recorded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sightline_embed::ModelFolder;
use sightline_testing::tiny_weights;

use crate::former_data::{Copied, Reopened, former};
use crate::support::tiny_model_with;

/// The data folder of the tiny model, with that model and a new one whose features are inverted,
/// and the id of the new one.
fn upgraded() -> (Copied, tempfile::TempDir, String) {
    let models = tempfile::tempdir().unwrap();
    let (new, old) = (models.path().join("default"), models.path().join("former"));
    let mut weights = tiny_weights();
    for (name, tensor) in &mut weights {
        if name.contains("vision_proj.weight") {
            *tensor = tensor.neg().unwrap();
        }
    }
    tiny_model_with(&new, &weights);
    fs::create_dir(&old).unwrap();
    for entry in fs::read_dir(former("tiny").join("model")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, old.join(path.file_name().unwrap())).unwrap();
    }
    let id = ModelFolder::open(&new).unwrap().id;
    (Copied::new("tiny", &new), models, id)
}

/// Returns the paths of the stored pictures, by id.
fn pictures(copied: &Copied) -> Vec<PathBuf> {
    let all = copied.recorded["pictures"].as_array().unwrap();
    let mut ids: Vec<&str> = all.iter().map(|p| p["sighting_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.into_iter().map(|id| copied.path("data/gallery/jpeg").join(&id[..3]).join(format!("{id}.jpg"))).collect()
}

/// Counts the files of patch features of this model.
fn embedded(copied: &Copied, model: &str) -> usize {
    let below = |path: &Path| fs::read_dir(path).map(|all| all.map(|e| e.unwrap().path()).collect::<Vec<_>>());
    let folders = below(&copied.path("data/gallery/patches").join(model)).unwrap_or_default();
    folders.iter().map(|folder| below(folder).unwrap().len()).sum()
}

fn reindex(copied: &Copied, args: &[&str]) -> Output {
    copied.command(&[&["reindex"], args].concat()).output().unwrap()
}

/// Returns the exit code and the outcome in JSON.
fn outcome(copied: &Copied, args: &[&str]) -> (Option<i32>, Value) {
    let output = reindex(copied, &[args, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}")))
}

/// Starts a reindex and kills it in the middle: one picture is a pipe that nobody writes to, where
/// the run blocks.
fn killed_in_the_middle(copied: &Copied, model: &str, picture: &Path) {
    let aside = picture.with_extension("aside");
    fs::rename(picture, &aside).unwrap();
    assert!(Command::new("mkfifo").arg(picture).status().unwrap().success());
    let mut command = copied.command(&["reindex"]);
    let mut child =
        command.env("SIGHTLINE__INDEX__BATCH", "4").stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    sightline_testing::until(Duration::from_secs(120), "it comes to the pipe", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it came to the pipe");
        embedded(copied, model) >= 12
    });
    // SIGKILL: no destructor and no flush runs.
    child.kill().unwrap();
    child.wait().unwrap();
    fs::rename(&aside, picture).unwrap();
}

#[test]
fn killed_and_resumed_everybody_is_found_by_the_new_model_and_until_then_by_the_former() {
    let (copied, _models, new) = upgraded();
    let pictures = pictures(&copied);
    assert_eq!(pictures.len(), 26);
    Reopened::start(&copied).check();

    killed_in_the_middle(&copied, &new, &pictures[13]);
    {
        let server = Reopened::start(&copied);
        server.check();
        let beside = reindex(&copied, &[]);
        let said = String::from_utf8(beside.stderr).unwrap();
        assert_eq!(beside.status.code(), Some(1));
        assert!(said.starts_with("error: another running Sightline uses data: stop it"), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }

    // A picture is missing: the new index does not take over, and the missing sighting is named.
    let aside = pictures[20].with_extension("aside");
    fs::rename(&pictures[20], &aside).unwrap();
    let (code, said) = outcome(&copied, &[]);
    assert_eq!((code, &said["finished"], &said["total"]), (Some(3), &json!(false), &json!(26)), "{said}");
    let found = said["found"].as_u64().unwrap();
    assert!((8..=12).contains(&found), "what was done before the kill is not done again: {said}");
    assert_eq!(said["embedded"], json!(25 - found), "{said}");
    assert_eq!(said["left_out"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(said["left_out"][0]["sighting"], json!(pictures[20].file_stem().unwrap().to_str().unwrap()));
    let text = reindex(&copied, &[]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("the former model goes on answering") && text.contains("--leave-out 1"), "{text}");
    fs::rename(&aside, &pictures[20]).unwrap();
    Reopened::start(&copied).check();

    let (code, said) = outcome(&copied, &[]);
    let expected = json!([true, 26, 25, 1, []]);
    let got = json!([said["finished"], said["total"], said["found"], said["embedded"], said["left_out"]]);
    assert_eq!((code, &got), (Some(0), &expected), "{said}");
    answers_with(&copied, &new);

    // Nothing is left to go back to.
    let (code, said) = outcome(&copied, &["--drop-former"]);
    assert_eq!((code, &said["dropped"]), (Some(0), &json!([copied.recorded["model"]])), "{said}");
    let left: Vec<_> = fs::read_dir(copied.path("data/vectors")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [new.as_str()]);
    answers_with(&copied, &new);
    let nothing = String::from_utf8(reindex(&copied, &[]).stdout).unwrap();
    assert!(nothing.starts_with("nothing to do"), "{nothing}");
}

/// Asserts that the new model finds every sighting unchanged, byte for byte, and has the patch
/// features of all.
fn answers_with(copied: &Copied, model: &str) {
    let server = Reopened::start(copied);
    assert_eq!(server.call("/readyz", None)["model"]["id"], json!(model));
    server.everybody_is_there();
    let found =
        server.call("/v1/search", Some(&json!({ "query": "a man in a white shirt", "limit": 50, "rerank": 50 })));
    assert_eq!(
        (found["results"].as_array().unwrap().len() + misses(&found), &found["degraded"]),
        (12, &json!([])),
        "{found}"
    );
}

fn misses(found: &Value) -> usize {
    found["nearest_misses"].as_array().map_or(0, Vec::len)
}

#[test]
fn pictures_may_be_done_without_when_it_is_said_so() {
    let (copied, _models, new) = upgraded();
    let pictures = pictures(&copied);
    fs::write(&pictures[2], b"\xff\xd8 no picture").unwrap();
    fs::remove_file(&pictures[5]).unwrap();
    assert_eq!(outcome(&copied, &["--leave-out", "1"]).0, Some(3), "more than were allowed for");
    let (code, said) = outcome(&copied, &["--leave-out", "2"]);
    assert_eq!((code, &said["finished"]), (Some(0), &json!(true)), "{said}");
    let mut named: Vec<&str> =
        said["left_out"].as_array().unwrap().iter().map(|l| l["sighting"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, [2, 5].map(|n: usize| pictures[n].file_stem().unwrap().to_str().unwrap()));
    {
        let server = Reopened::start(&copied);
        assert_eq!(server.call("/readyz", None)["model"]["id"], json!(new));
    }
    let (code, said) = outcome(&copied, &["--drop-former"]);
    assert_eq!(
        (code, &said["finished"], &said["dropped"]),
        (Some(3), &json!(true), &json!([])),
        "they are still there"
    );
    let (code, said) = outcome(&copied, &["--drop-former", "--leave-out", "2"]);
    assert_eq!((code, &said["dropped"]), (Some(0), &json!([copied.recorded["model"]])), "{said}");
    assert!(!pictures[2].exists(), "nobody could erase it any more");
}

#[test]
fn where_it_cannot_work_it_says_so() {
    let (copied, _models, _) = upgraded();
    let line = |output: Output| {
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.len(), said.trim_end().lines().count()),
            (Some(1), 0, 1),
            "{said}"
        );
        said
    };
    let server = copied.command(&["reindex"]).env("SIGHTLINE__VECTORS__STORE", "server").output().unwrap();
    assert!(line(server).contains("vectors.store"));
    let nowhere = copied.command(&["reindex"]).env("SIGHTLINE__DATA__FOLDER", "nowhere").output().unwrap();
    assert!(line(nowhere).contains("there is no data folder nowhere"));
    let empty = copied.path("empty");
    fs::create_dir(&empty).unwrap();
    let empty = copied.command(&["reindex"]).env("SIGHTLINE__DATA__FOLDER", &empty).output().unwrap();
    assert!(empty.status.success() && String::from_utf8(empty.stdout).unwrap().starts_with("nothing to do"));
}
