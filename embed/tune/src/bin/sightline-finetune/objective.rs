//! Flags that change the training objective of a preset.

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use sightline_embed::graph::WordPredictor;
use sightline_tune::ara::Masking;
use sightline_tune::atp::CrossAttentionStart;
use sightline_tune::losses::{GlobalLoss, Groups, HardNegative};
use sightline_tune::objective::{Objective, Truth};

/// Halves of ATP to train.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum AtpArg {
    /// No matching loss.
    Off,
    /// Only the global half, on `[ENC]`.
    Global,
    /// Only the local half, on groups of words; the head that ranks is then not trained.
    Local,
    /// Both halves.
    Both,
}

/// Initial weights of the decoder's cross-attention when matching begins.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum StartArg {
    /// Keep the current weights.
    Fresh,
    /// Copy the projections that the global loss has trained.
    Projections,
    /// Like projections, with the output scaled to a tenth: for a pre-trained text encoder.
    Faint,
}

impl From<StartArg> for CrossAttentionStart {
    fn from(begin: StartArg) -> Self {
        match begin {
            StartArg::Fresh => Self::Fresh,
            StartArg::Projections => Self::Projections,
            StartArg::Faint => Self::Faint,
        }
    }
}

/// What ARA masks.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum MaskingArg {
    /// Nothing: no ARA.
    Off,
    /// Whole attribute phrases (the paper).
    Phrase,
    /// Adjectives and nouns, piece by piece (the authors' code).
    Word,
}

/// Transformer that predicts masked words.
#[derive(Clone, Copy, ValueEnum)]
pub enum DecoderArg {
    /// A separate transformer (the authors' code).
    Own,
    /// The text encoder with separate cross-attention (the paper).
    Shared,
    /// The text encoder including its cross-attention.
    Tied,
}

/// Training objective. A flag that is not given keeps the preset's value.
#[derive(Args, Clone)]
pub struct ObjectiveArgs {
    /// Global loss: cmpm (the paper's baseline), ndf-paper or ndf-code.
    #[arg(long)]
    global: Option<GlobalLoss>,
    /// Matching loss (ATP). Added to a preset without it, it starts at step 1200 unless --atp-from
    /// is given.
    #[arg(long, value_enum)]
    atp: Option<AtpArg>,
    /// First step with ATP.
    #[arg(long)]
    atp_from: Option<usize>,
    /// Number of pairs per batch that ATP is computed on; its negatives come from the whole batch.
    #[arg(long)]
    atp_pairs: Option<usize>,
    /// Initial weights of ATP's cross-attention. projections avoids the long phase at chance level
    /// of a model that starts from random weights, but overwrites trained cross-attention.
    #[arg(long, value_enum)]
    atp_start: Option<StartArg>,
    /// Whether ATP's local head also learns the truth of each phrase in captions that are generated
    /// from facts.
    #[arg(long)]
    atp_phrases: Option<bool>,
    /// Hard negatives of ATP: cosine (hardest), code (the authors' rule) or sampled.
    #[arg(long)]
    negatives: Option<HardNegative>,
    /// Tokens per group in the local half of ATP.
    #[arg(long)]
    group_size: Option<usize>,
    /// Tokens from the start of one group to the start of the next. Default: the size of a group.
    #[arg(long)]
    group_stride: Option<usize>,
    /// Masked attribute modelling (ARA). Added to a preset without it, it starts at step 1200
    /// unless --ara-from is given.
    #[arg(long, value_enum)]
    ara: Option<MaskingArg>,
    /// Probability that a phrase (0.8 in the paper) or word piece (0.4 in the authors' code) is
    /// masked.
    #[arg(long)]
    ara_rate: Option<f32>,
    /// First step with ARA.
    #[arg(long)]
    ara_from: Option<usize>,
    /// Number of pairs per batch that ARA is computed on.
    #[arg(long)]
    ara_pairs: Option<usize>,
    /// Weight of ARA in the total loss.
    #[arg(long)]
    ara_weight: Option<f64>,
    /// Transformer that predicts the masked words of ARA.
    #[arg(long, value_enum)]
    ara_decoder: Option<DecoderArg>,
    /// Whether each word of ARA sees only the words before it.
    #[arg(long)]
    ara_causal: Option<bool>,
    /// Number of phrases per batch whose truth about every picture is learned, from known facts
    /// about drawn and labelled persons; 0 for none.
    #[arg(long)]
    truth_phrases: Option<usize>,
    /// Weight of the loss on the truth of phrases.
    #[arg(long)]
    truth_weight: Option<f64>,
    /// Whether every person that a caption is true of counts as its match in the global loss,
    /// instead of only its own person.
    #[arg(long)]
    truth_targets: Option<bool>,
    /// Weight of the auxiliary attribute heads in the total loss.
    #[arg(long)]
    attributes: Option<f64>,
    /// Dropout rate in the text transformer.
    #[arg(long)]
    dropout: Option<f32>,
}

fn set<T, U: From<T>>(to: &mut U, given: Option<T>) {
    if let Some(value) = given {
        *to = value.into();
    }
}

impl ObjectiveArgs {
    /// Whether a flag sets an option of ATP.
    fn has_atp_flags(&self) -> bool {
        let numbers = [self.atp_from, self.atp_pairs, self.group_size, self.group_stride];
        numbers.iter().any(Option::is_some)
            || self.atp_start.is_some()
            || self.atp_phrases.is_some()
            || self.negatives.is_some()
    }

    /// Whether a flag sets an option of ARA.
    fn has_ara_flags(&self) -> bool {
        let numbers = [self.ara_from, self.ara_pairs];
        numbers.iter().any(Option::is_some)
            || self.ara_rate.is_some()
            || self.ara_weight.is_some()
            || self.ara_decoder.is_some()
            || self.ara_causal.is_some()
    }

    /// `objective` with the given flags applied.
    pub fn objective(&self, mut objective: Objective) -> Result<Objective> {
        set(&mut objective.global, self.global);
        set(&mut objective.attributes, self.attributes);
        set(&mut objective.dropout, self.dropout);
        let scratch = Objective::scratch();
        // A loss that the preset leaves out gets the settings for a model that starts from random
        // weights.
        if self.atp.is_some_and(|halves| halves != AtpArg::Off) {
            objective.atp = objective.atp.or(scratch.atp);
        }
        if self.ara.is_some_and(|masking| masking != MaskingArg::Off) {
            objective.ara = objective.ara.or(scratch.ara);
        }
        ensure!(
            objective.atp.is_some() || !self.has_atp_flags(),
            "flags of ATP were given, and this preset has none: --atp global, local or both adds it"
        );
        ensure!(
            objective.ara.is_some() || !self.has_ara_flags(),
            "flags of ARA were given, and this preset has none: --ara phrase or word adds it"
        );
        if let Some(atp) = &mut objective.atp {
            set(&mut atp.from, self.atp_from);
            set(&mut atp.pairs, self.atp_pairs);
            set(&mut atp.negatives, self.negatives);
            set(&mut atp.start, self.atp_start);
            set(&mut atp.phrases, self.atp_phrases);
            if let Some(size) = self.group_size {
                atp.groups = Groups::of(size, atp.groups.masked);
            }
            set(&mut atp.groups.stride, self.group_stride);
            if let Some(halves) = self.atp {
                atp.global = matches!(halves, AtpArg::Global | AtpArg::Both);
                atp.local = matches!(halves, AtpArg::Local | AtpArg::Both);
            }
        }
        if self.atp == Some(AtpArg::Off) {
            objective.atp = None;
        }
        if let Some(ara) = &mut objective.ara {
            match self.ara {
                Some(MaskingArg::Phrase) => (ara.masking, ara.probability) = (Masking::Phrase, 0.8),
                Some(MaskingArg::Word) => (ara.masking, ara.probability) = (Masking::Word, 0.4),
                Some(MaskingArg::Off) | None => {}
            }
            set(&mut ara.probability, self.ara_rate);
            set(&mut ara.from, self.ara_from);
            set(&mut ara.pairs, self.ara_pairs);
            set(&mut ara.weight, self.ara_weight);
            set(&mut ara.causal, self.ara_causal);
            let decoder = self.ara_decoder.map(|d| match d {
                DecoderArg::Own => WordPredictor::Own,
                DecoderArg::Shared => WordPredictor::Shared,
                DecoderArg::Tied => WordPredictor::Tied,
            });
            set(&mut ara.decoder, decoder);
        }
        if self.ara == Some(MaskingArg::Off) {
            objective.ara = None;
        }
        let mut truth = objective.truth.unwrap_or(Truth { phrases: 0, weight: 1.0, targets: false });
        set(&mut truth.phrases, self.truth_phrases);
        set(&mut truth.weight, self.truth_weight);
        set(&mut truth.targets, self.truth_targets);
        objective.truth = (truth.phrases > 0 || truth.targets).then_some(truth);
        match objective.check() {
            Ok(()) => Ok(objective),
            Err(message) => bail!("{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        objective: ObjectiveArgs,
    }

    /// Applies `flags` to an objective without ARA.
    fn objective(flags: &[&str]) -> Result<Objective> {
        let args = Flags::try_parse_from(std::iter::once(&"train").chain(flags)).expect("flags");
        args.objective.objective(Objective { ara: None, ..Objective::scratch() })
    }

    #[test]
    fn a_loss_that_is_not_there_is_added_and_its_flags_are_never_ignored() {
        assert!(objective(&[]).expect("sound").ara.is_none());
        let ara = objective(&["--ara", "phrase", "--ara-from", "7"]).expect("sound").ara.expect("added");
        assert_eq!((ara.from, ara.masking), (7, Masking::Phrase));
        let e = objective(&["--ara-from", "7"]).expect_err("no ARA to begin").to_string();
        assert!(e.contains("--ara phrase or word adds it"), "{e}");
        assert!(objective(&["--atp", "off"]).expect("sound").atp.is_none());
    }
}
