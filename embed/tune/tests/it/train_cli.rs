//! `sightline-finetune train` as a process: run folder, resuming, Ctrl-C, a full disk, bad data.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sightline_embed::ModelFolder;
use sightline_embed::model::{WordHead, WordPredictor};
use sightline_tune::checkpoint;

use crate::train_run::dataset;

/// The binary beside this test's folder. (Its variable CARGO_BIN_EXE_sightline-finetune does not
/// reach the compiler through a shell: shells drop names with hyphens.)
pub fn binary() -> Command {
    let test = std::env::current_exe().expect("a test has a file");
    let folder = test.ancestors().nth(2).expect("in target/PROFILE/deps");
    Command::new(folder.join("sightline-finetune"))
}

/// Flags of a run that is as small as one can be.
fn flags(run: &Path, more: &[&str]) -> Vec<String> {
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/former/tokenizer.json");
    let small = "train --preset quick --json --image 32x16 --patch 8 --width 64 --vision-layers 1 --text-layers 1 --batch 8 \
                 --warmup 1 --fall 0 --atp-from 1 --atp-pairs 4 --ara-from 1 --ara-pairs 4";
    let mut all: Vec<String> = small.split_whitespace().map(str::to_owned).collect();
    all.extend(["--run".into(), run.display().to_string(), "--tokenizer".into(), tokenizer.display().to_string()]);
    all.extend(more.iter().map(|flag| (*flag).to_owned()));
    all
}

pub fn train(run: &Path, more: &[&str]) -> Output {
    binary().args(flags(run, more)).output().expect("the binary starts")
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const DRAWN: [&str; 4] = ["--data", "synth:16x2", "--validate", "none"];

#[test]
fn a_run_folder_is_complete_and_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let judged = ["--data", "synth:16x2", "--validate", "synth:6x2", "--validate-k", "4", "--validate-every", "2"];
    let four = [&judged[..], &["--steps", "4"]].concat();
    let done = train(&run, &four);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    for name in
        ["run.json", "log.jsonl", "curves.svg", "checkpoint/state.json", "best/best.json", "model/selftest.safetensors"]
    {
        assert!(run.join(name).is_file(), "{name}");
    }
    let model = ModelFolder::open(&run.join("model")).expect("a whole model folder");
    assert_eq!(model.config.provenance["recipe"]["data"][0], "synth:16x2");
    let tied = WordHead { predictor: WordPredictor::Tied, causal: false };
    assert!(model.config.word_head == Some(tied) && model.word_head().is_file());
    assert!(model.config.provenance["chosen_by_validation"]["local"]["rank1"].is_number());
    // The best checkpoint may be the one of step 2 or of step 4, of 8 pairs a step.
    let step = model.config.provenance["step"].as_u64().unwrap();
    assert!([2, 4].contains(&step) && model.config.provenance["pairs_seen"] == 8 * step, "{step}");
    assert!(model.config.provenance["trained_on"].as_str().is_some_and(|text| text.contains("drawn persons only")));
    let (card, stated) = (folder.path().join("card.json"), folder.path().join("stated"));
    std::fs::write(&card, r#"{"quality": "not good at all"}"#).unwrap();
    let export = |card: &Path| {
        let mut command = binary();
        command.args(["export", "--force", "--run"]).arg(&run).arg("--out").arg(&stated).arg("--card").arg(card);
        command.output().unwrap()
    };
    let exported = export(&card);
    assert_eq!(exported.status.code(), Some(0), "{}", said(&exported));
    let stated = ModelFolder::open(&stated).expect("a whole model folder").config.provenance;
    assert_eq!((&stated["quality"], &stated["pairs_seen"]), (&"not good at all".into(), &(8 * step).into()));
    std::fs::write(&card, r#"{"step": 9000}"#).unwrap();
    assert!(said(&export(&card)).contains("unknown field `step`"));
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    let lines: Vec<serde_json::Value> = stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert!(lines.iter().any(|line| line["step"] == 4 && line["loss"].is_number() && line["pairs_per_s"].is_number()));
    assert!(lines.iter().any(|line| line["validation"]["global"]["map"].is_number()));

    let again = train(&run, &four);
    assert_eq!(again.status.code(), Some(0), "the same command finds its work done: {}", said(&again));
    let other = train(&run, &[&four[..], &["--lr", "0.01", "--seed", "9"]].concat());
    assert_eq!(other.status.code(), Some(1));
    let e = said(&other);
    assert!(
        e.contains("run.lr: 0.0005, now 0.01") && e.contains("run.seed: 1, now 9") && e.contains("--resume"),
        "{e}"
    );
    let more = binary().args(["train", "--resume", "--steps", "6", "--run"]).arg(&run).output().unwrap();
    assert_eq!(more.status.code(), Some(0), "{}", said(&more));
    assert_eq!(checkpoint::step(&run), Some(6));
    let nothing = train(&folder.path().join("none"), &["--resume"]);
    assert!(said(&nothing).contains("no run to go on with"), "{}", said(&nothing));
}

#[test]
fn a_run_is_resumed_with_more_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let of_epochs = |epochs: &str| train(&run, &[&DRAWN[..], &["--epochs", epochs]].concat());
    let resume = |flags: &[&str]| binary().args(["train", "--resume", "--run"]).arg(&run).args(flags).output().unwrap();
    let recipe = || {
        let text = std::fs::read(run.join("run.json")).unwrap();
        let recipe = serde_json::from_slice::<serde_json::Value>(&text).unwrap()["recipe"].take();
        (recipe["epochs"].as_u64(), recipe["run"]["steps"].as_u64())
    };
    // 32 pictures in batches of 8 are four steps an epoch.
    let done = of_epochs("1");
    assert_eq!((done.status.code(), checkpoint::step(&run)), (Some(0), Some(4)), "{}", said(&done));
    let refused = of_epochs("2");
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("epochs: 1, now 2 (--resume allows it)"), "{}", said(&refused));
    let done = resume(&["--epochs", "2"]);
    assert_eq!((done.status.code(), checkpoint::step(&run)), (Some(0), Some(8)), "{}", said(&done));
    assert_eq!(recipe(), (Some(2), Some(8)));
    let done = resume(&["--steps", "9"]);
    assert_eq!((done.status.code(), checkpoint::step(&run)), (Some(0), Some(9)), "{}", said(&done));
    assert_eq!(recipe(), (None, Some(9)));
}

#[test]
fn flags_of_another_order_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value) in [("--lookalikes", "2"), ("--lookalikes-among", "50"), ("--lookalikes-from", "9")] {
        let refused = train(folder.path(), &[&DRAWN[..], &["--steps", "1", "--order", "epochs", flag, value]].concat());
        assert_eq!(refused.status.code(), Some(1), "{flag}");
        assert!(said(&refused).contains("are for --order identities"), "{flag}: {}", said(&refused));
    }
}

#[test]
fn an_interrupt_ends_with_130_and_nothing_lost() {
    for signal in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = binary()
            .args(flags(folder.path(), &[&DRAWN[..], &["--steps", "1000000"]].concat()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let step = lines.map_while(Result::ok).find(|line| line.contains("\"step\":2")).expect("it trains");
        assert!(step.contains("loss"), "{step}");
        Command::new("kill").args([signal, &child.id().to_string()]).status().expect("the signal is sent");
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(130), "{}", said(&done));
        assert!(said(&done).contains("resume with: sightline-finetune train --run"), "{}", said(&done));
        let step = checkpoint::step(folder.path()).expect("a checkpoint");
        let steps = (step + 2).to_string();
        let more =
            binary().args(["train", "--resume", "--steps", &steps, "--run"]).arg(folder.path()).output().unwrap();
        assert_eq!(more.status.code(), Some(0), "{}", said(&more));
        assert_eq!(checkpoint::step(folder.path()), Some(step + 2));
    }
}

/// Files may not grow beyond half a megabyte: what a full disk says, too.
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let done = train(folder.path(), &[&DRAWN[..], &["--steps", "2"]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let before = std::fs::read(folder.path().join("checkpoint/variables.safetensors")).unwrap();
    let resume = |limit: &str| {
        let shell = format!("trap '' XFSZ; {limit} exec \"$0\" train --resume --steps 4 --run \"$1\"");
        Command::new("sh").args(["-c", &shell]).arg(binary().get_program()).arg(folder.path()).output().unwrap()
    };
    let full = resume("ulimit -f 1000;");
    assert_eq!(full.status.code(), Some(1), "{}", said(&full));
    let e = said(&full);
    assert!(e.contains("the checkpoint of step 4 cannot be written") && e.contains("checkpoint of step 2"), "{e}");
    assert_eq!(checkpoint::step(folder.path()), Some(2));
    assert!(std::fs::read(folder.path().join("checkpoint/variables.safetensors")).unwrap() == before);
    assert!(!folder.path().join("checkpoint.part").exists());
    let after = resume("");
    assert_eq!(after.status.code(), Some(0), "{}", said(&after));
    assert_eq!(checkpoint::step(folder.path()), Some(4));
}

#[test]
fn bad_items_are_refused_by_name_or_skipped_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let (root, run) = (folder.path().join("data"), folder.path().join("run"));
    dataset(&root, 20);
    let file = root.join("reid_raw.json");
    let mut items: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    items[0]["captions"] = serde_json::json!(["", "A man."]);
    items[1]["file_path"] = "synth/000/nowhere.jpg".into();
    std::fs::write(&file, serde_json::to_vec(&items).unwrap()).unwrap();
    let cut = root.join("imgs").join(items[2]["file_path"].as_str().unwrap());
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let data = format!("cuhk-pedes:{}", root.display());
    let flags = ["--data", &data, "--steps", "2", "--validate-k", "2"];
    let refused = train(&run, &flags);
    assert_eq!(refused.status.code(), Some(1));
    let e = said(&refused);
    for part in [
        "3 of 32 items",
        "item 0",
        "caption 0 is empty",
        "nowhere.jpg): the picture is missing",
        "cut short",
        "--skip-bad",
    ] {
        assert!(e.contains(part), "{part:?} is not in: {e}");
    }
    let done = train(&run, &[&flags[..], &["--skip-bad"]].concat());
    let e = said(&done);
    assert_eq!(done.status.code(), Some(0), "{e}");
    assert_eq!(e.matches("skipped ").count(), 3, "{e}");
    assert!(e.contains("3 of 32 items skipped") && e.contains("have one picture only"), "{e}");
    assert!(e.contains("validation on cuhk-pedes"), "{e}");
}
