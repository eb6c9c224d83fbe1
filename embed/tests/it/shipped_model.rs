//! The model in the repository: whole, small enough, and it still computes what it did when it was
//! made.

use std::path::Path;

use sightline_core::RgbImage;
use sightline_embed::{Model, ModelFolder, SelfTest, self_test};

/// Data that it indexed is searched with it until `sightline reindex` has brought everybody along.
#[test]
fn the_former_model_passes_its_self_test() {
    passes_its_self_test("former");
}

/// The default model also judges phrases and names masked words.
#[test]
fn the_default_model_passes_its_self_test_and_knows_a_red_jacket() {
    let model = passes_its_self_test("default");
    let picture = |rgb: [u8; 3]| {
        let pixels: Vec<u8> = (0..64 * 32).flat_map(|_| rgb).collect();
        let image = RgbImage::new(32, 64, pixels).expect("a picture");
        model.embed_images(&[image]).expect("features").swap_remove(0).patches
    };
    let (red, blue) = (picture([200, 20, 30]), picture([20, 40, 180]));
    let query = model.encode_text("a person in a red jacket").expect("a query");
    let scores = model.match_scores(&query, &[red.clone(), blue]).expect("scores");
    let truth = |i: usize| scores[i].as_ref().expect("a score").phrases[0];
    assert!(truth(0) > truth(1), "{scores:?}");
    let named = model.attributes(&red, "a person in a [MASK] jacket").expect("words").swap_remove(0).words;
    assert_eq!(named.len(), 3, "{named:?}");
}

fn passes_its_self_test(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
    let folder = ModelFolder::open(&path).expect("a model folder");
    assert!(folder.config.calibration.calibrated);
    assert!(folder.self_test().is_file(), "without stored answers the self-test would not compare anything");
    let model = Model::load(&folder, "cpu").expect("it loads");
    assert_eq!(self_test(&model, &folder).expect("it computes what it did"), SelfTest::Compared);
    model
}

#[test]
fn the_models_are_small_enough_for_the_repository() {
    for (name, most) in [("default", 75_000_000), ("former", 24_000_000)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
        let files = std::fs::read_dir(path).expect("a model folder");
        let bytes: u64 = files.map(|f| f.and_then(|f| f.metadata()).expect("a file").len()).sum();
        assert!(bytes <= most, "{name}: {bytes} bytes");
    }
}
