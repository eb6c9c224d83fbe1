//! `ablate`: the paper's ablation tables on drawn persons or datasets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;
use sightline_embed::model::ModelConfig;
use sightline_embed::{DEFAULT_MODEL, resolve_model_folder};
use sightline_tune::ablate::{Domain, Grid, Persons, Settings, Table};
use sightline_tune::recipe::{Recipe, Shape};
use sightline_tune::schedule::Schedule;
use sightline_tune::source::{DataSpec, Lookalikes, Order};

use crate::objective::StartArg;
use crate::report::Reporter;
use crate::train::on_signal;
use crate::train_args::{all_words, resolve_init};

#[derive(Args)]
#[command(after_help = "\
Examples:
  sightline-finetune ablate --run ablations --table iv --seeds 2
  sightline-finetune ablate --run ablations --table k --table fig4 --table vii
  sightline-finetune ablate --run tuned --table iv --size small --init default --atp-start fresh --matching-from 0
  sightline-finetune ablate --run cross --table cross --assets ASSETS
  sightline-finetune ablate --run cross --table cross --domain cuhk-pedes:CUHK --domain icfg-pedes:ICFG

Each cell is one training and its evaluation on persons it has not seen. The same command resumes a grid that was stopped,
and tables and seeds can be added at any time. tables.md and a plot per table are written to --run after every training.

  iv, losses    CMPM; NDF; NDF + ARA; NDF + ATP on whole texts; NDF + ATP; all
  v, groups     groups of tokens in ATP: number, size, overlap; sizes follow the median length of the captions
  fig3, k       number of pictures that the decoder re-ranks (no separate training)
  fig4, masking masking rate of ARA
  vii, layers   layers of the text transformer, with the number of parameters
  words         test texts with words seen in training, and with held-out synonyms (with --words seen)
  cross, domains training on one kind of pictures, evaluation on another")]
pub struct AblateArgs {
    /// Folder of the grid: trainings, results, tables and plots.
    #[arg(long)]
    run: PathBuf,
    /// Table to fill; may be repeated. Default: all tables, the one across domains only if there
    /// are several domains.
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<Table>,
    /// Name of a row to fill in these tables; may be repeated. Default: all rows.
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,
    /// Number of trainings of each variant, with different seeds.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Dimensions of the model: tiny (width 64, minutes per training) or small (those of the model
    /// in the repository).
    #[arg(long, value_enum, default_value_t = Size::Tiny)]
    size: Size,
    /// Steps per training. Default: 1500 for tiny, 6000 for small.
    #[arg(long)]
    steps: Option<usize>,
    /// Pairs per step.
    #[arg(long)]
    batch: Option<usize>,
    /// Highest learning rate.
    #[arg(long)]
    lr: Option<f64>,
    /// Number of drawn persons to train on.
    #[arg(long, default_value_t = 4000)]
    identities: u64,
    /// Pictures per drawn person to train on.
    #[arg(long, default_value_t = 2)]
    views: u64,
    /// Number of drawn persons to evaluate on, with two pictures each.
    #[arg(long, default_value_t = 1000)]
    test_identities: u64,
    /// Number of pictures per text that are re-ranked with the decoder.
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// Weight of the auxiliary attribute heads in every variant; 0 leaves them out (only drawn
    /// persons have labels).
    #[arg(long)]
    attributes: Option<f64>,
    /// tokenizer.json to use. Default: that of --text-init or --init, otherwise that of the model
    /// in the repository.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Folder of a text encoder in BERT layout (vocab.txt, model.safetensors) that initialises the
    /// word embeddings.
    #[arg(long)]
    text_init: Option<PathBuf>,
    /// Initial weights of every cell (the paper uses BLIP's): a model folder ("default" for that of
    /// the repository), which also sets the dimensions, or a .pth or .safetensors file.
    #[arg(long)]
    init: Option<PathBuf>,
    /// Initial weights of the decoder's cross-attention when matching begins: projections, or
    /// fresh, which keeps those of --init.
    #[arg(long, value_enum)]
    atp_start: Option<StartArg>,
    /// Share of a training's steps before matching and word prediction begin, 0 to 1.
    #[arg(long, default_value_t = 0.25)]
    matching_from: f64,
    /// Number of look-alikes that every chosen person brings into the batch.
    #[arg(long, default_value_t = 0)]
    lookalikes: usize,
    /// Words in captions of drawn persons: all, or seen, which leaves out the synonyms held out for
    /// testing.
    #[arg(long, default_value = "all")]
    words: String,
    /// Folder of body and clothes meshes; persons drawn from them become another domain.
    #[arg(long)]
    assets: Option<PathBuf>,
    /// Dataset to use as a domain instead of drawn persons, as in `train --data`; may be repeated.
    /// The other tables use the first domain.
    #[arg(long = "domain", value_name = "LAYOUT:ROOT")]
    domains: Vec<DataSpec>,
    /// Print one JSON object per line to standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Size {
    Tiny,
    Small,
}

fn domains(args: &AblateArgs) -> Result<Vec<Domain>> {
    let mut all = Vec::new();
    for spec in &args.domains {
        match spec {
            DataSpec::Folder(dataset, root) => all.push(Domain::Folder(dataset.to_string(), root.clone())),
            DataSpec::People(..) => bail!("--domain {spec}: labelled people have no test split; it is LAYOUT:ROOT"),
            DataSpec::Garments(_) => bail!("--domain {spec}: garments are no persons; it is LAYOUT:ROOT"),
            DataSpec::Synth { .. } => {
                bail!("--domain {spec}: drawn persons are a domain already (and --assets DIR another)")
            }
        }
    }
    if all.is_empty() {
        all.push(Domain::Drawn);
    }
    all.extend(args.assets.clone().map(Domain::Meshes));
    Ok(all)
}

fn settings(args: &AblateArgs) -> Result<Settings> {
    let (preset, steps) = match args.size {
        Size::Tiny => ("quick", 1500),
        Size::Small => ("default", 6000),
    };
    let mut recipe = Recipe::preset(preset).context("the preset is missing")?;
    let steps = args.steps.unwrap_or(steps);
    ensure!(steps > 0, "--steps must be above 0");
    recipe.run.steps = steps;
    recipe.run.batch = args.batch.unwrap_or(recipe.run.batch);
    recipe.run.lr = args.lr.unwrap_or(recipe.run.lr);
    recipe.run.schedule = Schedule::Fall { warmup: (steps / 12).min(200), fall: steps / 3 };
    // The best checkpoint is not chosen: every variant is evaluated after its last step.
    recipe.run.validate_every = 0;
    recipe.run.words_from = 0;
    ensure!((0.0..1.0).contains(&args.matching_from), "--matching-from {} is not in 0 to 1", args.matching_from);
    let matching_from = (steps as f64 * args.matching_from) as usize;
    let objective = &mut recipe.run.objective;
    if let Some(atp) = &mut objective.atp {
        atp.from = matching_from;
        if let Some(start) = args.atp_start {
            atp.start = start.into();
        }
    }
    if let Some(ara) = &mut objective.ara {
        ara.from = matching_from;
    }
    objective.attributes = args.attributes.unwrap_or(objective.attributes);
    if let Order::Identities { lookalikes, .. } = &mut recipe.run.order {
        *lookalikes = (args.lookalikes > 0).then_some(Lookalikes::of(args.lookalikes));
    }
    recipe.all_words = all_words(&args.words)?;
    recipe.init = args.init.as_deref().map(resolve_init).transpose()?;
    if let Some(folder) = recipe.init_folder() {
        recipe.shape = Shape::of(&ModelConfig::read(&folder.join("config.json"))?.architecture);
    }
    recipe.text_init = args.text_init.clone();
    recipe.tokenizer = match (args.text_init.is_some() || recipe.init_folder().is_some(), &args.tokenizer) {
        (_, Some(file)) if file.as_os_str() != DEFAULT_MODEL => Some(file.clone()),
        (true, _) => None,
        (false, _) => Some(resolve_model_folder(Path::new(DEFAULT_MODEL))?.join("tokenizer.json")),
    };
    let persons = |identities, views, seed| Persons { identities, views, seed };
    Ok(Settings {
        train: persons(args.identities, args.views, 1),
        test: persons(args.test_identities, 2, 999),
        calibration: persons((args.test_identities / 4).max(8), 2, 555),
        k: args.k,
        domains: domains(args)?,
        recipe,
    })
}

/// Runs the command; returns the exit code.
pub fn run(args: &AblateArgs) -> Result<u8> {
    let reporter = Reporter::new(args.json);
    let stop = Arc::new(AtomicBool::new(false));
    on_signal(Arc::clone(&stop))?;
    sightline_embed::keep_large_buffers();
    let settings = settings(args)?;
    let tables = match args.tables.as_slice() {
        [] => Table::ALL.into_iter().filter(|t| *t != Table::Domains || settings.domains.len() > 1).collect(),
        some => some.to_vec(),
    };
    let grid = Grid { folder: &args.run, settings, tables, rows: args.rows.clone(), seeds: args.seeds, stop: &stop };
    let done = grid.run(|line| {
        if args.json {
            reporter.value(line);
        } else {
            print_progress(&reporter, line);
        }
    })?;
    if done.cells < done.of {
        reporter.end(&format!("{} of {} cells are done; the same command goes on", done.cells, done.of));
        return Ok(130);
    }
    let path = args.run.join("tables.md");
    if !args.json {
        println!("{}", std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    reporter.end(&format!("{} cells; written to {}", done.of, path.display()));
    Ok(0)
}

/// Prints a line of progress as text.
fn print_progress(reporter: &Reporter, line: &Value) {
    if let Some(training) = line["training"].as_u64() {
        let rows: Vec<&str> = line["rows"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let left = line["eta_min"].as_f64().map(|m| format!(", {m:.0} min left in all")).unwrap_or_default();
        reporter.note(&format!(
            "\ntraining {training} of {}, seed {}{left}: {}",
            line["of"],
            line["seed"],
            rows.join("; ")
        ));
    } else if let Some(cells) = line["cells"].as_u64() {
        reporter.note(&format!("{} of {cells} cells are done; {} trainings to go", line["done"], line["trainings"]));
    } else if line["result"].is_object() {
        let r = &line["result"];
        let rank = |name: &str| r[name]["rank1"].as_f64().map(|v| format!("{name} {v:.1}"));
        let all: Vec<String> = ["global", "bank", "local", "calibrated"].into_iter().filter_map(rank).collect();
        let row = r["row"].as_str().unwrap_or_default();
        reporter.note(&format!("{}: {row}: Rank-1 {}", r["table"].as_str().unwrap_or_default(), all.join(", ")));
    } else {
        reporter.line(line);
    }
}
