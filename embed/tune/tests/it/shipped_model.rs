//! The provenance of the model in the repository is what the commands write that make it.

use std::path::Path;

use sightline_embed::ModelFolder;
use sightline_tune::folder::{Card, provenance};

/// What `export` and `calibrate --card card.json` write, from the recipe that config.json names.
#[test]
fn the_default_model_says_what_the_commands_write() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
    let told = ModelFolder::open(&path).expect("a model folder").config.provenance;
    let recipe = serde_json::from_value(told["recipe"].clone()).expect("a recipe");
    let step = told["step"].as_u64().expect("a step") as usize;
    let weight = told["match_weight"].as_f64().expect("a weight");
    let mut want = provenance(&recipe, step, &told["chosen_by_validation"], weight);
    Card::read(&path.join("card.json")).expect("a card").state(&mut want);
    want["calibration"] = told["calibration"].clone();
    // A recipe that is read gets the settings that are newer than it.
    want["recipe"] = told["recipe"].clone();
    assert_eq!(told, want);
}
