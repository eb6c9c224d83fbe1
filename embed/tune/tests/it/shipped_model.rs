//! The model in the repository: its provenance is what the commands write that make it, and it sees what it did when it
//! was shipped.

use std::path::{Path, PathBuf};

use sightline_embed::ModelFolder;
use sightline_embed::kernel::Precision;
use sightline_embed::model::Network;
use sightline_embed::net::WeightFile;
use sightline_embed::text::CaptionTokenizer;
use sightline_figures::{Corpus, Words};
use sightline_tune::evaluate::{LocalScore, score_gallery};
use sightline_tune::facts::yardstick::Asks;
use sightline_tune::folder::{Card, provenance};
use sightline_tune::gallery::Gallery;
use sightline_tune::separation::{Separation, Truths};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)
}

/// Drawn persons that no model is trained on, by their seed.
const SEED: u64 = 999;

/// What single phrases separate among 60 drawn persons, by the cosine and by the match score.
fn separation() -> (Separation, Separation) {
    let folder = ModelFolder::open(&path("default")).expect("a model folder");
    let bank = folder.bank().expect("a query bank");
    let ModelFolder { path, config, .. } = folder;
    let file = WeightFile::read(&path.join("model.safetensors")).expect("weights");
    let arch = &config.architecture;
    let network = Network::load(file, arch, &sightline_embed::model::Device::Cpu, Precision::F32).expect("a network");
    let tokenizer = CaptionTokenizer::load(&path.join("tokenizer.json"), arch).expect("a tokenizer");
    let gallery = Gallery::drawn(&Corpus::new(SEED), 0..60, 2, Words::All);
    let truths = Truths::of_facts(&gallery.image_ids, &gallery.drawn_facts());
    let texts = tokenizer.ids(&truths.texts()).expect("tokens");
    let pixels = |range| gallery.pixels(range, arch.image_size, &config.preprocess);
    let all = gallery.len();
    let scores = score_gallery(&network, &texts, all, pixels, all, bank.as_ref(), |_, _, _| {}).expect("scores");
    let local = scores.local(&LocalScore::Sightline(config.calibration.clone()));
    (truths.separation(&scores.cosine), truths.separation(&local))
}

/// Does "wearing a red top" find red tops? A floor, well below what the model shipped reaches: it fails when words or
/// pictures no longer reach the network as they did in training, whatever the ranks of whole descriptions say.
#[test]
fn phrases_separate_the_drawn_persons_of_whom_they_are_true() {
    let (global, local) = separation();
    for (name, found, colours_floor, red_floor) in [("global", global, 0.75, 0.88), ("local", local, 0.75, 0.88)] {
        let colours = found.means.iter().find(|mean| mean.asks == Asks::Colour).expect("phrases of colours");
        let red = found.phrases.iter().find(|phrase| phrase.text == "wearing a red top").expect("a phrase");
        println!("{name}: {colours:?}, {red:?}");
        assert!(colours.phrases == 6 && colours.auc > colours_floor, "{name}: {colours:?}");
        assert!(red.auc.is_some_and(|area| area > red_floor), "{name}: {red:?}");
    }
}

/// What `export` and `calibrate --card card.json` write, from the recipe that config.json names.
#[test]
fn the_models_say_what_the_commands_write() {
    for name in ["default", "candidate"] {
        let told = ModelFolder::open(&path(name)).expect("a model folder").config.provenance;
        let recipe = serde_json::from_value(told["recipe"].clone()).expect("a recipe");
        let step = told["step"].as_u64().expect("a step") as usize;
        let weight = told["match_weight"].as_f64().expect("a weight");
        let mut want = provenance(&recipe, step, &told["chosen_by_validation"], weight);
        Card::read(&path(name).join("card.json")).expect("a card").state(&mut want);
        want["calibration"] = told["calibration"].clone();
        if let Some(record) = told.get("phrase_calibration") {
            want["phrase_calibration"] = record.clone();
        }
        // A recipe that is read gets the settings that are newer than it.
        want["recipe"] = told["recipe"].clone();
        assert_eq!(told, want, "{name}");
    }
}
