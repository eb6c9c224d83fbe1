//! A model folder and an annotated gallery, and every score between them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use sightline_embed::ModelFolder;
use sightline_embed::model::{Cada, Decoder, ModelConfig, weights};
use sightline_embed::synth::Corpus;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::train::batch::plain;
use sightline_embed::train::dataset::Dataset;
use sightline_embed::train::evaluate::{Evaluation, evaluate};
use sightline_embed::train::pool::Pool;

use crate::report::progress;

/// A model folder ready to be asked.
pub struct Loaded {
    pub folder: PathBuf,
    pub id: String,
    pub config: ModelConfig,
    pub model: Cada,
    pub texts: CaptionTokenizer,
}

pub fn load(folder: &Path) -> Result<Loaded> {
    let ModelFolder { path: folder, config, id } = ModelFolder::open(folder)?;
    let model = weights::load(&folder.join("model.safetensors"), &config.architecture, Decoder::None, &Device::Cpu)?;
    let texts = CaptionTokenizer::load(&folder.join("tokenizer.json"), &config.architecture)?;
    Ok(Loaded { folder, id, config, model, texts })
}

/// Pictures as bytes at the model's size, captions, and the identity of each.
pub struct Gallery {
    pub pictures: Vec<Vec<u8>>,
    pub image_ids: Vec<u32>,
    pub captions: Vec<String>,
    pub text_ids: Vec<u32>,
}

pub fn read_gallery(root: &Path, split: &str, size: [usize; 2]) -> Result<Gallery> {
    let mut gallery =
        Gallery { pictures: Vec::new(), image_ids: Vec::new(), captions: Vec::new(), text_ids: Vec::new() };
    for entry in Dataset::CuhkPedes.read(root, split)? {
        gallery.pictures.push(entry.pixels(size)?);
        gallery.image_ids.push(entry.identity);
        for caption in entry.captions {
            gallery.captions.push(caption);
            gallery.text_ids.push(entry.identity);
        }
    }
    Ok(gallery)
}

pub fn drawn_gallery(seed: u64, identities: u64, size: [usize; 2]) -> Gallery {
    let corpus = Corpus::new(seed);
    let pool = Pool::new(corpus.clone(), 0, identities, 2, size);
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

pub fn score(loaded: &Loaded, gallery: &Gallery, k: usize) -> Result<Evaluation> {
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
