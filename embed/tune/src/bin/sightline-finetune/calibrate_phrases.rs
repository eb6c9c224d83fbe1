//! `calibrate-phrases`: fits the probability that a phrase is true of a person, and that a whole description is, on labelled
//! people that nobody learned from, and writes both into the model folder.
//!
//! Everything goes the way of a search: the model takes a description apart, and its decoder reads the whole of it. Truth comes
//! from the labels; what they do not show counts for nothing.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rand::rngs::StdRng;
use serde_json::json;
use sightline_core::RgbImage;
use sightline_embed::model::{ModelConfig, PhraseCalibration, WholeCalibration, log_odds};
use sightline_embed::{Model, ModelFolder, TextQuery, decode_image};
use sightline_figures::stream;
use sightline_tune::atomic;
use sightline_tune::facts::{Description, Facts, read_labels};
use sightline_tune::logistic::{calibration_error, fit};
use sightline_tune::people::{self, PeoplePart};

use crate::report::print_stderr;

#[derive(Args)]
#[command(after_help = "\
Example:
  sightline-finetune calibrate-phrases --model models/mine --people REALTRAIN

Each of the persons held out for it is described several times, and each description is asked of all of them. The persons are
divided in two: what is fitted on the descriptions of one half is measured on those of the other, both ways; what is written is
fitted on all.")]
pub struct CalibratePhrasesArgs {
    /// Model folder; its config.json is rewritten.
    #[arg(long)]
    model: PathBuf,
    /// Folder of labelled people (reid_raw.json, labels.json, imgs/).
    #[arg(long, value_name = "DIR")]
    people: PathBuf,
    /// Descriptions of each person.
    #[arg(long, default_value_t = 6)]
    descriptions: usize,
    /// Seed of the descriptions.
    #[arg(long, default_value_t = 777)]
    seed: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Number of the random stream of the descriptions; the value is arbitrary, but decides the fit.
const STREAM: u64 = 1_442_695_041;

/// One phrase asked of one person.
struct AskedPhrase {
    /// Cosine and difference of the local head's logits.
    evidence: [f64; 2],
    is_true: bool,
}

/// One description asked of one person.
struct AskedDescription {
    /// Number of the person it was made of.
    of: usize,
    phrases: Vec<AskedPhrase>,
    /// Evidence of phrases whose truth is not known, too: all of the description.
    all: Vec<[f64; 2]>,
    /// Negated phrases among `all`.
    negated: Vec<bool>,
    /// Match logits' difference and cosine of the whole.
    whole: [f64; 2],
    is_true: Option<bool>,
}

pub fn run(args: &CalibratePhrasesArgs) -> Result<()> {
    ensure!(args.descriptions > 0, "--descriptions must be above 0");
    let config_path = args.model.join("config.json");
    let mut config = ModelConfig::read(&config_path)?;
    // Without a calibration a model takes nothing apart.
    let neutral = WholeCalibration { phrases: 1.0, logit: 0.0, cosine: 0.0, bias: 0.0 };
    let asked = {
        let mut folder = ModelFolder::open(&args.model)?;
        folder.config.calibration.phrases =
            Some(PhraseCalibration { cosine: 1.0, local: 1.0, bias: 0.0, whole: neutral, version: String::new() });
        ask(&Model::load_as(&folder, "cpu", sightline_core::config::EmbedPrecision::Auto)?, args)?
    };
    let persons = asked.iter().map(|asked| asked.of).max().unwrap_or(0) + 1;
    let half = |second: bool| asked.iter().filter(move |asked| (asked.of % 2 == 1) == second);
    let fitted = fitted(asked.iter()).context("the persons do not allow a fit: too few phrases are known of them")?;
    let (mut phrases, mut wholes) = (Vec::new(), Vec::new());
    for second in [false, true] {
        let other = self::fitted(half(!second)).context("half of the persons do not allow a fit")?;
        for asked in half(second) {
            phrases.extend(asked.phrases.iter().map(|p| (other.phrase(p.evidence), p.is_true)));
            wholes.extend(asked.is_true.map(|is_true| (other.whole(asked), is_true)));
        }
    }
    let (phrase_error, whole_error) = (calibration_error(&phrases), calibration_error(&wholes));
    let share = |pairs: &[(f64, bool)]| pairs.iter().filter(|(_, t)| *t).count() as f64 / pairs.len().max(1) as f64;
    let version = format!("people-calibrate-n{persons}-d{}-seed{}", args.descriptions, args.seed);
    config.calibration.phrases = Some(fitted.calibration(version));
    let record = json!({
        "persons": persons, "descriptions": asked.len() / persons.max(1),
        "phrases": {"asked": phrases.len(), "true": share(&phrases), "ece": phrase_error, "auc": auc(&phrases)},
        "descriptions_whole": {"asked": wholes.len(), "true": share(&wholes), "ece": whole_error, "auc": auc(&wholes)},
        "measured_on": "the other half of the persons, both ways",
    });
    if !config.provenance.is_object() {
        config.provenance = json!({});
    }
    config.provenance["phrase_calibration"] = record.clone();
    atomic::file(&config_path, &serde_json::to_vec_pretty(&config)?)?;
    if args.json {
        println!("{record}");
        return Ok(());
    }
    println!("{:<22} {:>8} {:>8} {:>8} {:>8}", "measured on the others", "asked", "true", "AUC", "ECE");
    for (name, pairs, error) in [("phrases", &phrases, phrase_error), ("whole descriptions", &wholes, whole_error)] {
        println!("{name:<22} {:>8} {:>7.1}% {:>8.3} {:>8.4}", pairs.len(), 100.0 * share(pairs), auc(pairs), error);
    }
    println!("\nwritten to {}", config_path.display());
    Ok(())
}

/// Area under the curve of `(score, outcome)` pairs.
fn auc(pairs: &[(f64, bool)]) -> f64 {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut falses, mut won) = (0.0, 0.0);
    for same in sorted.chunk_by(|a, b| a.0 == b.0) {
        let trues = same.iter().filter(|(_, outcome)| *outcome).count() as f64;
        let others = same.len() as f64 - trues;
        won += trues * (falses + others / 2.0);
        falses += others;
    }
    won / (falses * (sorted.len() as f64 - falses)).max(1.0)
}

/// Descriptions of every held-out person, each asked of all of them.
fn ask(model: &Model, args: &CalibratePhrasesArgs) -> Result<Vec<AskedDescription>> {
    let labels = read_labels(&args.people.join(people::LABELS))?;
    let entries = PeoplePart::Calibrate.read(&args.people)?;
    let mut pictures = Vec::with_capacity(entries.len());
    for entry in &entries {
        let bytes = std::fs::read(&entry.path).with_context(|| format!("reading {}", entry.path.display()))?;
        pictures.push(decode_image(&bytes).with_context(|| format!("{} is no picture", entry.path.display()))?);
    }
    let facts: Vec<Facts> = entries.iter().map(|entry| Facts::of_label(&labels[&entry.identity])).collect();
    let features =
        pictures.chunks(16).map(|some: &[RgbImage]| model.embed_images(some)).collect::<Result<Vec<_>, _>>()?;
    let (globals, patches): (Vec<_>, Vec<_>) = features.into_iter().flatten().map(|f| (f.feature, f.patches)).unzip();
    let mut asked = Vec::new();
    for (of, own) in facts.iter().enumerate() {
        let mut rng: StdRng = stream(args.seed, STREAM, of as u64);
        for _ in 0..args.descriptions {
            let Some(description) = Description::of(own, &mut rng) else { continue };
            let query = model.encode_text(description.text())?;
            if query.phrases.is_empty() {
                continue;
            }
            let pieces: Vec<_> = query.phrases.iter().map(|phrase| phrase.pieces.clone()).collect();
            let (logits, locals) = model.match_and_phrase_logits(&query, &pieces, &patches)?;
            for (person, facts) in facts.iter().enumerate() {
                let own = &locals[person * pieces.len()..][..pieces.len()];
                asked.push(one(of, &description, &query, facts, &globals[person], logits[person], own));
            }
        }
        print_stderr(&format!("\r{} of {} persons described", of + 1, facts.len()));
    }
    if asked.is_empty() {
        bail!("nothing can be said of the persons held out in {}", args.people.display());
    }
    Ok(asked)
}

/// What the model says of one description and one person, and what is true.
fn one(
    of: usize,
    description: &Description,
    query: &TextQuery,
    facts: &Facts,
    global: &[f32],
    logits: [f32; 2],
    locals: &[[f32; 2]],
) -> AskedDescription {
    let dot = |text: &[f32]| -> f64 { text.iter().zip(global).map(|(a, b)| f64::from(a * b)).sum() };
    // The local head reads a negated phrase with its negation.
    let all = query.phrases.iter().zip(locals).map(|(phrase, l)| {
        let local = f64::from(l[1] - l[0]);
        [dot(&phrase.feature), if phrase.negated { -local } else { local }]
    });
    let all: Vec<[f64; 2]> = all.collect();
    let mut phrases = Vec::new();
    for (said, evidence) in query.phrases.iter().zip(&all) {
        // A phrase of the description that says the same; what a negated one negates is asked for.
        let same = description
            .phrases()
            .iter()
            .find(|phrase| phrase.noun().to_lowercase().trim_start_matches("no ") == said.text);
        let truth = same.and_then(|phrase| phrase.truth(facts));
        phrases.extend(truth.map(|t| AskedPhrase { evidence: *evidence, is_true: t != said.negated }));
    }
    AskedDescription {
        of,
        phrases,
        negated: query.phrases.iter().map(|phrase| phrase.negated).collect(),
        all,
        whole: [f64::from(logits[1] - logits[0]), dot(&query.feature)],
        is_true: description.truth(facts),
    }
}

/// A fit of both probabilities.
struct Fitted {
    phrase: ([f64; 2], f64),
    whole: ([f64; 3], f64),
}

/// Fits phrases first, then descriptions on the phrases' probabilities. `None` when there is too little to fit.
fn fitted<'a>(asked: impl Iterator<Item = &'a AskedDescription> + Clone) -> Option<Fitted> {
    let phrases: Vec<([f64; 2], bool)> =
        asked.clone().flat_map(|a| a.phrases.iter().map(|p| (p.evidence, p.is_true))).collect();
    let phrase = not_against_itself(&phrases)?;
    let partly = Fitted { phrase, whole: ([1.0, 0.0, 0.0], 0.0) };
    let whole: Vec<([f64; 3], bool)> =
        asked.filter_map(|a| Some(([partly.product(a), a.whole[0], a.whole[1]], a.is_true?))).collect();
    Some(Fitted { whole: fit(&whole)?, ..partly })
}

/// A fit in which no evidence counts against itself: a weight below 0 is left out.
fn not_against_itself(samples: &[([f64; 2], bool)]) -> Option<([f64; 2], f64)> {
    let (weights, bias) = fit(samples)?;
    match weights {
        [cosine, local] if cosine >= 0.0 && local >= 0.0 => Some((weights, bias)),
        [cosine, _] if cosine >= 0.0 => {
            let one: Vec<([f64; 1], bool)> = samples.iter().map(|(x, t)| ([x[0]], *t)).collect();
            fit(&one).map(|([cosine], bias)| ([cosine, 0.0], bias))
        }
        _ => {
            let one: Vec<([f64; 1], bool)> = samples.iter().map(|(x, t)| ([x[1]], *t)).collect();
            fit(&one).filter(|([local], _)| *local >= 0.0).map(|([local], bias)| ([0.0, local], bias))
        }
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

impl Fitted {
    fn phrase(&self, evidence: [f64; 2]) -> f64 {
        let ([cosine, local], bias) = self.phrase;
        sigmoid(cosine * evidence[0] + local * evidence[1] + bias)
    }

    /// Log-odds of the product of the phrases' probabilities.
    fn product(&self, asked: &AskedDescription) -> f64 {
        let holds = |(evidence, negated): (&[f64; 2], &bool)| {
            let p = self.phrase(*evidence);
            if *negated { 1.0 - p } else { p }
        };
        log_odds(asked.all.iter().zip(&asked.negated).map(holds).product())
    }

    fn whole(&self, asked: &AskedDescription) -> f64 {
        let ([phrases, logit, cosine], bias) = self.whole;
        sigmoid(phrases * self.product(asked) + logit * asked.whole[0] + cosine * asked.whole[1] + bias)
    }

    fn calibration(&self, version: String) -> PhraseCalibration {
        let ([cosine, local], bias) = self.phrase;
        let ([phrases, logit, whole_cosine], whole_bias) = self.whole;
        PhraseCalibration {
            cosine: cosine as f32,
            local: local as f32,
            bias: bias as f32,
            whole: WholeCalibration {
                phrases: phrases as f32,
                logit: logit as f32,
                cosine: whole_cosine as f32,
                bias: whole_bias as f32,
            },
            version,
        }
    }
}
