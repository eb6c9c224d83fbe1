//! The second stage of matching: the decoder alone learns, the global ranking stays, and a stopped run goes on exactly.

use std::sync::atomic::{AtomicBool, Ordering};

use sightline_embed::model::Decoder;
use sightline_tune::mined::Mined;
use sightline_tune::run::{OPEN, Run, RunConfig, Trainee};
use sightline_tune::schedule::Schedule;

use crate::train_run::{assert_same, config, pool, tiny, train, values};

fn with(steps: usize, mined: Mined) -> RunConfig {
    let mut config = config(steps);
    config.schedule = Schedule::Fall { warmup: 2, fall: 0 };
    if let Some(atp) = &mut config.objective.atp {
        atp.mined = Some(mined);
    }
    config
}

fn small(steps: usize) -> Mined {
    Mined { steps, pictures: 24, gallery: 16, top: 12, texts: 3, negatives: 2, ..Mined::default() }
}

#[test]
fn only_the_decoder_learns_from_mined_negatives() {
    let (first, both) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, before, _) = train(first.path(), with(3, small(0)));
    let (outcome, after, lines) = train(both.path(), with(3, small(4)));
    assert_eq!(outcome.unwrap().steps, 7);
    let last = lines.iter().rfind(|line| line["step"] == 7).unwrap();
    assert!(last["contrast"].is_number() && last["atp_local"].is_number() && last["ndf"].is_null(), "{last}");
    let mined = small(4);
    let (mut moved, mut stayed) = (0, 0);
    for ((name, old), (_, new)) in values(&before).iter().zip(&values(&after)) {
        assert!(mined.trains(name) || old == new, "{name} is frozen");
        if old == new { stayed += 1 } else { moved += 1 }
    }
    assert!(moved > 5 && stayed > moved, "{moved} variables moved, {stayed} stayed");
}

#[test]
fn the_text_side_may_learn_with_it_and_pictures_never() {
    let (first, both) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, before, _) = train(first.path(), with(2, small(0)));
    let (_, after, lines) = train(both.path(), with(2, Mined { text: true, ..small(2) }));
    assert!(lines.iter().any(|line| line["step"] == 4 && line["global"].is_number()), "{lines:?}");
    let own = "text_encoder.encoder.layer.0.attention.self.query.weight";
    for ((name, old), (_, new)) in values(&before).iter().zip(&values(&after)) {
        assert!(name != own || old != new, "{name} learns");
        assert!(!name.starts_with("visual_encoder") || old == new, "{name} is frozen");
    }
}

#[test]
fn resumed_within_the_stage_equals_uninterrupted() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = with(2, small(4));
    let (_, straight, _) = train(whole.path(), config.clone());
    let stop = AtomicBool::new(false);
    let (arch, texts) = tiny();
    let trainee = Trainee::with_decoder(&arch, Decoder::Shared, 3).unwrap();
    let pool = pool();
    let run = Run { stop: &stop, ..Run::new(parts.path(), config.clone(), &trainee, &pool, &texts) };
    let outcome = run.go(|line| stop.store(line["step"] == 3, Ordering::Relaxed)).unwrap();
    assert!(outcome.stopped && outcome.steps == 3, "{outcome:?}");
    let (outcome, resumed, lines) = train(parts.path(), config);
    assert_eq!((outcome.unwrap().steps, lines[0]["resumed_at"].as_u64()), (6, Some(3)));
    assert_same(&resumed, &straight);
}

#[test]
fn a_stage_behind_an_open_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, _, _) = train(folder.path(), with(OPEN, small(3)));
    assert!(outcome.unwrap_err().to_string().contains("second stage"));
}
