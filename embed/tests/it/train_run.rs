//! A whole run on a tiny model: it learns, and a resumed run equals one that was never stopped.

use std::path::Path;
use std::time::Duration;

use candle_core::Tensor;
use sightline_embed::model::{Architecture, Decoder, Preprocess};
use sightline_embed::synth::Corpus;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::train::ara::Ara;
use sightline_embed::train::atp::Atp;
use sightline_embed::train::losses::{Global, Groups, HardNegative, Ndf};
use sightline_embed::train::objective::Objective;
use sightline_embed::train::pool::Pool;
use sightline_embed::train::run::{RunConfig, Trainee, train};

fn tiny() -> (Architecture, CaptionTokenizer) {
    let arch = Architecture {
        image_size: [32, 16],
        patch_size: 8,
        vision_width: 32,
        vision_depth: 1,
        vision_heads: 2,
        text_hidden_size: 32,
        text_layers: 1,
        text_heads: 2,
        text_intermediate: 64,
        vocab_size: 1200,
        max_position_embeddings: 73,
        enc_token_id: 1199,
        embed_dim: 32,
        ..Architecture::cada_base()
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cada-tiny/tokenizer.json");
    let texts = CaptionTokenizer::load(&path, &arch).expect("the golden tokenizer");
    (arch, texts)
}

fn config(steps: usize) -> RunConfig {
    RunConfig {
        seed: 3,
        batch: 8,
        steps,
        warmup: 2,
        fall: 1,
        lr: 2e-3,
        decay: 0.05,
        clip: 5.0,
        objective: Objective {
            global: Global::Ndf(Ndf::Code),
            atp: Some(Atp {
                from: 2,
                pairs: Some(4),
                negatives: HardNegative::Cosine,
                groups: Groups::of(12, true),
                global: true,
                local: true,
                weight: 1.0,
            }),
            ara: Some(Ara { from: 3, pairs: Some(4), ..Objective::default().ara.expect("the paper has it") }),
            dropout: 0.1,
            attributes: 1.0,
            ..Objective::default()
        },
        words_from: 3,
    }
}

fn run(folder: &Path, steps: usize) -> (Trainee, Vec<f64>) {
    let (arch, texts) = tiny();
    let trainee = Trainee::with_decoder(&arch, Decoder::Shared, 3).expect("a sound architecture");
    let pool = Pool::new(Corpus::new(3), 0, 16, 2, arch.image_size);
    let mut losses = Vec::new();
    let heard = |line: &serde_json::Value| losses.extend(line["attributes"].as_f64());
    let every = Duration::from_secs(3600);
    train(folder, &config(steps), &trainee, &pool, &Preprocess::default(), &texts, every, heard).expect("trains");
    (trainee, losses)
}

fn values(trainee: &Trainee) -> Vec<(String, Vec<f32>)> {
    let data = trainee.variables.data().lock().expect("no panic before");
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1()).expect("f32");
    let mut all: Vec<_> = data.iter().map(|(name, var)| (name.clone(), flat(var.as_tensor()))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn resumed_equals_uninterrupted() {
    let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (straight, _) = run(whole.path(), 6);
    // The fall lies in the last step of a run, so the first half is stopped before its own fall by a longer plan.
    let stopped = {
        let (arch, texts) = tiny();
        let trainee = Trainee::with_decoder(&arch, Decoder::Shared, 3).expect("a sound architecture");
        let pool = Pool::new(Corpus::new(3), 0, 16, 2, arch.image_size);
        let plan = RunConfig { fall: 0, ..config(4) };
        train(parts.path(), &plan, &trainee, &pool, &Preprocess::default(), &texts, Duration::ZERO, |_| {})
            .expect("trains");
        trainee
    };
    assert_ne!(values(&stopped), values(&straight));
    let (resumed, _) = run(parts.path(), 6);
    for ((name, ours), (_, theirs)) in values(&resumed).iter().zip(&values(&straight)) {
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn it_learns_what_drawn_persons_wear() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, losses) = run(folder.path(), 150);
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.8 * first, "attribute loss {first} -> {last}");
}
