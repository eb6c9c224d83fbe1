//! `words`: a model folder whose vocabulary knows words that its training never met.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use clap::Args;
use rand::SeedableRng;
use serde_json::{Value, json};
use sightline_embed::model::weights;
use sightline_embed::train::lexicon::Lexicon;
use sightline_embed::train::meaning::Encoder;
use sightline_embed::train::recipe::Recipe;
use sightline_embed::train::source::DataSpec;
use sightline_embed::train::unseen::{Mixture, Taught, teach};
use sightline_embed::train::{TrainError, atomic, folder, vocabulary};
use sightline_embed::{ModelFolder, QUERY_BANK, synth};

#[derive(Args)]
#[command(after_help = "\
Example:
  sightline-finetune words --model runs/mine/model --encoder MINILM --colours rgb.txt --wordnet DIR --out models/mine

A word of which no training caption speaks has an embedding that the layers above were never trained with. It gets a
mixture of the embeddings of trained words instead: of the colours that look like it (--colours), of its kin (--wordnet), or
else of the words whose meanings are near to the encoder (its whole network, run on each word). Words of both dictionaries,
the encoder's own, those of people and clothes, and the lines of --more become entries of the vocabulary when a trained word
is near enough. Texts of trained words give the same scores as before, to the bit.

rgb.txt is the colour survey of xkcd.com (CC0, https://xkcd.com/color/rgb.txt); DIR holds data.noun and data.adj of WordNet 3
(Debian package wordnet-base, /usr/share/wordnet).

What training met is taken from the recipe in the model's config.json, for drawn persons; --captions names a file with one
caption a line for a model that was trained on others. The calibration stays as it is.")]
pub struct WordsArgs {
    /// Model folder to start from, or \"default\" for the one in the repository.
    #[arg(long)]
    model: PathBuf,
    /// Folder of a text encoder in BERT layout (vocab.txt, config.json, model.safetensors), for example MiniLM-L6.
    #[arg(long)]
    encoder: PathBuf,
    /// Names of colours, lines of name, tabulator and #rrggbb.
    #[arg(long, value_name = "FILE")]
    colours: Option<PathBuf>,
    /// Folder with WordNet's data.noun and data.adj.
    #[arg(long, value_name = "DIR")]
    wordnet: Option<PathBuf>,
    /// Model folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Replace the folder if there is one.
    #[arg(long)]
    force: bool,
    /// Captions of the training, one a line, instead of those of the recipe.
    #[arg(long)]
    captions: Option<PathBuf>,
    /// More words, one a line, that become entries of the vocabulary when a trained word is near enough.
    #[arg(long)]
    more: Option<PathBuf>,
    /// Trained words that make up a new one, at most.
    #[arg(long, default_value_t = Mixture::default().of)]
    of: usize,
    /// Their shares are the softmax of their cosines over this: low makes the nearest count alone.
    #[arg(long, default_value_t = Mixture::default().temperature)]
    temperature: f32,
    /// Least cosine of the nearest trained word.
    #[arg(long, default_value_t = Mixture::default().least)]
    least: f32,
    /// Show what this word is made of; may be given several times.
    #[arg(long = "show", value_name = "WORD")]
    show: Vec<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Captions of drawn persons that stand for all that training saw.
const CAPTIONS: u64 = 20_000;

/// Captions like those of the training that `recipe` (of a model's provenance) tells of.
fn drawn(recipe: &Value) -> Result<Vec<String>> {
    let recipe: Recipe = serde_json::from_value(recipe.clone()).context(
        "config.json tells of no recipe that this program knows; --captions names the captions of the training",
    )?;
    let mut all = Vec::new();
    for (index, spec) in recipe.data.iter().enumerate() {
        let DataSpec::Synth { identities, .. } = spec else {
            anyhow::bail!("the model was trained on {spec} too: --captions names the captions of the training");
        };
        let corpus = synth::Corpus::new(recipe.run.seed.wrapping_add(index as u64));
        let mut rng = rand::rngs::StdRng::seed_from_u64(recipe.run.seed);
        let persons = (0..CAPTIONS).map(|i| corpus.person(i % identities));
        all.extend(persons.map(|person| synth::caption_with(&person, recipe.words(), &mut rng)));
    }
    Ok(all)
}

fn lines(path: &PathBuf) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.lines().map(|line| line.trim().to_lowercase()).filter(|line| !line.is_empty()).collect())
}

/// Writes the model folder `from` to `out` with its words taught by `lexicon` and the encoder in `encoder`. Gives what was
/// taught, and the record of it that the folder's config.json holds.
fn taught(
    from: &Path,
    out: &Path,
    encoder: &Path,
    captions: impl Iterator<Item = String>,
    more: Vec<String>,
    lexicon: &Lexicon,
    mixture: &Mixture,
) -> Result<(Taught, Value)> {
    let from = ModelFolder::open(from)?;
    let mut config = from.config.clone();
    let network = Encoder::open(encoder)?;
    let mut extra: Vec<String> = network.whole_words().map(str::to_owned).collect();
    extra.extend(vocabulary::domain().map(str::to_owned).chain(more));
    let tokenizer = serde_json::from_slice(&fs::read(from.path.join("tokenizer.json"))?)?;
    let mut tensors = weights::read(&from.path.join("model.safetensors"))?;
    let name = "text_encoder.embeddings.word_embeddings.weight";
    let embeddings = tensors.get(name).with_context(|| format!("the model has no {name}"))?;
    let taught = teach(tokenizer, embeddings, captions, extra.into_iter(), lexicon, &network, mixture)?;
    let pieces = taught.embeddings.dim(0)?;
    config.architecture.vocab_size = pieces;
    config.architecture.enc_token_id = pieces as u32 - 1;
    let record = json!({
        "encoder": encoder.file_name().map(|n| n.to_string_lossy()), "mixture": mixture,
        "colours": lexicon.colours.is_some(), "wordnet": lexicon.wordnet.is_some(),
        "changed": taught.changed, "added": taught.added,
    });
    if !config.provenance.is_object() {
        config.provenance = json!({});
    }
    config.provenance["words"] = record.clone();
    tensors.insert(name.into(), taught.embeddings.clone());
    for tensor in tensors.values_mut() {
        *tensor = tensor.to_dtype(DType::F16)?;
    }
    atomic::folder(out, true, |part| {
        folder::write_tensors(part, &config, &tensors, taught.tokenizer.to_string().as_bytes())?;
        // Its words keep their features.
        if let Some(bank) = from.bank_on(&Device::Cpu).map_err(TrainError::from)? {
            bank.save(&part.join(QUERY_BANK)).map_err(TrainError::from)?;
        }
        sightline_embed::write_self_test(part).map_err(TrainError::from)
    })?;
    Ok((taught, record))
}

pub fn run(args: &WordsArgs) -> Result<()> {
    ensure!(args.of > 0 && args.temperature > 0.0, "--of and --temperature must be above 0");
    ensure!(args.force || !args.out.exists(), "{} exists already; --force replaces it", args.out.display());
    let captions = match &args.captions {
        Some(path) => lines(path)?,
        None => drawn(&ModelFolder::open(&args.model)?.config.provenance["recipe"])?,
    };
    let more = args.more.as_ref().map(lines).transpose()?.unwrap_or_default();
    let mixture = Mixture { of: args.of, temperature: args.temperature, least: args.least, ..Mixture::default() };
    let lexicon = Lexicon::open(args.colours.as_deref(), args.wordnet.as_deref())?;
    let captions = captions.into_iter();
    let (taught, record) = taught(&args.model, &args.out, &args.encoder, captions, more, &lexicon, &mixture)?;
    tell(args, &taught, &record);
    Ok(())
}

fn tell(args: &WordsArgs, taught: &Taught, record: &Value) {
    if args.json {
        println!("{record}");
        return;
    }
    println!("{} words changed, {} added: {}", taught.changed, taught.added, args.out.display());
    for word in &args.show {
        let parts = taught.made_of.get(word).map(|parts| {
            let parts: Vec<String> = parts.iter().map(|(from, share)| format!("{from} {share:.2}")).collect();
            parts.join(", ")
        });
        println!("{word}: {}", parts.as_deref().unwrap_or("as it was"));
    }
}
