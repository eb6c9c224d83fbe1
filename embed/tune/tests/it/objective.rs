//! The whole objective on a tiny model: every variable is trained, and a value that is no number
//! stops the run.

use candle_core::Tensor;
use sightline_embed::graph::WordPredictor;
use sightline_embed::model::{Architecture, Preprocess};
use sightline_embed::text::CaptionTokenizer;
use sightline_figures::Corpus;
use sightline_tune::TrainError;
use sightline_tune::atp::{Atp, CrossAttentionStart};
use sightline_tune::augment::Augment;
use sightline_tune::batch::{Batch, BatchBuilder};
use sightline_tune::losses::{GlobalLoss, MatchTargets};
use sightline_tune::objective::{Objective, Truth, loss};
use sightline_tune::ops::backward;
use sightline_tune::pool::Pool;
use sightline_tune::run::{Run, RunConfig, Trainee};
use sightline_tune::source::{BatchSequence, Order};

use super::golden;

fn arch() -> Architecture {
    Architecture { image_size: [32, 16], patch_size: 8, ..golden::arch() }
}

fn texts() -> CaptionTokenizer {
    CaptionTokenizer::load(&golden::path("cada-tiny/tokenizer.json"), &arch()).unwrap()
}

fn pool() -> Pool {
    Pool::new(Corpus::new(3), 0, 16, 2, arch().image_size)
}

const TRUTH: Truth = Truth { phrases: 12, weight: 1.0, targets: true };

fn batch() -> Batch {
    let (arch, texts, pool, prep) = (arch(), texts(), pool(), Preprocess::default());
    let order = Order::IDENTITIES;
    let batches = BatchBuilder {
        source: &pool,
        sequence: BatchSequence::new(&pool, order, 3, 8).unwrap(),
        augment: Augment::Surveillance,
        word_drop: 0.0,
        arch: &arch,
        prep: &prep,
        texts: &texts,
        truth: Some(TRUTH),
        tokens: None,
        seed: 3,
    };
    batches.build(0).unwrap()
}

fn objective(decoder: WordPredictor) -> Objective {
    let mut all = Objective { truth: Some(TRUTH), attributes: 1.0, dropout: 0.0, ..Objective::default() };
    all.ara.as_mut().unwrap().decoder = decoder;
    all
}

#[test]
fn every_variable_gets_a_gradient() {
    let batch = batch();
    for decoder in [WordPredictor::Own, WordPredictor::Shared, WordPredictor::Tied] {
        let trainee = Trainee::with_decoder(&arch(), decoder, 3).unwrap();
        let (total, parts) = loss(&trainee, &objective(decoder), &batch, 0, 3).unwrap();
        for name in ["ndf", "truth", "attributes", "atp", "atp_local", "ara"] {
            assert!(parts[name].as_f64().unwrap() > 0.0, "{name}");
        }
        let grads = backward(&total).unwrap();
        let data = trainee.variables.data().lock().unwrap();
        for (name, var) in data.iter() {
            let grad = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{decoder:?}: {name} has no gradient"));
            let largest = grad.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(largest.is_finite(), "{decoder:?}: {name}");
            // The softmax does not see key biases.
            assert!(largest > 0.0 || name.ends_with("key.bias"), "{decoder:?}: the gradient of {name} is zero");
        }
    }
}

#[test]
fn dropout_is_drawn_anew_each_step_and_repeats_from_its_seed() {
    let (batch, trainee) = (batch(), Trainee::with_decoder(&arch(), WordPredictor::Shared, 3).unwrap());
    let value = |dropout: f32, step: usize| {
        let objective = Objective { dropout, ara: None, ..objective(WordPredictor::Shared) };
        loss(&trainee, &objective, &batch, step, 3).unwrap().0.to_scalar::<f32>().unwrap()
    };
    assert_eq!(value(0.1, 5), value(0.1, 5));
    assert_ne!(value(0.1, 5), value(0.1, 6));
    assert_eq!(value(0.0, 5), value(0.0, 6));
}

#[test]
fn halves_and_losses_can_be_left_out() {
    let batch = batch();
    let trainee = Trainee::with_decoder(&arch(), WordPredictor::Shared, 3).unwrap();
    let names = |change: &dyn Fn(&mut Objective)| {
        let mut objective = objective(WordPredictor::Shared);
        change(&mut objective);
        let (_, parts) = loss(&trainee, &objective, &batch, 0, 3).unwrap();
        let mut names: Vec<String> = parts.as_object().unwrap().keys().cloned().collect();
        names.retain(|name| name != "right");
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(&|_| ()), "ara atp atp_local attributes ndf truth");
    assert_eq!(names(&|o| o.truth = None), "ara atp atp_local attributes ndf");
    assert_eq!(names(&|o| (o.global, o.ara, o.attributes) = (GlobalLoss::Cmpm, None, 0.0)), "atp atp_local cmpm truth");
    assert_eq!(names(&|o| o.atp.as_mut().unwrap().local = false), "ara atp attributes ndf truth");
    assert_eq!(names(&|o| o.atp.as_mut().unwrap().global = false), "ara atp_local attributes ndf truth");
    assert_eq!(names(&|o| o.atp = None), "ara attributes ndf truth");
    assert_eq!(names(&|o| o.atp.as_mut().unwrap().from = 1), "ara attributes ndf truth");
}

#[test]
fn matching_starts_from_the_projections_at_its_first_step_only() {
    let trainee = Trainee::with_decoder(&arch(), WordPredictor::Shared, 3).unwrap();
    let atp = Atp { from: 4, start: CrossAttentionStart::Projections, ..Objective::default().atp.unwrap() };
    let rows = |name: &str| trainee.variables.data().lock().unwrap()[name].as_tensor().to_vec2::<f32>().unwrap();
    let query = "text_encoder.encoder.layer.1.crossattention.self.query.weight";
    let before = rows(query);
    for step in [0, 3, 5] {
        atp.prepare(&trainee.variables, &arch(), step).unwrap();
    }
    assert_eq!(rows(query), before);
    atp.prepare(&trainee.variables, &arch(), 4).unwrap();
    let projection = rows("text_proj.weight");
    assert_eq!(rows(query), [projection.clone(), projection].concat(), "32 common dimensions, a width of 64");
    let words = rows("text_encoder.embeddings.word_embeddings.weight");
    assert_eq!(words[1199], words[101]);
    // A faint start does the same, and what is looked at adds a tenth.
    let output = "text_encoder.encoder.layer.0.crossattention.output.dense.weight";
    let tenth: Vec<Vec<f32>> = rows(output).iter().map(|row| row.iter().map(|x| x * 0.1).collect()).collect();
    let faint = Atp { start: CrossAttentionStart::Faint, ..atp };
    faint.prepare(&trainee.variables, &arch(), 4).unwrap();
    let distance =
        rows(output).iter().flatten().zip(tenth.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(distance < 1e-7, "{distance}");
}

#[test]
fn a_batch_of_one_identity_skips_matching_and_texts_without_attributes_skip_ara() {
    let mut batch = batch();
    batch.identities.fill(7);
    batch.targets = MatchTargets::of_identities(&batch.identities);
    batch.spans.iter_mut().for_each(|spans| *spans = Default::default());
    let trainee = Trainee::with_decoder(&arch(), WordPredictor::Shared, 3).unwrap();
    let (total, parts) = loss(&trainee, &objective(WordPredictor::Shared), &batch, 0, 3).unwrap();
    assert!(total.to_scalar::<f32>().unwrap().is_finite());
    assert!(parts.get("atp").is_none() && parts.get("ara").is_none());
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let trainee = Trainee::with_decoder(&arch(), WordPredictor::Shared, 3).unwrap();
    {
        let data = trainee.variables.data().lock().unwrap();
        let var = &data["visual_encoder.norm.bias"];
        var.set(&Tensor::full(f32::NAN, var.shape(), var.device()).unwrap()).unwrap();
    }
    let config = RunConfig::new(3, 8, 2, objective(WordPredictor::Shared));
    let said = Run::new(folder.path(), config, &trainee, &pool(), &texts()).train(|_| {});
    assert!(matches!(said, Err(TrainError::Diverged { step: 1, .. })), "{said:?}");
    assert!(!folder.path().join("checkpoint").exists());
}
