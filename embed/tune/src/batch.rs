//! Builds batches: the tensors of the chosen pairs.
//!
//! A batch depends only on the seed and its number, so a resumed run sees the same batches as an
//! uninterrupted one.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rayon::prelude::*;

use super::atp::StatedPhrases;
use super::attributes::Labels;
use super::augment::{Augment, drop_words};
use super::facts::{Description, Facts, Phrase};
use super::losses::{MatchTargets, PhraseTruth};
use super::objective::Truth;
use super::source::{BatchSequence, ChosenPair, Source};
use super::streams;
use super::token_cache::TokenCache;
use super::{Result, TrainError};
use sightline_embed::EmbedError;
use sightline_embed::model::{Architecture, Preprocess, TokenBatch};
use sightline_embed::net::BackboneNet;
use sightline_embed::preprocess::normalize_all;
use sightline_embed::text::phrases::{Spans, TaggedCaption};
use sightline_embed::text::{CaptionTokenizer, clean, pieces_at};
use sightline_figures::stream;

/// One training batch of B pairs.
pub struct Batch {
    /// The pictures.
    pub pictures: Pictures,
    /// One caption per picture.
    pub tokens: TokenBatch,
    /// Positions of attribute words in each caption, for ARA.
    pub spans: Vec<Spans>,
    /// Which caption matches which picture.
    pub targets: MatchTargets,
    /// Phrases, and the pictures they are true of; `None` when the run does not train on phrases.
    pub phrases: Option<(TokenBatch, PhraseTruth)>,
    /// Phrases that captions state and known facts about persons; empty when the run does not use
    /// the truth of phrases.
    pub stated: StatedPhrases,
    /// Identity of each pair, as the source numbers it.
    pub identities: Vec<u32>,
    /// Attributes of each picture, for the auxiliary heads.
    pub labels: Vec<Labels>,
}

/// Input of the vision transformer for the pictures of a batch.
pub enum Pictures {
    /// Normalised pixels `[B, 3, H, W]`, f32.
    Pixels(Tensor),
    /// Tokens of a frozen backbone.
    Tokens {
        /// The tokens that are not dropped, `[B, places, token width]`, f32.
        values: Tensor,
        /// Places of those tokens in the grid, ascending.
        places: Vec<u32>,
    },
}

impl Pictures {
    /// The pixels or tokens; the first dimension is the picture.
    pub fn tensor(&self) -> &Tensor {
        let (Self::Pixels(tensor) | Self::Tokens { values: tensor, .. }) = self;
        tensor
    }
}

/// A frozen backbone and the cache of its tokens.
pub struct TokenMaker {
    /// The backbone.
    pub network: BackboneNet,
    /// Cache of computed tokens; `None` computes them anew in every step.
    pub cache: Option<TokenCache>,
    /// For each identity, its first record in the cache and the number of variants of each of its
    /// pictures.
    records: Vec<(usize, usize)>,
    /// Share of the tokens that a batch drops.
    pub drop: f32,
    /// First batch that drops no tokens.
    whole_from: u64,
}

impl TokenMaker {
    /// Creates a maker for `source`, whose part i has `variants[i]` variants of each picture; a
    /// single number applies to all parts. `cache` is called with the number of records, and is not
    /// called when `variants` is empty.
    ///
    /// # Errors
    /// The error of `cache`, or fewer numbers of variants than the source has parts.
    pub fn new(
        network: BackboneNet,
        source: &dyn Source,
        drop: f32,
        variants: &[usize],
        cache: impl FnOnce(usize) -> Result<TokenCache>,
    ) -> Result<Self> {
        let mut records = Vec::with_capacity(source.identities());
        let mut count = 0;
        if !variants.is_empty() {
            for identity in 0..source.identities() {
                let variants = match (variants, variants.get(source.part(identity))) {
                    ([one], _) => *one,
                    (_, Some(own)) => *own,
                    (all, None) => {
                        let message = format!("{} numbers of variants are fewer than the sources", all.len());
                        return Err(TrainError::Usage(message));
                    }
                };
                records.push((count, variants));
                count += source.views(identity) * variants;
            }
        }
        let cache = if variants.is_empty() { None } else { Some(cache(count)?) };
        Ok(Self { network, cache, records, drop, whole_from: u64::MAX })
    }

    /// Drops no tokens from `batch` on: a model that will serve on whole pictures ends its training
    /// on whole pictures.
    #[must_use]
    pub fn whole_from(self, batch: u64) -> Self {
        Self { whole_from: batch, ..self }
    }
}

/// Builds batch number 0, 1, 2 and so on.
pub struct BatchBuilder<'a> {
    /// Source of pictures and captions.
    pub source: &'a dyn Source,
    /// The pairs of each batch.
    pub sequence: BatchSequence<'a>,
    /// Augmentation of pictures.
    pub augment: Augment,
    /// Probability that a word of a caption is dropped.
    pub word_drop: f32,
    /// Architecture of the model.
    pub arch: &'a Architecture,
    /// Mean and standard deviation of the pixels.
    pub prep: &'a Preprocess,
    /// Tokenizer of the captions.
    pub texts: &'a CaptionTokenizer,
    /// Settings for the truth of phrases, when the run uses it.
    pub truth: Option<Truth>,
    /// Computes the tokens of pictures, for a model with a backbone.
    pub tokens: Option<&'a TokenMaker>,
    /// Seed of all random choices.
    pub seed: u64,
}

impl BatchBuilder<'_> {
    /// Builds batch `index`.
    ///
    /// # Errors
    /// A picture that can no longer be read, or a caption that the tokenizer rejects.
    pub fn build(&self, index: u64) -> Result<Batch> {
        let mut rng = stream(self.seed, streams::BATCH, index);
        let chosen = self.sequence.choose(index, &mut rng);
        let pictures = self.pictures(index, &chosen, &mut rng)?;
        let (mut ids, mut spans) = (Vec::with_capacity(chosen.len()), Vec::with_capacity(chosen.len()));
        let mut descriptions = Vec::with_capacity(chosen.len());
        for choice in &chosen {
            let (text, description) = self.source.describe(choice.identity, choice.view, choice.caption, &mut rng);
            // A description that lost a word no longer states the same facts.
            let drop = if description.is_some() { 0.0 } else { self.word_drop };
            let text = drop_words(&text, drop, &mut rng);
            descriptions.push(description);
            let tagged = TaggedCaption::new(self.texts, &text)?;
            ids.push(tagged.ids);
            spans.push(tagged.spans);
        }
        let identities: Vec<u32> = chosen.iter().map(|choice| choice.identity as u32).collect();
        let facts = self.truth.map(|_| chosen.iter().map(|choice| self.source.facts(choice.identity)).collect());
        let facts: Vec<Option<Cow<'_, Facts>>> = facts.unwrap_or_default();
        let targets = match self.truth {
            Some(Truth { targets: true, .. }) => MatchTargets::of_truth(&identities, |text, picture| {
                let description: &Description = descriptions[text].as_ref()?;
                Some(facts[picture].as_deref().and_then(|facts| description.truth(facts)))
            }),
            _ => MatchTargets::of_identities(&identities),
        };
        let phrases = match self.truth {
            Some(truth) => self.phrases(truth.phrases, &facts, &mut rng)?,
            None => None,
        };
        let stated = match self.truth {
            Some(_) => self.stated(&descriptions, &facts)?,
            None => StatedPhrases::default(),
        };
        Ok(Batch {
            stated,
            targets,
            phrases,
            pictures,
            tokens: TokenBatch::new(&ids, self.arch.pad_token_id, None),
            spans,
            identities,
            labels: chosen.iter().map(|choice| self.source.labels(choice.identity)).collect(),
        })
    }

    /// Finds the word pieces of each phrase in its caption, and adds the known facts about every
    /// person.
    fn stated(&self, descriptions: &[Option<Description>], facts: &[Option<Cow<'_, Facts>>]) -> Result<StatedPhrases> {
        let mut captions = Vec::with_capacity(descriptions.len());
        for description in descriptions {
            captions.push(match description {
                Some(description) => pieces_of_phrases(self.texts, description)?,
                None => Vec::new(),
            });
        }
        Ok(StatedPhrases { captions, persons: facts.iter().map(|facts| facts.as_deref().cloned()).collect() })
    }

    /// Draws up to `count` true and false phrases about persons of the batch, with their truth for
    /// every picture. `None` when no facts are known.
    fn phrases(
        &self,
        count: usize,
        facts: &[Option<Cow<'_, Facts>>],
        rng: &mut StdRng,
    ) -> Result<Option<(TokenBatch, PhraseTruth)>> {
        let known: Vec<&Facts> = facts.iter().flatten().map(AsRef::as_ref).collect();
        let mut phrases: Vec<Phrase> = Vec::with_capacity(count);
        // A person with few known facts may have no phrase, so there are up to twice as many draws.
        for _ in 0..2 * count {
            if phrases.len() == count || known.is_empty() {
                break;
            }
            let about = known[rng.random_range(0..known.len())];
            let some = if rng.random() { Phrase::true_of(about, rng) } else { Phrase::false_of(about, rng) };
            phrases.extend(some.choose(rng).cloned());
        }
        if phrases.is_empty() {
            return Ok(None);
        }
        let mut ids = Vec::with_capacity(phrases.len());
        for phrase in &phrases {
            // Half read as in a sentence ("wearing a red jacket"), half as in a typed query ("red
            // jacket").
            let words = if rng.random() { phrase.text() } else { phrase.noun() };
            ids.push(self.texts.encode(words)?.ids);
        }
        let truth = |phrase: &Phrase| -> Vec<Option<bool>> {
            facts.iter().map(|facts| facts.as_deref().and_then(|facts| phrase.truth(facts))).collect()
        };
        let known = phrases.iter().flat_map(truth).collect();
        let truth = PhraseTruth { pictures: facts.len(), known };
        Ok(Some((TokenBatch::new(&ids, self.arch.pad_token_id, None), truth)))
    }

    /// Pixels or tokens of the chosen pairs.
    fn pictures(&self, batch: u64, chosen: &[ChosenPair], rng: &mut StdRng) -> Result<Pictures> {
        let [h, w] = self.source.size();
        // Drawing or decoding is most of the work, so it runs in parallel, with a separate random
        // stream for each picture.
        let seeds: Vec<u64> = chosen.iter().map(|_| rng.random()).collect();
        let Some(maker) = self.tokens else {
            let each = 3 * h * w;
            let mut pixels = vec![0f32; chosen.len() * each];
            chosen.par_iter().zip(pixels.par_chunks_mut(each)).zip(seeds).try_for_each(|((choice, out), seed)| {
                self.varied(choice, &mut stream(seed, streams::PICTURE_VARIANT, 0), out)
            })?;
            return Ok(Pictures::Pixels(Tensor::from_vec(pixels, (chosen.len(), 3, h, w), &Device::Cpu)?));
        };
        let (grid, width) = (self.arch.grid().len(), self.arch.token_width());
        let mut places: Vec<u32> = (0..grid as u32).collect();
        let drop = if batch < maker.whole_from { maker.drop } else { 0.0 };
        let keep = ((grid as f32 * (1.0 - drop)).round() as usize).clamp(1, grid);
        places.shuffle(rng);
        places.truncate(keep);
        places.sort_unstable();
        let mut values = vec![0f32; chosen.len() * keep * width];
        let rows = chosen.par_iter().zip(values.par_chunks_mut(keep * width)).zip(seeds);
        rows.try_for_each(|((choice, out), seed)| -> Result<()> {
            let mut all = vec![0f32; grid * width];
            self.tokens_of(maker, choice, seed, &mut all)?;
            for (out, place) in out.chunks_exact_mut(width).zip(&places) {
                out.copy_from_slice(&all[*place as usize * width..][..width]);
            }
            Ok(())
        })?;
        Ok(Pictures::Tokens { values: Tensor::from_vec(values, (chosen.len(), keep, width), &Device::Cpu)?, places })
    }

    /// Writes all tokens of one variant of a picture to `out`, from the cache if it has them.
    fn tokens_of(&self, maker: &TokenMaker, choice: &ChosenPair, seed: u64, out: &mut [f32]) -> Result<()> {
        let size = self.source.size();
        let make = |rng: &mut StdRng, out: &mut [f32]| -> Result<()> {
            let mut pixels = vec![0f32; 3 * size[0] * size[1]];
            self.varied(choice, rng, &mut pixels)?;
            out.copy_from_slice(&maker.network.tokens(&pixels, size).map_err(EmbedError::from)?);
            Ok(())
        };
        let Some(cache) = &maker.cache else {
            return make(&mut stream(seed, streams::PICTURE_VARIANT, 0), out);
        };
        let (first, variants) = maker.records[choice.identity];
        let record = first + choice.view * variants + (seed % variants as u64) as usize;
        cache.tokens(record, out, |out| make(&mut stream(self.seed, streams::PICTURE_VARIANT, record as u64), out))
    }

    /// Writes the normalised pixels of an augmented picture to `out`.
    fn varied(&self, choice: &ChosenPair, rng: &mut StdRng, out: &mut [f32]) -> Result<()> {
        let picture = self.source.picture(choice.identity, choice.view)?;
        self.augment.apply(&picture, self.source.size(), self.prep, out, rng);
        Ok(())
    }
}

/// The phrases of a description, each with the range of its noun's word pieces; without phrases
/// that lie behind the longest text that a model reads.
fn pieces_of_phrases(texts: &CaptionTokenizer, description: &Description) -> Result<Vec<(Range<usize>, Phrase)>> {
    let (_, pieces) = texts.encode_with_offsets(description.text())?;
    let stated = description.phrases().iter().zip(description.ranges());
    let own = stated.filter_map(|(phrase, range)| {
        Some((pieces_at(&pieces, &cleaned_range(description.text(), range)?)?, phrase.clone()))
    });
    Ok(own.collect())
}

/// Where the words at `range` of `raw` lie in the cleaned text; `None` if cleaning cuts them off.
/// Cleaning must not change the words themselves, apart from upper case.
fn cleaned_range(raw: &str, range: &Range<usize>) -> Option<Range<usize>> {
    let (until, cut) = clean(raw.get(..range.end)?);
    let from = until.len().checked_sub(range.len())?;
    (!cut).then_some(from..until.len())
}

/// Normalised pixels of pictures without augmentation: `[n, 3, H, W]`, f32. Each picture is RGB
/// bytes, row-major, `[H, W, 3]`.
///
/// # Errors
/// When candle fails.
pub fn normalised_pixels(pictures: &[&[u8]], [h, w]: [usize; 2], prep: &Preprocess) -> candle_core::Result<Tensor> {
    Tensor::from_vec(normalize_all(pictures, prep), (pictures.len(), 3, h, w), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::SeedableRng;
    use sightline_embed::model::ModelConfig;

    use super::*;
    use crate::facts::{Colours, Item, Kind, KindSet, Part};

    #[test]
    fn a_phrase_has_the_pieces_of_its_own_words() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cada-tiny");
        let arch = ModelConfig::read(&golden.join("config.json")).expect("golden data").architecture;
        let texts = CaptionTokenizer::load(&golden.join("tokenizer.json"), &arch).expect("golden data");
        let mut facts = Facts::unknown();
        for (part, kind) in [(Part::Upper, Kind::TShirt), (Part::Hat, Kind::Cap), (Part::Held, Kind::Ball)] {
            facts.state(part, vec![Item { kinds: KindSet::of(&[kind]), colours: Colours::default() }]);
        }
        let mut rng = StdRng::seed_from_u64(5);
        let mut both = 0;
        for _ in 0..400 {
            let description = Description::of(&facts, &mut rng).expect("something is known");
            let (caption, pieces) = texts.encode_with_offsets(description.text()).expect("tokens");
            let mut found = pieces_of_phrases(&texts, &description).expect("tokens");
            assert_eq!(found.len(), description.phrases().len(), "{}", caption.text);
            for (at, phrase) in &found {
                let bytes = pieces[at.start].start..pieces[at.end - 1].end;
                assert_eq!(&caption.text[bytes], phrase.noun(), "{}", caption.text);
            }
            // "ball" is no part of "baseball cap".
            found.sort_by_key(|(at, _)| at.start);
            assert!(found.windows(2).all(|two| two[0].0.end <= two[1].0.start), "{}: {found:?}", caption.text);
            let nouns: Vec<&str> = description.phrases().iter().map(Phrase::noun).collect();
            both += usize::from(nouns.contains(&"baseball cap") && nouns.contains(&"ball"));
        }
        assert!(both > 20, "{both}");
    }

    #[test]
    fn a_range_follows_its_words_through_cleaning() {
        let raw = "A man.  He wears a \"T-shirt\", jeans";
        let (text, _) = clean(raw);
        for words in ["man", "T-shirt", "jeans"] {
            let from = raw.find(words).expect("there");
            let at = cleaned_range(raw, &(from..from + words.len())).expect("not cut off");
            assert_eq!(text[at], words.to_lowercase());
        }
        let long = "word ".repeat(80);
        assert_eq!(cleaned_range(&long, &(395..399)), None);
    }
}
