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
use crate::train_args::{all_words, initial};

#[derive(Args)]
#[command(after_help = "\
Examples:
  sightline-finetune ablate --run ablations --table iv --seeds 2
  sightline-finetune ablate --run ablations --table k --table fig4 --table vii
  sightline-finetune ablate --run tuned --table iv --size small --init default --atp-start fresh --matching-from 0
  sightline-finetune ablate --run cross --table cross --assets ASSETS
  sightline-finetune ablate --run cross --table cross --domain cuhk-pedes:CUHK --domain icfg-pedes:ICFG

Each cell is a training and its judgement on persons it has not seen. A grid that was stopped goes on where it was when
the same command is given again; more tables and more seeds can be added at any time. tables.md and a plot per table are
written into --run after every training.

  iv, losses    CMPM; NDF; NDF + ARA; NDF + ATP on whole texts; NDF + ATP; all
  v, groups     groups of tokens in ATP: number, size, overlap
  fig3, k       pictures the decoder judges (no training of its own)
  fig4, masking masking rate of ARA
  vii, layers   layers of the text transformer
  words         texts with words that training used against synonyms that it was kept from (with --words seen)
  cross, domains trained on one kind of pictures, judged on another")]
pub struct AblateArgs {
    /// Folder of the grid.
    #[arg(long)]
    run: PathBuf,
    /// Table to fill; may be given several times; all but the one across domains when there is
    /// none.
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<Table>,
    /// Row of these tables to fill, by its name; may be given several times; all when there is
    /// none.
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,
    /// Trainings of each variant.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Dimensions: tiny (64 wide, minutes a training) or small (those of the model in the
    /// repository).
    #[arg(long, value_enum, default_value_t = Size::Tiny)]
    size: Size,
    /// Steps of a training; without it 1500 of tiny and 6000 of small.
    #[arg(long)]
    steps: Option<usize>,
    /// Pairs of a step.
    #[arg(long)]
    batch: Option<usize>,
    /// Highest learning rate.
    #[arg(long)]
    lr: Option<f64>,
    /// Drawn persons to learn from.
    #[arg(long, default_value_t = 4000)]
    identities: u64,
    /// Pictures of each.
    #[arg(long, default_value_t = 2)]
    views: u64,
    /// Drawn persons to evaluate on, with two pictures each.
    #[arg(long, default_value_t = 1000)]
    test_identities: u64,
    /// Pictures per text that are re-ranked with the decoder.
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// Weight of the auxiliary attribute heads in every variant; 0 leaves them out (drawn persons
    /// alone have labels).
    #[arg(long)]
    attributes: Option<f64>,
    /// tokenizer.json to use; without it that of --text-init or --init, or of the model in the
    /// repository.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Folder of a text encoder in BERT layout (vocab.txt, model.safetensors): words start from its
    /// embeddings.
    #[arg(long)]
    text_init: Option<PathBuf>,
    /// Weights that every cell starts from (the paper's start from BLIP's): a model folder
    /// ("default" for that of the repository), whose dimensions count then, .pth or .safetensors.
    #[arg(long)]
    init: Option<PathBuf>,
    /// What the decoder's cross-attention starts from when matching begins: projections, or fresh,
    /// which leaves what --init brought.
    #[arg(long, value_enum)]
    atp_start: Option<StartArg>,
    /// Share of a training without matching and word prediction.
    #[arg(long, default_value_t = 0.25)]
    matching_from: f64,
    /// Look-alikes that come along with every chosen person.
    #[arg(long, default_value_t = 0)]
    lookalikes: usize,
    /// Words of drawn persons: all, or seen, without the synonyms kept back for testing.
    #[arg(long, default_value = "all")]
    words: String,
    /// Folder of body and clothes meshes: the second domain is persons drawn from them.
    #[arg(long)]
    assets: Option<PathBuf>,
    /// Domain LAYOUT:ROOT instead of drawn persons, as `train --data`; the first one is that of the
    /// other tables.
    #[arg(long = "domain", value_name = "LAYOUT:ROOT")]
    domains: Vec<DataSpec>,
    /// A JSON object per line on standard output.
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
    recipe.init = args.init.as_deref().map(initial).transpose()?;
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

/// Runs the command; gives the exit code.
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
            say(&reporter, line);
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
fn say(reporter: &Reporter, line: &Value) {
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
