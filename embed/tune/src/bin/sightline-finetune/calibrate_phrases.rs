//! `calibrate-phrases`: fits the probability that a phrase, and that a whole description, is true
//! of a person, on labelled people that no model trains on, and writes both into the model folder.
//!
//! Scores are computed as in a search: the model splits a description into phrases, and its decoder
//! reads the whole description. Truth comes from the labels; what they do not show is left out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rand::rngs::StdRng;
use serde_json::json;
use sightline_core::PatchFeatures;
use sightline_embed::model::{ModelConfig, PhraseCalibration, WholeCalibration, log_odds, sigmoid};
use sightline_embed::{ImageFeatures, Model, ModelFolder, QueryPhrase, TextQuery};
use sightline_figures::stream;
use sightline_tune::atomic;
use sightline_tune::calibrate::equal_mass_error;
use sightline_tune::dataset::Entry;
use sightline_tune::facts::{Description, Facts, read_labels};
use sightline_tune::gallery::read_picture;
use sightline_tune::logistic::non_negative_regression;
use sightline_tune::people::{self, PeoplePart};
use sightline_tune::separation::SortedScores;

use crate::report::print_stderr;

#[derive(Args)]
#[command(after_help = "\
Example:
  sightline-finetune calibrate-phrases --model models/mine --people REALTRAIN

Every person held out for calibration is described several times, and each description is scored against all of them. The mean
of the people to train on stands for people at large. The persons are divided in two: a fit on the descriptions of one half is
measured on those of the other half, both ways. The calibration that is written is fitted on all persons.")]
pub struct CalibratePhrasesArgs {
    /// Model folder. The command rewrites its config.json.
    #[arg(long)]
    model: PathBuf,
    /// Folder of labelled people (reid_raw.json, labels.json, imgs/).
    #[arg(long, value_name = "DIR")]
    people: PathBuf,
    /// Number of descriptions per person.
    #[arg(long, default_value_t = 6)]
    descriptions: usize,
    /// Seed of the descriptions.
    #[arg(long, default_value_t = 777)]
    seed: u64,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Number of the random stream of the descriptions; the value is arbitrary, but determines the fit.
const STREAM: u64 = 1_442_695_041;

/// One phrase scored against one person.
struct ScoredPhrase {
    /// Cosine, difference of the local head's logits, and cosine with people at large.
    evidence: [f64; 3],
    /// Whether the description negates the phrase.
    negated: bool,
    /// Whether what the phrase names is there; `None` if unknown.
    is_true: Option<bool>,
}

/// One description scored against one person.
struct ScoredDescription {
    /// Index of the person that the description was made of.
    of: usize,
    phrases: Vec<ScoredPhrase>,
    /// Difference of the match logits and cosine of the whole description.
    whole: [f64; 2],
    is_true: Option<bool>,
}

impl ScoredDescription {
    /// Phrases of known truth, each with whether what it names is there.
    fn known_phrases(&self) -> impl Iterator<Item = (&ScoredPhrase, bool)> {
        self.phrases.iter().filter_map(|phrase| Some((phrase, phrase.is_true?)))
    }
}

pub fn run(args: &CalibratePhrasesArgs) -> Result<()> {
    ensure!(args.descriptions > 0, "--descriptions must be above 0");
    let config_path = args.model.join("config.json");
    let mut config = ModelConfig::read(&config_path)?;
    let model = load_with_phrases(&args.model)?;
    let gallery = Gallery::open(&model, &args.people)?;
    let asked = score_descriptions(&model, &gallery, args)?;
    let persons = asked.iter().map(|asked| asked.of).max().unwrap_or(0) + 1;
    let half = |second: bool| asked.iter().filter(move |asked| (asked.of % 2 == 1) == second);
    let fitted = fit(asked.iter()).context("the persons do not allow a fit: too few phrases are known of them")?;
    let (mut phrases, mut wholes) = (Vec::new(), Vec::new());
    for second in [false, true] {
        let other = fit(half(!second)).context("half of the persons do not allow a fit")?;
        for asked in half(second) {
            let all = other.whole(asked);
            phrases.extend(asked.known_phrases().map(|(phrase, is_true)| (other.served(phrase, all), is_true)));
            wholes.extend(asked.is_true.map(|is_true| (all, is_true)));
        }
    }
    let (phrase_error, whole_error) = (equal_mass_error(&phrases), equal_mass_error(&wholes));
    let share = |pairs: &[(f64, bool)]| pairs.iter().filter(|(_, t)| *t).count() as f64 / pairs.len().max(1) as f64;
    let version = format!("people-calibrate-n{persons}-d{}-seed{}", args.descriptions, args.seed);
    config.calibration.phrases = Some(fitted.calibration(gallery.people.clone(), version));
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

/// Area under the ROC curve of `(score, outcome)` pairs; 0.5 (chance) without both outcomes.
fn auc(pairs: &[(f64, bool)]) -> f64 {
    SortedScores::new(pairs.iter().map(|(score, outcome)| (*score as f32, 0, *outcome))).area(|_| 1).unwrap_or(0.5)
}

/// Loads the model at `path` with a placeholder calibration of phrases: without one, a model does
/// not split descriptions into phrases.
fn load_with_phrases(path: &Path) -> Result<Model> {
    let mut folder = ModelFolder::open(path)?;
    folder.config.calibration.phrases = Some(PhraseCalibration {
        cosine: 1.0,
        local: 1.0,
        typical: 0.0,
        people: Vec::new(),
        bias: 0.0,
        whole: WholeCalibration { phrases: 1.0, logit: 0.0, cosine: 0.0, bias: 0.0 },
        version: String::new(),
    });
    Ok(Model::load_as(&folder, "cpu", sightline_core::config::EmbedPrecision::Auto)?)
}

/// Facts and features of the persons held out for calibration.
struct Gallery {
    facts: Vec<Facts>,
    globals: Vec<Vec<f32>>,
    patches: Vec<PatchFeatures>,
    /// Mean of the global features of the people in the training part.
    people: Vec<f32>,
}

impl Gallery {
    fn open(model: &Model, root: &Path) -> Result<Self> {
        let labels = read_labels(&root.join(people::LABELS))?;
        let entries = PeoplePart::Calibrate.read(root)?;
        let (globals, patches) = features(model, &entries)?.into_iter().map(|f| (f.feature, f.patches)).unzip();
        let at_large = features(model, &PeoplePart::Train.read(root)?)?;
        let mut people = vec![0.0; model.info().feature_dim];
        for ImageFeatures { feature, .. } in &at_large {
            people.iter_mut().zip(feature).for_each(|(sum, x)| *sum += x / at_large.len() as f32);
        }
        let facts = entries.iter().map(|entry| Facts::of_label(&labels[&entry.identity])).collect();
        Ok(Self { facts, globals, patches, people })
    }
}

/// Features of the pictures of `entries`, in their order.
fn features(model: &Model, entries: &[Entry]) -> Result<Vec<ImageFeatures>> {
    let mut all = Vec::with_capacity(entries.len());
    for some in entries.chunks(16) {
        let pictures = some.iter().map(|entry| read_picture(&entry.path)).collect::<Result<Vec<_>, _>>()?;
        all.extend(model.embed_images(&pictures)?);
    }
    Ok(all)
}

/// Scores descriptions of every person against all persons.
fn score_descriptions(model: &Model, gallery: &Gallery, args: &CalibratePhrasesArgs) -> Result<Vec<ScoredDescription>> {
    let mut asked = Vec::new();
    for (of, own) in gallery.facts.iter().enumerate() {
        let mut rng: StdRng = stream(args.seed, STREAM, of as u64);
        for _ in 0..args.descriptions {
            let Some(description) = Description::of(own, &mut rng) else { continue };
            let query = model.encode_text(description.text())?;
            if query.phrases.is_empty() {
                continue;
            }
            let pieces: Vec<_> = query.phrases.iter().map(|phrase| phrase.pieces.clone()).collect();
            let (logits, locals) = model.match_and_phrase_logits(&query, &pieces, &gallery.patches)?;
            let of_person = logits.iter().zip(locals.chunks_exact(pieces.len())).enumerate();
            let judged = of_person.map(|(person, logits)| judge(gallery, [of, person], &description, &query, logits));
            asked.extend(judged);
        }
        print_stderr(&format!("\r{} of {} persons described", of + 1, gallery.facts.len()));
    }
    if asked.is_empty() {
        bail!("nothing can be said of the persons held out in {}", args.people.display());
    }
    Ok(asked)
}

/// Scores a description of person `of` against `person` and adds the truth; both numbers are
/// indices in the gallery.
fn judge(
    gallery: &Gallery,
    [of, person]: [usize; 2],
    description: &Description,
    query: &TextQuery,
    (logits, locals): (&[f32; 2], &[[f32; 2]]),
) -> ScoredDescription {
    let (facts, global) = (&gallery.facts[person], &gallery.globals[person]);
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
    let asked = |(queried, local): (&QueryPhrase, &[f32; 2])| {
        let local = f64::from(local[1] - local[0]);
        // Finds the phrase of the description with the same words; a negated phrase is compared
        // without its negation.
        let same = description
            .phrases()
            .iter()
            .find(|phrase| phrase.noun().to_lowercase().trim_start_matches("no ") == queried.text);
        let truth = same.and_then(|phrase| phrase.truth(facts));
        ScoredPhrase {
            evidence: [
                dot(global, &queried.feature),
                // The local head reads a negated phrase with its negation.
                if queried.negated { -local } else { local },
                dot(&gallery.people, &queried.feature),
            ],
            negated: queried.negated,
            is_true: truth.map(|holds| holds != queried.negated),
        }
    };
    ScoredDescription {
        of,
        phrases: query.phrases.iter().zip(locals).map(asked).collect(),
        whole: [f64::from(logits[1] - logits[0]), dot(global, &query.feature)],
        is_true: description.truth(facts),
    }
}

/// Number of leading features of a phrase that are evidence for it; the coefficients of the others
/// may have either sign.
const EVIDENCE: usize = 2;

/// Fitted coefficients and bias of both probabilities.
struct Fitted {
    phrase: ([f64; 3], f64),
    whole: ([f64; 3], f64),
}

/// Fits phrases first, then descriptions on the phrases' probabilities. `None` when there is too
/// little to fit.
fn fit<'a>(asked: impl Iterator<Item = &'a ScoredDescription> + Clone) -> Option<Fitted> {
    let (evidence, truths): (Vec<_>, Vec<_>) =
        asked.clone().flat_map(|a| a.known_phrases().map(|(phrase, is_true)| (phrase.evidence, is_true))).unzip();
    let partly = Fitted {
        phrase: non_negative_regression::<3, 4>(&evidence, &truths, EVIDENCE)?,
        whole: ([1.0, 0.0, 0.0], 0.0),
    };
    let (evidence, truths): (Vec<_>, Vec<_>) =
        asked.filter_map(|a| Some(([partly.product(a), a.whole[0], a.whole[1]], a.is_true?))).unzip();
    Some(Fitted { whole: non_negative_regression::<3, 4>(&evidence, &truths, 3)?, ..partly })
}

impl Fitted {
    fn phrase(&self, evidence: [f64; 3]) -> f64 {
        let (weights, bias) = self.phrase;
        sigmoid(weights.iter().zip(evidence).map(|(weight, x)| weight * x).sum::<f64>() + bias)
    }

    /// Probability, as served, that what `phrase` names is there. A phrase is at least as likely to
    /// hold as the whole description, whose probability is `all`.
    fn served(&self, phrase: &ScoredPhrase, all: f64) -> f64 {
        let there = self.phrase(phrase.evidence);
        if phrase.negated { there.min(1.0 - all) } else { there.max(all) }
    }

    /// Log-odds of the product of the phrases' probabilities.
    fn product(&self, asked: &ScoredDescription) -> f64 {
        let holds = |phrase: &ScoredPhrase| {
            let p = self.phrase(phrase.evidence);
            if phrase.negated { 1.0 - p } else { p }
        };
        log_odds(asked.phrases.iter().map(holds).product())
    }

    fn whole(&self, asked: &ScoredDescription) -> f64 {
        let ([phrases, logit, cosine], bias) = self.whole;
        sigmoid(phrases * self.product(asked) + logit * asked.whole[0] + cosine * asked.whole[1] + bias)
    }

    fn calibration(&self, people: Vec<f32>, version: String) -> PhraseCalibration {
        let ([cosine, local, typical], bias) = self.phrase;
        let ([phrases, logit, whole_cosine], whole_bias) = self.whole;
        PhraseCalibration {
            cosine: cosine as f32,
            local: local as f32,
            typical: typical as f32,
            people,
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
