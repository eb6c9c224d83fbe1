//! The model in the repository: its provenance is what the commands write that make it, and it sees
//! what it did when it was shipped, in both precisions that a CPU serves in.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sightline_embed::kernel::{Engine, Precision};
use sightline_embed::model::{Device, Network};
use sightline_embed::net::WeightFile;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::{EmbedError, ModelFolder};
use sightline_figures::{Corpus, Words};
use sightline_tune::evaluate::{LocalScore, Scores, score_gallery};
use sightline_tune::facts::yardstick::Asks;
use sightline_tune::folder::{Card, provenance};
use sightline_tune::gallery::Gallery;
use sightline_tune::separation::Truths;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)
}

/// Drawn persons that no model is trained on, by their seed.
const SEED: u64 = 999;

/// The shipped model, and single phrases to search for among the pictures of 60 drawn persons.
struct Drawn {
    folder: ModelFolder,
    truths: Truths,
    texts: Vec<Vec<u32>>,
    pictures: usize,
    /// Normalised pixels of all pictures, drawn once for both precisions.
    pixels: Vec<f32>,
}

impl Drawn {
    fn new() -> Self {
        let folder = ModelFolder::open(&path("default")).expect("a model folder");
        let arch = &folder.config.architecture;
        let tokenizer = CaptionTokenizer::load(&folder.tokenizer(), arch).expect("a tokenizer");
        let gallery = Gallery::drawn(&Corpus::new(SEED), 0..60, 2, Words::All);
        let truths = Truths::of_facts(&gallery.image_ids, &gallery.drawn_facts());
        let texts = tokenizer.ids(&truths.texts()).expect("tokens");
        let pictures = gallery.len();
        let pixels = gallery.pixels(0..pictures, arch.image_size, &folder.config.preprocess).expect("pictures");
        Self { folder, truths, texts, pictures, pixels }
    }

    /// Scores of every phrase for every picture.
    fn scores(&self, precision: Precision) -> Scores {
        let file = WeightFile::read(&self.folder.weights()).expect("weights");
        let arch = &self.folder.config.architecture;
        let network = Network::load(file, arch, &Device::Cpu, precision).expect("a network");
        let bank = self.folder.bank().expect("a query bank");
        let each = self.pixels.len() / self.pictures;
        let pixels =
            |range: Range<usize>| Ok::<_, EmbedError>(self.pixels[range.start * each..range.end * each].to_vec());
        let all = self.pictures;
        score_gallery(&network, &self.texts, all, pixels, all, bank.as_ref(), |_, _, _| {}).expect("scores")
    }

    fn local(&self) -> LocalScore {
        LocalScore::Sightline(self.folder.config.calibration.clone())
    }

    /// Checks that the phrases of colours, and "wearing a red top" among them, separate the
    /// pictures of which they are true from the others. The floors are well below what the shipped
    /// model reaches.
    fn check_separation(&self, precision: Precision, scores: &Scores) {
        for (name, scores) in [("global", &scores.cosine), ("local", &scores.local(&self.local()))] {
            let (name, found) = (format!("{name} in {}", precision.name()), self.truths.separation(scores));
            let colours = found.means.iter().find(|mean| mean.asks == Asks::Colour).expect("phrases of colours");
            let red = found.phrases.iter().find(|phrase| phrase.text == "wearing a red top").expect("a phrase");
            println!("{name}: {colours:?}, {red:?}");
            assert!(colours.phrases == 6 && colours.auc > 0.75, "{name}: {colours:?}");
            assert!(red.auc.is_some_and(|area| area > 0.88), "{name}: {red:?}");
        }
    }
}

/// Mean share of the ten pictures ranked first that two rankings of the same texts have in common.
fn overlap(texts: usize, first: impl Fn(usize) -> Vec<usize>, second: impl Fn(usize) -> Vec<usize>) -> f64 {
    let common = |text: usize| {
        let (first, second) = (first(text), second(text));
        first[..10].iter().filter(|picture| second[..10].contains(picture)).count()
    };
    (0..texts).map(common).sum::<usize>() as f64 / (10 * texts) as f64
}

/// Pictures by falling cosine with a text.
fn by_cosine(scores: &Scores, text: usize) -> Vec<usize> {
    let row = &scores.cosine[text];
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    order
}

/// It fails when words or pictures no longer reach the network as they did in training, whatever
/// the ranks of whole descriptions say, or when bf16, which `embed.precision = "auto"` chooses
/// where the CPU has it, finds other pictures than f32.
#[test]
fn phrases_separate_the_drawn_persons_of_whom_they_are_true() {
    let drawn = Drawn::new();
    let exact = drawn.scores(Precision::F32);
    drawn.check_separation(Precision::F32, &exact);
    let Some(engine) = Engine::bf16() else {
        println!("this machine has no bf16 that is faster than f32: only f32 was tested");
        return;
    };
    let rounded = drawn.scores(Precision::Bf16);
    drawn.check_separation(Precision::Bf16, &rounded);
    let (texts, local) = (drawn.texts.len(), drawn.local());
    let global = overlap(texts, |text| by_cosine(&exact, text), |text| by_cosine(&rounded, text));
    let local = overlap(texts, |text| exact.order(&local, text), |text| rounded.order(&local, text));
    println!("top 10 of f32 that {engine:?} has too: global {global:.3}, local {local:.3}");
    assert!(global >= 0.9 && local >= 0.9, "top 10 of f32 that {engine:?} has too: global {global}, local {local}");
}

/// What `export` and `calibrate --card card.json` write, from the recipe that config.json names.
#[test]
fn the_models_say_what_the_commands_write() {
    for name in ["default", "former"] {
        let told = ModelFolder::open(&path(name)).expect("a model folder").config.provenance;
        let recipe = serde_json::from_value(told["recipe"].clone()).expect("a recipe");
        let step = told["step"].as_u64().expect("a step") as usize;
        let weight = told["match_weight"].as_f64().expect("a weight");
        let mut want = provenance(&recipe, step, &told["chosen_by_validation"], weight);
        Card::read(&path(name).join("card.json")).expect("a card").apply_to(&mut want);
        want["calibration"] = told["calibration"].clone();
        if let Some(record) = told.get("phrase_calibration") {
            want["phrase_calibration"] = record.clone();
        }
        // A recipe that is read gets the settings that are newer than it.
        want["recipe"] = told["recipe"].clone();
        assert_eq!(told, want, "{name}");
    }
}
