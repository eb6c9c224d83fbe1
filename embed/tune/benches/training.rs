//! Whole training steps at the default model's shapes, with random data: forward, NDF, ATP,
//! backward, AdamW.
//!
//! At the end the image encoder alone, one crop on one core, as a product with fixed weights runs
//! it.
//!
//! `cargo bench -p sightline-tune --bench training -- [--f32] [--steps N] [--atp PAIRS] [--captions]`
//! prints one line a case with the fastest and the median step. `peer_training.py` beside this file
//! does the same work in PyTorch. With `--captions` texts are as long as captions of drawn persons,
//! computed in turn with their padding and without.
#![allow(missing_docs)]

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use candle_nn::VarMap;
use sightline_embed::graph::{Cada, WordPredictor};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, TokenBatch};
use sightline_figures::Corpus;
use sightline_tune::losses::{Groups, HardNegative, MatchTargets, NdfVariant, hard_negatives, match_loss, ndf};
use sightline_tune::ops::{backward, network};
use sightline_tune::optimizer::{AdamW, AdamWConfig};
use sightline_tune::trainee::Frozen;
use sightline_tune::weights;

const BATCH: usize = 64;
const TOKENS: usize = 20;

fn architecture() -> Architecture {
    Architecture {
        image_size: [192, 96],
        patch_size: 24,
        vision_width: 256,
        vision_depth: 4,
        vision_heads: 4,
        text_hidden_size: 256,
        text_layers: 3,
        text_heads: 4,
        text_intermediate: 1024,
        vocab_size: 7000,
        max_position_embeddings: 73,
        enc_token_id: 6999,
        embed_dim: 256,
        ..Architecture::cada_base()
    }
}

/// Numbers in -1..1 without pattern.
fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..shape.iter().product()).map(|_| next()).collect::<Vec<f32>>(), shape, &Device::Cpu)
}

/// Texts of such lengths.
fn texts(lengths: impl Iterator<Item = usize>) -> TokenBatch {
    let word = |i: usize, j: usize| (104 + (i * 131 + j * 17) % 6000) as u32;
    let texts: Vec<Vec<u32>> = lengths.enumerate().map(|(i, n)| (0..n).map(|j| word(i, j)).collect()).collect();
    TokenBatch::new(&texts, 0, None)
}

/// Texts as long as captions of drawn persons: [CLS], words, marks and [SEP].
fn captions() -> TokenBatch {
    let corpus = Corpus::new(1);
    let pieces = |text: String| 2 + text.split_whitespace().count() + text.matches([',', '.']).count();
    texts((0..BATCH as u64).map(|i| pieces(corpus.caption(i, 0))))
}

struct Bench {
    model: Cada,
    optimizer: AdamW,
    pixels: Tensor,
    texts: TokenBatch,
    identities: Vec<u32>,
}

impl Bench {
    fn new(texts: TokenBatch) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let arch = architecture();
        let (model, variables): (Cada, VarMap) =
            weights::trainable(&arch, WordPredictor::None, &Device::Cpu, Frozen::default())?;
        let named = variables.data().lock().map_err(|_| "a poisoned lock")?.clone().into_iter().collect();
        Ok(Self {
            model,
            optimizer: AdamW::new(named, AdamWConfig::default()),
            pixels: random(&[BATCH, 3, 192, 96], 1)?,
            texts,
            identities: (0..BATCH as u32).collect(),
        })
    }

    fn loss(&self, pairs: usize) -> Result<Tensor> {
        let model = &self.model;
        let images = network::image_embeds(model, &self.pixels)?;
        let texts = network::text_embeds(model, &self.texts, None)?;
        let (v, t) = (network::image_proj(model, &images)?, network::text_proj(model, &self.texts, &texts)?);
        let mut total = ndf(&v, &t, &self.identities, NdfVariant::Paper)?;
        if let (1.., Some(negatives)) =
            (pairs, hard_negatives(&v, &t, &MatchTargets::of_identities(&self.identities), HardNegative::Cosine, 0)?)
        {
            let n = pairs;
            let own = || 0..n;
            let rows: Vec<usize> = own().chain(own()).chain(negatives.text_for_image[..n].iter().copied()).collect();
            let pictures = own().chain(negatives.image_for_text[..n].iter().copied()).chain(own());
            let pictures = Tensor::from_iter(pictures.map(|i| i as u32), &Device::Cpu)?;
            let tokens = self.texts.select(&rows);
            let fused = network::fused(model, &tokens, &images.index_select(&pictures, 0)?, None)?;
            let matched: Vec<bool> = (0..3 * n).map(|row| row < n).collect();
            total = (total + match_loss(&network::itm_logits(model, &fused)?, &matched)?)?;
            let (means, owner) = Groups::of(12, true).means(&fused, tokens.lengths())?;
            let owned: Vec<bool> = owner.iter().map(|&row| matched[row]).collect();
            total = (total + match_loss(&network::itm_local_logits(model, &means)?, &owned)?)?;
        }
        Ok(total)
    }

    /// Milliseconds of forward, backward and optimiser.
    fn step(&mut self, pairs: usize) -> Result<[f64; 3]> {
        let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        let began = Instant::now();
        let loss = self.loss(pairs)?;
        let value = loss.to_scalar::<f32>()?;
        assert!(value.is_finite(), "the loss is {value}");
        let forward = ms(began);
        let began = Instant::now();
        let grads = backward(&loss)?;
        let backward = ms(began);
        let began = Instant::now();
        self.optimizer.step(&grads, 1e-4, Some(5.0), |_| false)?;
        drop((loss, grads));
        Ok([forward, backward, ms(began)])
    }
}

fn option(name: &str) -> Option<usize> {
    let mut args = std::env::args().skip_while(|a| a != name);
    args.next().and_then(|_| args.next()).and_then(|v| v.parse().ok())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // SAFETY: no other thread runs yet. candle's own threads spin between its ops; what is left to
    // it is small.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    sightline_embed::keep_large_buffers();
    let f32 = std::env::args().any(|a| a == "--f32");
    let precision = if f32 { Precision::F32 } else { Precision::Bf16 };
    let steps = option("--steps").unwrap_or(20);
    let cases = option("--atp").map_or(vec![8, 32], |n| vec![n]);
    for pairs in cases {
        let mut rounds: Vec<(&str, Bench)> = if std::env::args().any(|a| a == "--captions") {
            let texts = captions();
            let all = texts.tokens() * texts.batch();
            println!("captions: {} of {all} tokens are padding", all - texts.lengths().iter().sum::<usize>());
            let padded = texts.padded(0, 0);
            vec![("captions, padded", Bench::new(padded)?), ("captions, packed", Bench::new(texts)?)]
        } else {
            vec![("20 tokens", Bench::new(texts((0..BATCH).map(|_| TOKENS)))?)]
        };
        for turn in 0..rounds.len() * 2 {
            let at = turn % rounds.len();
            let (name, bench) = &mut rounds[at];
            let mut times = precision.scope(|| -> Result<Vec<[f64; 3]>> {
                (0..3).try_for_each(|_| bench.step(pairs).map(drop))?;
                (0..steps).map(|_| bench.step(pairs)).collect()
            })?;
            let whole = |t: &[f64; 3]| t.iter().sum::<f64>();
            times.sort_by(|a, b| whole(a).total_cmp(&whole(b)));
            let (least, median) = (&times[0], &times[times.len() / 2]);
            println!(
                "{precision:?} atp {pairs}, {name}: least {:.1} ms ({:.0} pairs/s), median {:.1} ms ({:.0} pairs/s): \
                 forward {:.1}, backward {:.1}, AdamW {:.1}",
                whole(least),
                BATCH as f64 / whole(least) * 1e3,
                whole(median),
                BATCH as f64 / whole(median) * 1e3,
                median[0],
                median[1],
                median[2]
            );
        }
    }
    Ok(())
}
