//! Evaluating and calibrating model folders.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use serde_json::json;
use sightline_embed::ModelFolder;
use sightline_embed::model::{Cada, Calibration, Decoder, ModelConfig, weights};
use sightline_embed::synth::Corpus;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::train::batch::plain;
use sightline_embed::train::calibrate::fit;
use sightline_embed::train::dataset;
use sightline_embed::train::evaluate::{Evaluation, Ranks, evaluate, ranks};
use sightline_embed::train::pool::{Pool, squash};

use crate::commands::progress;
use crate::{CalibrateArgs, EvalArgs};

/// A model folder ready to be asked.
struct Loaded {
    folder: PathBuf,
    id: String,
    config: ModelConfig,
    model: Cada,
    texts: CaptionTokenizer,
}

fn load(folder: &Path) -> Result<Loaded> {
    let ModelFolder { path: folder, config, id } = ModelFolder::open(folder)?;
    let model = weights::load(&folder.join("model.safetensors"), &config.architecture, Decoder::None, &Device::Cpu)?;
    let texts = CaptionTokenizer::load(&folder.join("tokenizer.json"), &config.architecture)?;
    Ok(Loaded { folder, id, config, model, texts })
}

/// Pictures as bytes at the model's size, captions, and the identity of each.
struct Gallery {
    pictures: Vec<Vec<u8>>,
    image_ids: Vec<u32>,
    captions: Vec<String>,
    text_ids: Vec<u32>,
}

fn read_gallery(root: &Path, split: &str, size: [usize; 2]) -> Result<Gallery> {
    let mut gallery =
        Gallery { pictures: Vec::new(), image_ids: Vec::new(), captions: Vec::new(), text_ids: Vec::new() };
    for entry in dataset::cuhk_pedes(root, split)? {
        let picture = image::open(&entry.path).with_context(|| format!("reading {}", entry.path.display()))?.to_rgb8();
        gallery.pictures.push(squash(&picture, size)?);
        gallery.image_ids.push(entry.identity);
        for caption in entry.captions {
            gallery.captions.push(caption);
            gallery.text_ids.push(entry.identity);
        }
    }
    Ok(gallery)
}

fn drawn_gallery(seed: u64, identities: u64, size: [usize; 2]) -> Gallery {
    let corpus = Corpus::new(seed);
    let pool = Pool::new(corpus, 0, identities, 2, size);
    pool.draw_all(progress("persons", identities));
    let mut gallery =
        Gallery { pictures: Vec::new(), image_ids: Vec::new(), captions: Vec::new(), text_ids: Vec::new() };
    for index in 0..identities {
        for view in 0..2 {
            gallery.pictures.push(pool.picture(index, view).to_vec());
            gallery.image_ids.push(index as u32);
        }
        gallery.captions.push(corpus.caption(index, 5));
        gallery.text_ids.push(index as u32);
    }
    gallery
}

fn score(loaded: &Loaded, gallery: &Gallery, k: usize) -> Result<Evaluation> {
    let texts: Vec<Vec<u32>> =
        gallery.captions.iter().map(|c| Ok(loaded.texts.encode(c)?.ids)).collect::<Result<_>>()?;
    let (size, prep) = (loaded.config.architecture.image_size, &loaded.config.preprocess);
    let pixels = |range: std::ops::Range<usize>| {
        let some: Vec<&[u8]> = gallery.pictures[range].iter().map(Vec::as_slice).collect();
        plain(&some, size, prep)
    };
    let told = progress("texts", texts.len() as u64);
    Ok(evaluate(&loaded.model, &texts, gallery.pictures.len(), pixels, k, |done, _| told(done as u64))?)
}

pub fn eval(args: &EvalArgs) -> Result<()> {
    ensure!(args.k > 0, "--k must be above 0");
    let loaded = load(&args.model)?;
    let size = loaded.config.architecture.image_size;
    let gallery = match (args.dataset.as_str(), &args.root) {
        ("cuhk-pedes", Some(root)) => read_gallery(root, &args.split, size)?,
        ("cuhk-pedes", None) => bail!("--dataset cuhk-pedes needs --root"),
        ("synth", _) => drawn_gallery(args.seed, args.identities, size),
        (other, _) => bail!("--dataset {other}: it is cuhk-pedes or synth"),
    };
    let done = score(&loaded, &gallery, args.k)?;
    let rank = |scores: &[Vec<f32>]| ranks(scores, &gallery.text_ids, &gallery.image_ids);
    let (global, local) = (rank(&done.cosine), rank(&done.local));
    if args.json {
        println!(
            "{}",
            json!({"global": global, "local": local, "k": args.k, "texts": gallery.captions.len(), "images": gallery.pictures.len(), "model_id": loaded.id})
        );
    } else {
        println!("{} texts, {} images, K = {}\n", gallery.captions.len(), gallery.pictures.len(), args.k);
        println!("{:<8} {:>7} {:>7} {:>7} {:>7}", "", "Rank-1", "Rank-5", "Rank-10", "mAP");
        let line = |name: &str, r: Ranks| {
            println!("{name:<8} {:>7.2} {:>7.2} {:>7.2} {:>7.2}", r.rank1, r.rank5, r.rank10, r.map)
        };
        line("global", global);
        line("local", local);
    }
    Ok(())
}

pub fn calibrate(args: &CalibrateArgs) -> Result<()> {
    let mut loaded = load(&args.model)?;
    let gallery = drawn_gallery(args.seed, args.identities, loaded.config.architecture.image_size);
    let done = score(&loaded, &gallery, args.k)?;
    // How much the cosine weighs beside the match logits is chosen by likelihood, with the scaling fitted anew for each.
    let evidence = |weight: f32| -> Vec<(f32, bool)> {
        let pair = |&(text, image, logit): &(usize, usize, f32)| {
            (logit + weight * done.cosine[text][image], gallery.text_ids[text] == gallery.image_ids[image])
        };
        done.pairs.iter().map(pair).collect()
    };
    let (similarity, fit) = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
        .into_iter()
        .filter_map(|weight| Some((weight, fit(&evidence(weight))?)))
        .min_by(|a, b| a.1.log_loss.total_cmp(&b.1.log_loss))
        .context("the pairs do not allow a fit: the model does not tell matches from mismatches")?;
    loaded.config.calibration = Calibration {
        temperature: fit.temperature as f32,
        bias: fit.bias as f32,
        similarity,
        version: format!("platt-both-synth-seed{}-n{}", args.seed, args.identities),
        calibrated: true,
    };
    if !loaded.config.provenance.is_object() {
        loaded.config.provenance = json!({});
    }
    loaded.config.provenance["calibration"] = serde_json::to_value(fit)?;
    fs::write(loaded.folder.join("config.json"), serde_json::to_vec_pretty(&loaded.config)?)?;
    println!("{}", serde_json::to_string(&fit)?);
    Ok(())
}
