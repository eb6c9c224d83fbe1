//! `sightline-finetune eval` as a process: ranks with their intervals, phrases of labelled people,
//! and what it refuses.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::people::folder;
use crate::train_cli::{binary, said};

fn eval_with(model: &str, flags: &[&str]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(model);
    binary().args(["eval", "--model"]).arg(model).args(flags).output().expect("the binary starts")
}

fn eval(flags: &[&str]) -> Output {
    eval_with("former", flags)
}

fn json_with(model: &str, flags: &[&str]) -> Value {
    let output = eval_with(model, &[flags, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("a JSON object")
}

fn json(flags: &[&str]) -> Value {
    json_with("former", flags)
}

/// A model that judges phrases ranks by the probabilities that it serves: they are the local
/// scores, and the pictures outside the top K lie behind them.
#[test]
fn a_model_that_judges_phrases_is_ranked_as_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("scores.safetensors");
    let flags =
        ["--dataset", "synth", "--identities", "3", "--views", "1", "--k", "2", "--dump", dump.to_str().unwrap()];
    let found = json_with("default", &flags);
    assert_eq!((found["images"].as_u64(), found["k"].as_u64()), (Some(3), Some(2)));
    for measure in ["rank1", "rank5", "rank10", "map"] {
        let value = found["local"][measure].as_f64().expect("a number");
        assert!((0.0..=100.0).contains(&value), "{measure}: {value}");
    }
    assert_eq!(found["local"]["rank10"].as_f64(), Some(100.0), "all three pictures are ranked");
    let stored = candle_core::safetensors::load(&dump, &candle_core::Device::Cpu).unwrap();
    for row in stored["score_local"].to_vec2::<f32>().unwrap() {
        let (judged, others): (Vec<f32>, Vec<f32>) = row.iter().copied().partition(|score| (0.0..=1.0).contains(score));
        assert!(judged.len() == 2 && others.iter().all(|score| *score < 0.0), "{row:?}");
    }
}

#[test]
fn ranks_have_intervals_and_repeated_texts_count_once() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let file = root.path().join("reid_raw.json");
    let mut items: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut second = items[0].clone();
    second["file_path"] = items[1]["file_path"].clone();
    items.push(second);
    std::fs::write(&file, serde_json::to_vec(&items).unwrap()).unwrap();
    let path = root.path().to_str().unwrap();
    let found = json(&["--dataset", "cuhk-pedes", "--root", path, "--split", "train", "--k", "4"]);
    assert_eq!(
        (found["texts"].as_u64(), found["repeated_texts"].as_u64()),
        (Some(2 * items.len() as u64 - 2), Some(2))
    );
    for score in ["global", "local", "global_query_bank"] {
        for measure in ["rank1", "rank5", "rank10", "map"] {
            let value = found[score][measure].as_f64().expect("a number");
            let ends: Vec<f64> = serde_json::from_value(found["intervals"][score][measure].clone()).expect("two ends");
            assert!(ends[0] <= value && value <= ends[1], "{score} {measure}: {value} in {ends:?}");
        }
    }
}

/// Counts are those of the labels; whether the areas are right, `separation` tests.
#[test]
fn phrases_of_labelled_people_are_listed_with_their_counts() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let labels: Vec<Value> = serde_json::from_slice(&std::fs::read(root.path().join("labels.json")).unwrap()).unwrap();
    let sex = |sex: &str| labels.iter().filter(|label| label["normalised"]["sex"] == sex).count();
    let path = root.path().to_str().unwrap();
    let flags = ["--phrases", "--dataset", "cuhk-pedes", "--root", path, "--split", "train"];
    let found = json(&flags);
    let phrases = found["phrases"]["global"]["phrases"].as_array().expect("phrases");
    assert_eq!((phrases.len(), found["images"].as_u64()), (23, Some(labels.len() as u64)));
    let man = &phrases[0];
    assert_eq!((&man["text"], &man["asks"]), (&"a man".into(), &"kind".into()));
    assert_eq!(man["positives"].as_u64(), Some(sex("male") as u64));
    assert_eq!(man["known"].as_u64(), Some((sex("male") + sex("female")) as u64));
    for score in ["global", "local"] {
        let area = found["phrases"][score]["phrases"][0]["auc"].as_f64().expect("counted");
        assert!((0.0..=1.0).contains(&area));
        for mean in found["phrases"][score]["means"].as_array().expect("means") {
            let ends: Vec<f64> = serde_json::from_value(mean["interval"].clone()).expect("two ends");
            let auc = mean["auc"].as_f64().expect("a number");
            assert!(ends[0] <= auc && auc <= ends[1], "{mean}");
        }
    }
    let groups = found["phrases"]["global"]["groups"].as_array().expect("groups");
    let oi = labels.iter().filter(|label| label["group"] == "oi").count();
    assert!(groups.iter().any(|group| group["name"] == "oi" && group["pictures"].as_u64() == Some(oi as u64)));
    let text = eval(&flags);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in
        ["| a man ", "kinds, mean of", "left out, true or false of fewer than 5 pictures:", "oi: kinds, mean of"]
    {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    std::fs::remove_file(root.path().join("labels.json")).unwrap();
    assert!(said(&eval(&flags)).contains("phrases need labels"));
}

/// Figures have their form and their bounds; whether they are right, `explain` tests on pictures
/// that are known.
#[test]
fn explanations_are_held_against_chance() {
    let flags = ["--explain", "--dataset", "synth", "--identities", "3", "--views", "1"];
    let found = &json(&flags)["explain"];
    assert_eq!((found["persons"].as_u64(), found["pictures"].as_u64()), (Some(3), Some(3)));
    assert_eq!((found["patches"].as_u64(), found["blanked"].as_u64()), (Some(32), Some(4)));
    let methods = found["methods"].as_array().expect("methods");
    assert_eq!(methods.iter().filter(|method| method["default"] == true).count(), 1);
    for method in methods {
        let pointing = &method["pointing"];
        let cases = pointing["cases"].as_u64().expect("a number");
        assert!(cases >= 3 && method["phrase_deletion"]["cases"].as_u64() == Some(cases), "{method}");
        assert_eq!(method["match_deletion"]["cases"].as_u64(), Some(3));
        let share = |name: &str| pointing[name].as_f64().expect("a number");
        assert!((0.0..=1.0).contains(&share("reached")) && (0.005..0.9).contains(&share("chance")), "{pointing}");
        assert_eq!(method["pointing_alone"]["cases"].as_u64(), Some(3));
        assert!(method["pointing_swapped"]["cases"].as_u64().is_some_and(|some| 0 < some && some <= cases), "{method}");
        let parts = method["parts"].as_array().expect("parts");
        assert_eq!(parts.iter().filter_map(|part| part["pointing"]["cases"].as_u64()).sum::<u64>(), cases);
    }
    let text = eval(&flags);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in ["(serves): pointing", "deletion, phrases", "deletion, match", "layers: lower", "4 strongest of 32"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let e = said(&eval(&["--explain", "--dataset", "cuhk-pedes", "--root", "."]));
    assert!(e.contains("no drawn persons"), "{e}");
    let e = said(&eval(&["--explain", "--phrases", "--dataset", "synth"]));
    assert!(e.contains("cannot be used with"), "{e}");
}

#[test]
fn people_are_evaluated_by_the_parts_that_are_held_out() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let path = root.path().to_str().unwrap();
    let texts = |part: &str| json(&["--dataset", part, "--root", path, "--k", "2"])["texts"].as_u64();
    assert_eq!((texts("people-stop"), texts("people-calibrate")), (Some(8), Some(4)));
    let e = said(&eval(&["--dataset", "people", "--root", path]));
    assert!(e.contains("people-stop, people-calibrate or synth"), "{e}");
    let e = said(&eval(&["--dataset", "people-stop", "--root", path, "--split", "train"]));
    assert!(e.contains("no --split"), "{e}");
}

/// The command finds its training persons, stops by the first half of those held out and learns
/// from none of them.
#[test]
fn a_run_on_people_is_validated_on_those_held_out() {
    let folders = tempfile::tempdir().unwrap();
    let (root, run) = (folders.path().join("people"), folders.path().join("run"));
    folder(&root);
    let people = format!("people:{}", root.display());
    let flags = ["--data", "synth:16x2", "--data", &people, "--steps", "2", "--validate-k", "2"];
    let done = crate::train_cli::train(&run, &flags);
    let e = said(&done);
    assert_eq!(done.status.code(), Some(0), "{e}");
    assert!(e.contains("validation on people-stop:") && e.contains("8 texts, 4 pictures"), "{e}");
    let recipe: Value = serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
    assert!(recipe.to_string().contains("people:"), "{recipe}");
    for (flag, wrong) in [("--data", "people-stop"), ("--validate", "people")] {
        let spec = format!("{wrong}:{}", root.display());
        let refused = crate::train_cli::train(&folders.path().join(wrong), &["--data", &people, flag, &spec]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("held out") || said(&refused).contains("kept back"), "{}", said(&refused));
    }
}
