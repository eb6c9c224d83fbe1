//! A whole run on a tiny model: it learns, stops and goes on exactly, and loses nothing when
//! something breaks.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::Tensor;
use sightline_embed::graph::WordPredictor;
use sightline_embed::model::Architecture;
use sightline_embed::text::CaptionTokenizer;
use sightline_figures::Corpus;
use sightline_tune::ara::Ara;
use sightline_tune::atp::{Atp, CrossAttentionStart};
use sightline_tune::augment::Augment;
use sightline_tune::batch::BatchBuilder;
use sightline_tune::checkpoint;
use sightline_tune::dataset::Dataset;
use sightline_tune::losses::{GlobalLoss, Groups, HardNegative, NdfVariant};
use sightline_tune::objective::Objective;
use sightline_tune::pool::Pool;
use sightline_tune::run::{Outcome, Run, RunConfig, Trainee, UNLIMITED_STEPS};
use sightline_tune::schedule::Schedule;
use sightline_tune::source::{BatchSequence, DatasetSource, Lookalikes, MixedSource, Order, Source};
use sightline_tune::validation::Validation;

pub fn tiny() -> (Architecture, CaptionTokenizer) {
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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cada-tiny/tokenizer.json");
    let texts = CaptionTokenizer::load(&path, &arch).expect("the golden tokenizer");
    (arch, texts)
}

pub fn objective() -> Objective {
    Objective {
        global: GlobalLoss::Ndf(NdfVariant::Code),
        atp: Some(Atp {
            from: 2,
            pairs: Some(4),
            start: CrossAttentionStart::Projections,
            negatives: HardNegative::Cosine,
            groups: Groups::of(12, true),
            global: true,
            local: true,
            phrases: false,
            weight: 1.0,
        }),
        ara: Some(Ara { from: 3, pairs: Some(4), ..Objective::default().ara.expect("the paper has it") }),
        dropout: 0.1,
        attributes: 1.0,
        ..Objective::default()
    }
}

pub fn config(steps: usize) -> RunConfig {
    RunConfig {
        schedule: Schedule::Fall { warmup: 2, fall: 1 },
        lr: 2e-3,
        words_from: 3,
        ..RunConfig::new(3, 8, steps, objective())
    }
}

pub fn pool() -> Pool {
    Pool::new(Corpus::new(3), 0, 16, 2, [32, 16])
}

/// Trains in `folder` as `config` says; gives the outcome, or what went wrong, and the weights at
/// the end.
pub fn train(folder: &Path, config: RunConfig) -> (sightline_tune::Result<Outcome>, Trainee, Vec<serde_json::Value>) {
    let (arch, texts) = tiny();
    let trainee = Trainee::with_decoder(&arch, WordPredictor::Shared, 3).expect("a sound architecture");
    let (pool, mut lines) = (pool(), Vec::new());
    let run = Run { checkpoint_every: Duration::from_secs(3600), ..Run::new(folder, config, &trainee, &pool, &texts) };
    let outcome = run.train(|line| lines.push(line.clone()));
    (outcome, trainee, lines)
}

pub fn values(trainee: &Trainee) -> Vec<(String, Vec<f32>)> {
    let data = trainee.variables.data().lock().expect("no panic before");
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1()).expect("f32");
    let mut all: Vec<_> = data.iter().map(|(name, var)| (name.clone(), flat(var.as_tensor()))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

pub fn assert_same(ours: &Trainee, theirs: &Trainee) {
    for ((name, ours), (_, theirs)) in values(ours).iter().zip(&values(theirs)) {
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn resumed_equals_uninterrupted() {
    let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (_, straight, _) = train(whole.path(), config(6));
    // The fall lies in the last step of a run, so the first half is stopped before its own fall by
    // a longer plan.
    let (outcome, stopped, _) =
        train(parts.path(), RunConfig { schedule: Schedule::Fall { warmup: 2, fall: 0 }, ..config(4) });
    assert_eq!(outcome.expect("trains").steps, 4);
    assert!(values(&stopped) != values(&straight));
    let (_, resumed, lines) = train(parts.path(), config(6));
    assert_eq!(lines[0]["resumed_at"], 4);
    assert_same(&resumed, &straight);
}

/// Epochs, accumulated gradients, the reference's augmentation, its schedule, words left out,
/// validation: a run stopped from outside in the middle goes on to the same end.
#[test]
fn every_setting_resumes_exactly() {
    let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let config = RunConfig {
        accumulate: 2,
        clip: None,
        schedule: Schedule::Cosine { epoch: 2 },
        order: Order::Epochs,
        augment: Augment::Reference,
        word_drop: 0.1,
        validate_every: 2,
        ..config(7)
    };
    let (arch, texts) = tiny();
    let judges = Validation::of_drawn(&Pool::new(Corpus::new(9), 0, 6, 2, [32, 16]), &texts, 4).expect("a gallery");
    let go = |folder: &Path, stop_after: Option<u64>| {
        let trainee = Trainee::with_decoder(&arch, WordPredictor::Shared, 3).expect("a sound architecture");
        let (pool, stop) = (pool(), AtomicBool::new(false));
        let run =
            Run { stop: &stop, validation: Some(&judges), ..Run::new(folder, config.clone(), &trainee, &pool, &texts) };
        let outcome = run.train(|line| {
            if stop_after.is_some_and(|step| line["step"] == step && line["loss"].is_number()) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        (outcome.expect("trains"), trainee)
    };
    let (first, straight) = go(whole.path(), None);
    let (stopped, _) = go(parts.path(), Some(3));
    assert_eq!((stopped.steps, stopped.stopped), (3, true));
    let (second, resumed) = go(parts.path(), None);
    assert_same(&resumed, &straight);
    assert_eq!((second.best, second.stopped), (first.best, false));
    let best = |folder: &Path| std::fs::read_to_string(folder.join("best/best.json")).expect("kept");
    assert_eq!(best(parts.path()), best(whole.path()));
    let log = std::fs::read_to_string(parts.path().join("log.jsonl")).expect("a log");
    assert_eq!(
        log.matches("\"local\":{").count(),
        3,
        "before step 3 there is no matching, so no local protocol: {log}"
    );
    assert!(std::fs::read_to_string(parts.path().join("curves.svg")).expect("curves").contains("local Rank-1"));
}

#[test]
fn it_learns_what_drawn_persons_wear() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, _, lines) = train(folder.path(), config(100));
    let losses: Vec<f64> = lines.iter().filter_map(|line| line["attributes"].as_f64()).collect();
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.8 * first, "attribute loss {first} -> {last}");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, good, _) = train(folder.path(), RunConfig { schedule: Schedule::Fall { warmup: 2, fall: 0 }, ..config(4) });
    let (outcome, _, _) = train(folder.path(), RunConfig { lr: 1e30, clip: None, ..config(9) });
    let e = outcome.expect_err("it diverges").to_string();
    assert!(e.contains("at step 6") && e.contains("the loss is") && e.contains("checkpoint of step 4"), "{e}");
    assert!(e.contains("ndf"), "which part of the loss: {e}");
    assert_eq!(checkpoint::step(folder.path()), Some(4));
    let (arch, _) = tiny();
    let kept = Trainee::with_decoder(&arch, WordPredictor::Shared, 8).expect("a sound architecture");
    checkpoint::load(folder.path(), &kept.variables, &mut kept.optimizer(0.0)).expect("readable");
    assert_same(&kept, &good);
}

#[test]
fn a_memory_that_cannot_be_read_stops_the_run_and_says_what_would_be_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = |steps| RunConfig { schedule: Schedule::Fall { warmup: 2, fall: 0 }, ..config(steps) };
    train(folder.path(), config(2)).0.expect("trains");
    let file = folder.path().join("checkpoint/state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state["run"]["best"] = "the third".into();
    std::fs::write(&file, state.to_string()).unwrap();
    let e = train(folder.path(), config(3)).0.expect_err("refused").to_string();
    assert!(e.contains("state.json") && e.contains("which validation was best") && e.contains("\"run\""), "{e}");
    assert_eq!(checkpoint::step(folder.path()), Some(2));
    state.as_object_mut().unwrap().remove("run");
    std::fs::write(&file, state.to_string()).unwrap();
    assert_eq!(train(folder.path(), config(3)).0.expect("goes on").steps, 3);
}

#[test]
fn accumulated_batches_are_one_step_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let (outcome, _, lines) = train(folder.path(), RunConfig { accumulate: 3, ..config(2) });
    assert_eq!(outcome.expect("trains").steps, 2);
    assert_eq!(lines.iter().filter(|line| line["loss"].is_number()).count(), 2);
    for wrong in [
        RunConfig { accumulate: 0, ..config(2) },
        RunConfig { batch: 1, ..config(2) },
        RunConfig { lr: f64::NAN, ..config(2) },
        RunConfig { word_drop: 1.0, ..config(2) },
    ] {
        assert!(train(folder.path(), wrong).0.is_err());
    }
}

#[test]
fn a_time_limit_fixes_the_steps_so_that_the_fall_fits() {
    let folder = tempfile::tempdir().expect("a folder");
    let (arch, texts) = tiny();
    let trainee = Trainee::with_decoder(&arch, WordPredictor::Shared, 3).expect("a sound architecture");
    let (pool, mut planned) = (pool(), None);
    let config = RunConfig { schedule: Schedule::Fall { warmup: 2, fall: 6 }, ..config(UNLIMITED_STEPS) };
    let run =
        Run { limit: Some(Duration::from_secs(2)), ..Run::new(folder.path(), config.clone(), &trainee, &pool, &texts) };
    let heard = |line: &serde_json::Value| {
        let number = |key: &str| line[key].as_u64().map(|n| n as usize);
        planned = planned.or(number("planned_steps").zip(number("fall")));
    };
    let (outcome, (steps, fall)) = (run.train(heard).expect("trains"), planned.expect("planned"));
    assert_eq!(outcome.steps, steps);
    // With that number of steps and that fall from the start the same model comes out.
    let again = tempfile::tempdir().expect("a folder");
    let (_, other, _) =
        train(again.path(), RunConfig { steps, schedule: Schedule::Fall { warmup: 2, fall }, ..config });
    assert_same(&trainee, &other);
}

/// Another number of steps does away with a stored plan, so a time limit makes a new one.
#[test]
fn a_time_limit_holds_for_a_planned_run_that_gets_more_steps() {
    let folder = tempfile::tempdir().expect("a folder");
    let (arch, texts) = tiny();
    let trainee = Trainee::with_decoder(&arch, WordPredictor::Shared, 3).expect("a sound architecture");
    let pool = pool();
    let go = |steps: usize, seconds: f64| {
        let config = RunConfig { schedule: Schedule::Fall { warmup: 2, fall: 6 }, ..config(steps) };
        let limit = Some(Duration::from_secs_f64(seconds));
        let run = Run { limit, ..Run::new(folder.path(), config, &trainee, &pool, &texts) };
        let mut planned = None;
        let outcome = run.train(|line| planned = planned.or(line["planned_steps"].as_u64())).expect("trains");
        (outcome.steps, planned.map(|steps| steps as usize))
    };
    let (first, planned) = go(UNLIMITED_STEPS, 1.0);
    assert_eq!(planned, Some(first));
    let (second, planned) = go(first + 5000, 2.0);
    assert_eq!(planned, Some(second));
    assert!(first < second && second < first + 5000, "{first}, then {second}");
    // Without another number of steps the plan stands, whatever the limit.
    assert_eq!([go(UNLIMITED_STEPS, 60.0), go(second, 60.0)], [(second, None); 2]);
}

/// Writes `identities` drawn persons with two pictures each as a dataset.
pub fn dataset(root: &Path, identities: u64) {
    sightline_figures::write_dataset(root, &Corpus::new(4), identities, 2, |_| {}).expect("written");
}

#[test]
fn folders_and_drawn_persons_mix() {
    let root = tempfile::tempdir().expect("a folder");
    dataset(root.path(), 20);
    let entries = || Dataset::CuhkPedes.read(root.path(), "train").expect("a good dataset");
    let size = [32, 16];
    let (roomy, cramped) = (
        DatasetSource::new(entries(), size, 1 << 20).expect("pictures"),
        DatasetSource::new(entries(), size, 0).expect("pictures"),
    );
    assert_eq!((roomy.identities(), roomy.views(0), roomy.captions(0, 0)), (16, 2, 2));
    for _ in 0..2 {
        assert_eq!(roomy.picture(3, 1).expect("decodes"), cramped.picture(3, 1).expect("decodes"));
    }
    let mix = MixedSource::new(vec![(Box::new(roomy), 3.0), (Box::new(pool()), 1.0)]).expect("same size");
    assert_eq!(mix.identities(), 32);
    let (arch, texts) = tiny();
    let batches = |order| {
        BatchBuilder {
            source: &mix,
            sequence: BatchSequence::new(&mix, order, 1, 16).expect("enough pairs"),
            augment: Augment::Surveillance,
            word_drop: 0.0,
            arch: &arch,
            prep: &Default::default(),
            texts: &texts,
            truth: None,
            tokens: None,
            seed: 1,
        }
        .build(5)
        .expect("a batch")
    };
    let one = batches(Order::Identities { again: 0.5, siblings: 0.6, lookalikes: None });
    let two = batches(Order::Identities { again: 0.5, siblings: 0.6, lookalikes: None });
    assert_eq!((&one.identities, &one.tokens), (&two.identities, &two.tokens));
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
    assert_eq!(flat(one.pictures.tensor()), flat(two.pictures.tensor()));
    let epoch = batches(Order::Epochs);
    assert_eq!(epoch.pictures.tensor().dims(), [16, 3, 32, 16]);

    // Rates over many batches: three of four from the folder, second pictures about as often as
    // asked for.
    let order = Order::Identities { again: 0.5, siblings: 0.0, lookalikes: None };
    let sequence = BatchSequence::new(&mix, order, 1, 16).expect("enough pairs");
    use rand::SeedableRng;
    let (mut folder, mut seconds, mut firsts) = (0, 0, 0);
    for index in 0..300 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(index);
        let chosen = sequence.choose(index, &mut rng);
        folder += chosen.iter().filter(|choice| choice.identity < 16).count();
        let again = chosen.windows(2).filter(|two| two[0].identity == two[1].identity && two[0].view != two[1].view);
        seconds += again.count();
        firsts += chosen.len();
    }
    let share = folder as f64 / firsts as f64;
    assert!((0.7..0.8).contains(&share), "{share}");
    let rate = seconds as f64 / (firsts - seconds) as f64;
    assert!((0.42..0.6).contains(&rate), "{rate}");
}

/// Resemblance of the first of four identities with the three behind it, over some batches from
/// `first` on.
fn resemblance(source: &dyn Source, lookalikes: Option<Lookalikes>, first: u64) -> f32 {
    use rand::SeedableRng;
    let order = Order::Identities { again: 0.0, siblings: 0.0, lookalikes };
    let sequence = BatchSequence::new(source, order, 1, 16).expect("enough pairs");
    let (mut sum, mut count) = (0.0, 0.0);
    for index in first..first + 20 {
        for four in sequence.choose(index, &mut rand::rngs::StdRng::seed_from_u64(index)).chunks_exact(4) {
            for other in &four[1..] {
                sum += source.resemblance(four[0].identity, other.identity);
                count += 1.0;
            }
        }
    }
    sum / count
}

#[test]
fn lookalikes_come_along_from_their_first_batch_on() {
    let folder = tempfile::tempdir().unwrap();
    dataset(folder.path(), 60);
    let entries = Dataset::CuhkPedes.read(folder.path(), "train").unwrap();
    let pool = Pool::new(Corpus::new(3), 0, 200, 2, [32, 16]);
    let folder = DatasetSource::new(entries, [32, 16], 1 << 20).expect("pictures");
    let lookalikes = Lookalikes { from: 100, count: 3, among: 40 };
    let rule = Some(lookalikes);
    for source in [&pool as &dyn Source, &folder] {
        let [by_chance, before, after] =
            [(None, 100), (rule, 0), (rule, 100)].map(|(rule, first)| resemblance(source, rule, first));
        assert!((before / by_chance - 1.0).abs() < 0.15, "{before} before, {by_chance} by chance");
        assert!(after > 1.3 * by_chance, "{after} with look-alikes, {by_chance} by chance");
        assert!((source.resemblance(2, 2) - 1.0).abs() < 1e-6);
    }
    let too_many = Some(Lookalikes { among: 2, ..lookalikes });
    let wrong = Order::Identities { again: 0.0, siblings: 0.0, lookalikes: too_many };
    let e = BatchSequence::new(&pool, wrong, 1, 16).err().expect("refused").to_string();
    assert!(e.contains("3 look-alikes") && e.contains("among 2"), "{e}");
}

#[test]
fn an_epoch_holds_every_pair_once() {
    let pool = Pool::new(Corpus::new(3), 0, 12, 3, [32, 16]);
    let sequence = BatchSequence::new(&pool, Order::Epochs, 7, 5).expect("enough pairs");
    assert_eq!(sequence.per_epoch(), 7);
    use rand::SeedableRng;
    let mut rng = rand::rngs::StdRng::seed_from_u64(0);
    let mut epoch = |first: u64| -> Vec<_> { (first..first + 7).flat_map(|i| sequence.choose(i, &mut rng)).collect() };
    let (one, two, again) = (epoch(0), epoch(7), epoch(0));
    let distinct: std::collections::HashSet<_> = one.iter().collect();
    assert_eq!(distinct.len(), 35);
    assert_ne!(one, two);
    assert_eq!(one, again);
    assert!(BatchSequence::new(&pool, Order::Epochs, 7, 37).is_err());
}

#[test]
fn a_picture_that_vanishes_stops_the_run_with_a_checkpoint() {
    let (root, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    dataset(root.path(), 20);
    let entries = Dataset::CuhkPedes.read(root.path(), "train").expect("a good dataset");
    let source = DatasetSource::new(entries, [32, 16], 0).expect("pictures");
    let (arch, texts) = tiny();
    let trainee = Trainee::with_decoder(&arch, WordPredictor::Shared, 3).expect("a sound architecture");
    let run = Run::new(folder.path(), config(500), &trainee, &source, &texts);
    let e = run.train(|line| {
        if line["step"] == 2 {
            std::fs::remove_dir_all(root.path().join("imgs/synth")).expect("removed");
        }
    });
    let e = e.expect_err("no picture is left").to_string();
    assert!(e.contains("imgs/synth/000/"), "{e}");
    assert!(checkpoint::step(folder.path()).is_some_and(|step| step >= 2));
}

/// A pool that takes its time, and counts how many threads it is asked by at once.
struct Slow {
    pool: Pool,
    asking: AtomicUsize,
    most: AtomicUsize,
}

impl Source for Slow {
    fn size(&self) -> [usize; 2] {
        Source::size(&self.pool)
    }

    fn identities(&self) -> usize {
        Source::identities(&self.pool)
    }

    fn views(&self, identity: usize) -> usize {
        Source::views(&self.pool, identity)
    }

    fn picture(&self, identity: usize, view: usize) -> sightline_tune::Result<std::borrow::Cow<'_, [u8]>> {
        let asking = self.asking.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(asking, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        self.asking.fetch_sub(1, Ordering::SeqCst);
        Source::picture(&self.pool, identity, view)
    }

    fn caption(&self, identity: usize, view: usize, which: usize, rng: &mut rand::rngs::StdRng) -> String {
        self.pool.caption(identity, view, which, rng)
    }
}

#[test]
fn a_batch_is_drawn_by_every_thread_and_the_same_on_any_number() {
    let (arch, texts) = tiny();
    let build = |threads: usize| {
        let source = Slow { pool: pool(), asking: AtomicUsize::new(0), most: AtomicUsize::new(0) };
        let batches = BatchBuilder {
            source: &source,
            sequence: BatchSequence::new(&source, Order::IDENTITIES, 1, 16).expect("enough pairs"),
            augment: Augment::Surveillance,
            word_drop: 0.1,
            arch: &arch,
            prep: &Default::default(),
            texts: &texts,
            truth: None,
            tokens: None,
            seed: 1,
        };
        let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let batch = workers.install(|| batches.build(5)).expect("a batch");
        let pixels: Vec<f32> = batch.pictures.tensor().flatten_all().and_then(|t| t.to_vec1()).expect("f32");
        (pixels, batch.tokens, batch.identities, source.most.into_inner())
    };
    let (one, four) = (build(1), build(4));
    assert!((&one.0, &one.1, &one.2) == (&four.0, &four.1, &four.2), "the number of threads counts");
    assert_eq!(one.3, 1);
    assert!(four.3 > 1, "four threads, and pictures are drawn one by one");
}
