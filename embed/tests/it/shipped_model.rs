//! The model in the repository: whole, small enough, and it still computes what it did when it was made.

use std::path::Path;

use sightline_embed::{Model, ModelFolder, SelfTest, self_test};

#[test]
fn the_default_model_passes_its_self_test() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default");
    let folder = ModelFolder::open(&path).expect("a model folder");
    assert!(folder.config.calibration.calibrated);
    assert!(folder.self_test().is_file(), "without stored answers the self-test would not compare anything");
    let model = Model::load(&folder, "cpu").expect("it loads");
    assert_eq!(self_test(&model, &folder).expect("it computes what it did"), SelfTest::Compared);
}

#[test]
fn the_default_model_is_small_enough_for_the_repository() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default");
    let files = std::fs::read_dir(path).expect("a model folder");
    let bytes: u64 = files.map(|f| f.and_then(|f| f.metadata()).expect("a file").len()).sum();
    assert!(bytes <= 24_000_000, "{bytes} bytes");
}
