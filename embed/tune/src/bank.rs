//! The gallery that negatives are mined from: training pictures with their features, computed once.

use std::iter::repeat_n;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{SliceRandom, index};
use serde_json::{Value, json};

use super::augment::drop_words;
use super::batch::plain;
use super::losses::global_loss;
use super::mined::{Mined, contrast};
use super::objective::{Objective, Sum};
use super::source::Source;
use super::trainee::Trainee;
use super::{Result, TrainError};
use sightline_embed::model::{Cada, Decoder, Preprocess, TokenBatch};
use sightline_embed::nn::l2_normalize;
use sightline_figures::stream;
use sightline_embed::text::CaptionTokenizer;

/// Pictures in one pass of the image encoder.
const BATCH: usize = 32;

/// Training pictures as the frozen encoder sees them.
pub struct Bank<'a> {
    source: &'a dyn Source,
    texts: &'a CaptionTokenizer,
    mined: Mined,
    seed: u64,
    word_drop: f32,
    /// The trainee with everything that the stage does not train as constants.
    model: Cada,
    /// Identity and view of every picture.
    pictures: Vec<(usize, usize)>,
    /// Patch features `[pictures, 1 + patches, vision width]`.
    patches: Tensor,
    /// Global features, L2-normalised, `[pictures, embed_dim]`.
    features: Tensor,
}

/// What a run gives its bank.
pub struct Feed<'a> {
    /// Where pictures and captions come from.
    pub source: &'a dyn Source,
    /// From words to ids.
    pub texts: &'a CaptionTokenizer,
    /// Picture preparation.
    pub prep: &'a Preprocess,
    /// Seed of everything drawn.
    pub seed: u64,
    /// Probability of leaving out a word.
    pub word_drop: f32,
}

impl<'a> Bank<'a> {
    /// Encodes the gallery with the weights that `trainee` has now.
    ///
    /// # Errors
    /// A picture that cannot be read any more, or a source of one identity.
    pub fn new(trainee: &Trainee, mined: &Mined, feed: &Feed<'a>) -> Result<Self> {
        let source = feed.source;
        let mut order: Vec<usize> = (0..source.identities()).collect();
        order.shuffle(&mut stream(feed.seed, 0x4241_4E4B, 0));
        let all = order.into_iter().flat_map(|identity| (0..source.views(identity)).map(move |view| (identity, view)));
        let pictures: Vec<(usize, usize)> = all.take(mined.pictures).collect();
        if pictures.iter().all(|(identity, _)| *identity == pictures[0].0) {
            return Err(TrainError::Usage("negatives cannot be mined from pictures of one identity".into()));
        }
        let model = constant(trainee, mined)?;
        let (mut patches, mut features) = (Vec::new(), Vec::new());
        for some in pictures.chunks(BATCH) {
            let bytes =
                some.iter().map(|&(identity, view)| source.picture(identity, view)).collect::<Result<Vec<_>>>()?;
            let bytes: Vec<&[u8]> = bytes.iter().map(|b| b.as_ref()).collect();
            let embeds = model.image_embeds(&plain(&bytes, source.size(), feed.prep)?)?.detach();
            features.push(l2_normalize(&model.image_proj(&embeds)?)?.detach());
            patches.push(embeds);
        }
        let patches = Tensor::cat(&patches, 0)?;
        let features = Tensor::cat(&features, 0)?;
        let (texts, mined) = (feed.texts, mined.clone());
        Ok(Self {
            source,
            texts,
            mined,
            seed: feed.seed,
            word_drop: feed.word_drop,
            model,
            pictures,
            patches,
            features,
        })
    }

    /// The loss of the stage's `step` and its parts by name; no loss when no text has its picture among its best.
    ///
    /// # Errors
    /// A caption the tokenizer cannot take, or when candle fails.
    pub fn loss(&self, objective: &Objective, step: usize) -> Result<(Option<Tensor>, Value)> {
        let mut rng = stream(self.seed, 0x4D49_4E45, step as u64);
        let gallery =
            index::sample(&mut rng, self.pictures.len(), self.mined.gallery.min(self.pictures.len())).into_vec();
        // Texts belong to the first pictures of the gallery, which is in no order.
        let own = &gallery[..self.mined.drawn().min(gallery.len())];
        let mut ids = Vec::with_capacity(own.len());
        for &picture in own {
            let (identity, view) = self.pictures[picture];
            let which = rng.random_range(0..self.source.captions(identity, view));
            let text = self.source.caption(identity, view, which, &mut rng);
            ids.push(self.texts.encode(&drop_words(&text, self.word_drop, &mut rng))?.ids);
        }
        let tokens = TokenBatch::new(&ids, self.model.arch().pad_token_id, None);
        let text = self.model.text_proj(&self.model.text_embeds(&tokens, None)?)?;
        let features = self.features.index_select(&numbers(&gallery)?, 0)?;
        let cosines = l2_normalize(&text.detach())?.matmul(&features.t()?.contiguous()?)?.to_vec2::<f32>()?;
        let mut sum = Sum::default();
        if self.mined.text {
            let identities: Vec<u32> = own.iter().map(|&picture| self.pictures[picture].0 as u32).collect();
            let images = features.narrow(0, 0, own.len())?;
            sum.add("global", global_loss(&images, &text, &identities, objective.global)?, objective.global_weight)?;
        }
        let (rows, negatives) = self.mine(&cosines, &gallery, &mut rng);
        if let Some(atp) = objective.atp.as_ref().filter(|_| !rows.is_empty()) {
            let each = negatives.len() / rows.len();
            let all: Vec<usize> = rows.iter().copied().chain(rows.iter().flat_map(|&r| repeat_n(r, each))).collect();
            let pictures: Vec<usize> = rows.iter().map(|&row| own[row]).chain(negatives).collect();
            let images = self.patches.index_select(&numbers(&pictures)?, 0)?;
            let logits = atp.judged(&self.model, &tokens.select(&all), &images, rows.len(), None)?;
            let halves = logits.loss()?;
            for (name, half) in [("atp", halves.whole), ("atp_local", halves.groups)] {
                if let Some(half) = half {
                    sum.add(name, half, atp.weight)?;
                }
            }
            if let Some((softmax, first)) = contrast(&logits, each)? {
                if self.mined.contrast > 0.0 {
                    sum.add("contrast", softmax, self.mined.contrast)?;
                }
                sum.parts.insert("first".into(), json!((first * 100.0).round()));
            }
        }
        Ok((sum.total, Value::Object(sum.parts)))
    }

    /// Texts (rows of `cosines` with the gallery) whose own picture is among their best, and for each the same number of
    /// pictures of others that are there too.
    fn mine(&self, cosines: &[Vec<f32>], gallery: &[usize], rng: &mut StdRng) -> (Vec<usize>, Vec<usize>) {
        let (mut rows, mut near) = (Vec::new(), Vec::<Vec<usize>>::new());
        for (row, cosine) in cosines.iter().enumerate() {
            let mut best: Vec<usize> = (0..cosine.len()).collect();
            let by_cosine = |a: &usize, b: &usize| cosine[*b].total_cmp(&cosine[*a]).then(a.cmp(b));
            if best.len() > self.mined.top {
                best.select_nth_unstable_by(self.mined.top - 1, by_cosine);
                best.truncate(self.mined.top);
            }
            best.sort_unstable();
            let identity = self.pictures[gallery[row]].0;
            let others = best.iter().map(|&p| gallery[p]).filter(|&p| self.pictures[p].0 != identity);
            if best.contains(&row) && rows.len() < self.mined.texts {
                rows.push(row);
                near.push(others.collect());
            }
        }
        let each = near.iter().map(Vec::len).min().unwrap_or_default().min(self.mined.negatives);
        if each == 0 {
            return (Vec::new(), Vec::new());
        }
        let drawn =
            |others: &Vec<usize>| index::sample(rng, others.len(), each).into_iter().map(|i| others[i]).collect();
        (rows, near.iter().map(drawn).collect::<Vec<Vec<usize>>>().concat())
    }
}

fn numbers(places: &[usize]) -> CandleResult<Tensor> {
    Tensor::new(places.iter().map(|p| *p as u32).collect::<Vec<_>>(), &Device::Cpu)
}

/// The trainee's model, in which all that the stage does not train is constant: no gradient is computed for it.
fn constant(trainee: &Trainee, mined: &Mined) -> Result<Cada> {
    let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let tensors = data.iter().map(|(name, var)| {
        let tensor = var.as_tensor();
        (name.clone(), if mined.trains(name) { tensor.clone() } else { tensor.detach() })
    });
    let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    Ok(Cada::new(trainee.model.arch(), Decoder::None, vb)?)
}
