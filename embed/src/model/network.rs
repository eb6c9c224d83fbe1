//! Networks of a loaded model, on the CPU or as a graph on a GPU.

use std::ops::Range;

use crate::EmbedError;
use crate::kernel::Precision;
use crate::model::{Architecture, TokenBatch, WordHead};
use crate::net::{self, AttentionMeasure, WeightFile, WeightSource};

/// Logits of a head with two classes: "no" and "yes" of each row.
pub type Logits = Vec<[f32; 2]>;

/// Features of a batch of pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Patch features `[batch, 1 + patches, vision width]`.
    pub patches: Vec<f32>,
    /// L2-normalised global features `[batch, embed_dim]`.
    pub features: Vec<f32>,
}

/// CADA on a device. All slices are row-major f32.
#[derive(Debug)]
pub enum Network {
    /// On the CPU.
    Cpu(Box<net::Cada>),
    /// As a graph of candle's operations, on a GPU.
    #[cfg(feature = "candle")]
    Graph(Box<GraphNetwork>),
}

impl Network {
    /// Builds the networks on the CPU from `weights`.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn on_cpu(
        arch: &Architecture,
        weights: &mut dyn WeightSource,
        precision: Precision,
    ) -> Result<Self, EmbedError> {
        Ok(Self::Cpu(Box::new(net::Cada::new(arch, weights, precision)?)))
    }

    /// Loads a weights file onto `device`. All tensors that the architecture needs are checked
    /// before any is used.
    ///
    /// # Errors
    /// Missing tensors or wrong shapes, all of them named.
    pub fn load(
        file: WeightFile,
        arch: &Architecture,
        device: &super::Device,
        precision: Precision,
    ) -> Result<Self, EmbedError> {
        Self::load_with_words(file, None, arch, device, precision)
    }

    /// [`Network::load`] with a word head and the file of its tensors.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn load_with_words(
        mut file: WeightFile,
        words: Option<(WordHead, WeightFile)>,
        arch: &Architecture,
        device: &super::Device,
        precision: Precision,
    ) -> Result<Self, EmbedError> {
        file.check(&net::required(arch)?)?;
        match device {
            super::Device::Cpu => {
                let cada = net::Cada::new(arch, &mut file, precision)?;
                let Some((kind, mut head)) = words else { return Ok(Self::Cpu(Box::new(cada))) };
                let words = net::WordNet::new(arch, kind, &mut head, &mut file, precision)?;
                Ok(Self::Cpu(Box::new(cada.with_words(words))))
            }
            #[cfg(feature = "candle")]
            super::Device::Candle(device) => {
                Ok(Self::Graph(Box::new(GraphNetwork::load(file, words, arch, device, precision)?)))
            }
        }
    }

    /// Dimensions of the networks.
    #[must_use]
    pub fn arch(&self) -> &Architecture {
        match self {
            Self::Cpu(cada) => cada.arch(),
            #[cfg(feature = "candle")]
            Self::Graph(graph) => graph.cada.arch(),
        }
    }

    /// Normalised pixels `[batch, 3, height, width]` -> patch features and global features.
    ///
    /// # Errors
    /// Pixels of another size than the model's, or a device error.
    pub fn encode_images(&self, pixels: &[f32]) -> Result<Encoded, EmbedError> {
        match self {
            Self::Cpu(cada) => {
                let patches = cada.image_embeds(pixels)?;
                let features = self.image_features(&cada.class_tokens(&patches))?;
                Ok(Encoded { patches: patches.to_vec(), features })
            }
            #[cfg(feature = "candle")]
            Self::Graph(graph) => graph.encode_images(pixels),
        }
    }

    /// Class tokens `[batch, vision width]` (the first row of each picture's patch features) ->
    /// L2-normalised global features `[batch, embed_dim]`.
    ///
    /// # Errors
    /// Rows of another width, or a device error.
    pub fn image_features(&self, class_tokens: &[f32]) -> Result<Vec<f32>, EmbedError> {
        match self {
            Self::Cpu(cada) => {
                let mut features = cada.image_proj(class_tokens)?.to_vec();
                l2_normalize(&mut features, cada.arch().embed_dim);
                Ok(features)
            }
            #[cfg(feature = "candle")]
            Self::Graph(graph) => graph.image_features(class_tokens),
        }
    }

    /// Texts that begin with `[CLS]` -> L2-normalised global features `[batch, embed_dim]`.
    ///
    /// # Errors
    /// An id beyond the vocabulary, more tokens than positions, or a device error.
    pub fn text_features(&self, tokens: &TokenBatch) -> Result<Vec<f32>, EmbedError> {
        match self {
            Self::Cpu(cada) => {
                let hidden = cada.text_embeds(tokens)?;
                let mut features = cada.text_proj(&cada.pool_text(tokens, &hidden))?.to_vec();
                l2_normalize(&mut features, cada.arch().embed_dim);
                Ok(features)
            }
            #[cfg(feature = "candle")]
            Self::Graph(graph) => graph.text_features(tokens),
        }
    }

    /// Logits of "no match" and "match" from the decoder for pairs: text i with patch features i of
    /// `[batch, 1 + patches, vision width]`.
    ///
    /// # Errors
    /// As [`Network::text_features`], and patch features of another size.
    pub fn match_logits(&self, tokens: &TokenBatch, patches: &[f32]) -> Result<Vec<[f32; 2]>, EmbedError> {
        Ok(self.match_and_phrase_logits(tokens, patches, &[])?.0)
    }

    /// Cross-attention maps of the decoder: how much each token attends to each patch, for text i
    /// with patch features i of `[batch, 1 + patches, vision width]`. One vector per layer holds
    /// `[tokens, 1 + patches]` of every text, one after the other.
    ///
    /// # Errors
    /// As [`Network::match_logits`].
    pub fn attention_maps(
        &self,
        tokens: &TokenBatch,
        patches: &[f32],
        by: AttentionMeasure,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        match self {
            Self::Cpu(cada) => Ok(cada.attention_maps(tokens, patches, by)?),
            #[cfg(feature = "candle")]
            Self::Graph(graph) => graph.attention_maps(tokens, patches, by),
        }
    }

    /// Scores of every word, `[positions, vocabulary]`, for the masked tokens at `positions` (text,
    /// token): text i with patch features i of `[batch, 1 + patches, vision width]` (ARA; paper,
    /// section 3.4). `None` without a word head.
    ///
    /// # Errors
    /// As [`Network::match_logits`], and a position beyond a text.
    pub fn word_scores(
        &self,
        tokens: &TokenBatch,
        patches: &[f32],
        positions: &[(usize, usize)],
    ) -> Result<Option<Vec<f32>>, EmbedError> {
        match self {
            Self::Cpu(cada) => Ok(cada.word_scores(tokens, patches, positions)?),
            #[cfg(feature = "candle")]
            Self::Graph(graph) => graph.word_scores(tokens, patches, positions),
        }
    }

    /// [`Network::match_logits`], and the local head's logits of "false" and "true" for the phrases
    /// at `pieces` of each text (paper, section 3.3): `[batch * phrases]`, pair by pair. All texts
    /// have the same phrases.
    ///
    /// # Errors
    /// As [`Network::match_logits`] and [`TokenBatch::check_ranges`].
    pub fn match_and_phrase_logits(
        &self,
        tokens: &TokenBatch,
        patches: &[f32],
        pieces: &[Range<usize>],
    ) -> Result<(Logits, Logits), EmbedError> {
        match self {
            Self::Cpu(cada) => {
                let fused = cada.fused(tokens, patches)?;
                let logits = cada.itm_logits(&cada.first_rows(tokens, &fused))?;
                let phrases = match pieces {
                    [] => Vec::new(),
                    _ => cada.itm_local_logits(&cada.range_means(tokens, &fused, pieces)?)?.as_chunks::<2>().0.to_vec(),
                };
                Ok((logits.as_chunks::<2>().0.to_vec(), phrases))
            }
            #[cfg(feature = "candle")]
            Self::Graph(graph) => graph.match_and_phrase_logits(tokens, patches, pieces),
        }
    }
}

/// L2-normalises rows of `width` numbers in place: `x / max(|x|, 1e-12)`, as the reference's
/// `F.normalize`.
pub fn l2_normalize(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width.max(1)) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

#[cfg(feature = "candle")]
pub use graph::GraphNetwork;

#[cfg(feature = "candle")]
mod graph {
    use std::ops::Range;

    use candle_core::{DType, Device, Tensor};

    use super::{Encoded, Logits};
    use crate::EmbedError;
    use crate::graph::{self, Cada, Pass, l2_normalize};
    use crate::kernel::Precision;
    use crate::model::{Architecture, TokenBatch, WordHead};
    use crate::net::{AttentionMeasure, ShapeError, WeightFile};

    /// CADA as a graph, all of it in one precision.
    #[derive(Debug)]
    pub struct GraphNetwork {
        pub(super) cada: Cada,
        device: Device,
        precision: Precision,
        /// Whether a masked word is predicted from the words before it alone.
        causal: bool,
    }

    impl GraphNetwork {
        /// Loads the graph onto `device`, with tensors and products in `precision`; tests do the
        /// same on a CPU.
        ///
        /// # Errors
        /// Missing tensors, wrong shapes, or a device without enough memory.
        pub fn load(
            file: WeightFile,
            words: Option<(WordHead, WeightFile)>,
            arch: &Architecture,
            device: &Device,
            precision: Precision,
        ) -> Result<Self, EmbedError> {
            let causal = words.as_ref().is_some_and(|(kind, _)| kind.causal);
            let words = words.map(|(kind, file)| (kind.predictor, file));
            let cada = graph::load(file, words, arch, graph::gpu_dtype(precision), device)?;
            Ok(Self { cada, device: device.clone(), precision, causal })
        }

        /// Wraps an existing graph; products of f32 tensors are computed in `precision`.
        #[must_use]
        pub fn of(cada: Cada, device: Device, precision: Precision) -> Self {
            Self { cada, device, precision, causal: false }
        }

        fn tensor(&self, values: &[f32], shape: &[usize]) -> candle_core::Result<Tensor> {
            Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(self.cada.dtype())?.to_device(&self.device)
        }

        fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
            tensor.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1()
        }

        pub(super) fn encode_images(&self, pixels: &[f32]) -> Result<Encoded, EmbedError> {
            let arch = self.cada.arch();
            let [height, width] = arch.image_size;
            let batch = pixels.len() / (arch.in_chans * height * width).max(1);
            let pixels = self.tensor(pixels, &[batch, arch.in_chans, height, width])?;
            self.precision.scope(|| {
                let embeds = self.cada.image_embeds(&pixels)?.detach();
                let features = l2_normalize(&self.cada.image_proj(&embeds)?)?;
                Ok(Encoded { patches: Self::numbers(&embeds)?, features: Self::numbers(&features)? })
            })
        }

        pub(super) fn image_features(&self, class_tokens: &[f32]) -> Result<Vec<f32>, EmbedError> {
            let width = self.cada.arch().vision_width;
            let tokens = self.tensor(class_tokens, &[class_tokens.len() / width, 1, width])?;
            Ok(self.precision.scope(|| Self::numbers(&l2_normalize(&self.cada.image_proj(&tokens)?)?))?)
        }

        pub(super) fn text_features(&self, tokens: &TokenBatch) -> Result<Vec<f32>, EmbedError> {
            Ok(self.precision.scope(|| {
                let hidden = self.cada.text_embeds(tokens, None)?;
                Self::numbers(&l2_normalize(&self.cada.text_proj(tokens, &hidden)?)?)
            })?)
        }

        /// Patch features of one picture per text as a tensor `[batch, rows, vision width]`, for
        /// any number of rows.
        fn patches(&self, tokens: &TokenBatch, patches: &[f32]) -> candle_core::Result<Tensor> {
            let (batch, width) = (tokens.batch(), self.cada.arch().vision_width);
            self.tensor(patches, &[batch, patches.len() / (batch * width).max(1), width])
        }

        pub(super) fn attention_maps(
            &self,
            tokens: &TokenBatch,
            patches: &[f32],
            by: AttentionMeasure,
        ) -> Result<Vec<Vec<f32>>, EmbedError> {
            let patches = self.patches(tokens, patches)?;
            let layers = self.precision.scope(|| self.cada.attention_maps(tokens, &patches, by))?;
            let of_texts = |layer: &Tensor| -> candle_core::Result<Vec<f32>> {
                let (numbers, rows) = (Self::numbers(layer)?, layer.dim(2)?);
                let texts = numbers.chunks_exact(tokens.tokens() * rows).zip(tokens.lengths());
                Ok(texts.flat_map(|(text, length)| &text[..length * rows]).copied().collect())
            };
            Ok(layers.iter().map(of_texts).collect::<candle_core::Result<_>>()?)
        }

        pub(super) fn word_scores(
            &self,
            tokens: &TokenBatch,
            patches: &[f32],
            positions: &[(usize, usize)],
        ) -> Result<Option<Vec<f32>>, EmbedError> {
            let Some(decoder) = &self.cada.text_decoder else { return Ok(None) };
            let beyond =
                |(text, token): &&(usize, usize)| tokens.lengths().get(*text).is_none_or(|length| token >= length);
            if let Some((text, token)) = positions.iter().find(beyond) {
                return Err(ShapeError(format!("there is no token {token} of text {text}")).into());
            }
            let patches = self.patches(tokens, patches)?;
            Ok(Some(self.precision.scope(|| -> candle_core::Result<_> {
                let pass = Pass { image: Some(&patches), causal: self.causal, dropout: None };
                let hidden = decoder.bert.forward(tokens, &pass)?.flatten(0, 1)?;
                let rows: Vec<u32> =
                    positions.iter().map(|(text, token)| (text * tokens.tokens() + token) as u32).collect();
                let chosen = hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?;
                Self::numbers(&decoder.logits(&chosen)?)
            })?))
        }

        pub(super) fn match_and_phrase_logits(
            &self,
            tokens: &TokenBatch,
            patches: &[f32],
            pieces: &[Range<usize>],
        ) -> Result<(Logits, Logits), EmbedError> {
            // candle would accept both: the mean over no token is NaN, and rows of padding exist.
            tokens.check_ranges(pieces)?;
            let patches = self.patches(tokens, patches)?;
            let (whole, phrases) = self.precision.scope(|| -> candle_core::Result<_> {
                let fused = self.cada.fused(tokens, &patches, None)?;
                let whole = Self::numbers(&self.cada.itm_logits(&fused)?)?;
                if pieces.is_empty() {
                    return Ok((whole, Vec::new()));
                }
                let mean = |range: &Range<usize>| fused.narrow(1, range.start, range.len())?.mean(1);
                let means = Tensor::stack(&pieces.iter().map(mean).collect::<candle_core::Result<Vec<_>>>()?, 1)?;
                let (batch, count, width) = means.dims3()?;
                let logits = self.cada.itm_local_logits(&means.reshape((batch * count, width))?)?;
                Ok((whole, Self::numbers(&logits)?))
            })?;
            Ok((whole.as_chunks::<2>().0.to_vec(), phrases.as_chunks::<2>().0.to_vec()))
        }
    }
}
