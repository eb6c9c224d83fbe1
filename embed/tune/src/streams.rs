//! Numbers of the random streams of training, one per purpose, in one table so that no two are
//! equal.
//!
//! Each is the second argument of [`sightline_figures::stream`]. A draw for one purpose (the masks
//! of ARA, say) then changes no draw for another. The values are arbitrary, but they determine
//! every run: with another value, a seed gives another model and golden tests fail.

/// Word pieces that ARA masks; the third argument is the step.
pub(crate) const ARA_MASKS: u64 = 1_095_909_632;
/// Sampled hard negatives; the third argument is the number of pairs in the batch.
pub(crate) const SAMPLED_NEGATIVES: u64 = 1_315_268_449;
/// Dropout masks; the third argument is the step.
pub(crate) const DROPOUT: u64 = 3_557_359_616;
/// Pairs, augmentation and captions of a batch; the third argument is the number of the batch.
pub(crate) const BATCH: u64 = 3_128_688_640;
/// Augmentation of one picture; the third argument is the number of a cached variant, or 0.
pub(crate) const PICTURE_VARIANT: u64 = 2_718_281_829;
/// Order of the pairs in an epoch; the third argument is the number of the epoch.
pub(crate) const EPOCH_ORDER: u64 = 3_909_877_760;
/// Initial values of variables; the third argument is a hash of the variable's name.
pub(crate) const INITIAL_VARIABLES: u64 = 337_051_648;
/// Heads that an imported checkpoint lacks; the third argument is the length of the tensor's name.
pub(crate) const IMPORTED_HEADS: u64 = 281_681_581;
/// Persons of a bootstrap resample; the third argument is the number of the resample.
pub(crate) const BOOTSTRAP: u64 = 2_718_281_959;
/// Phrases and random patches of the checks of explanations; the third argument is the number of
/// the picture.
pub(crate) const EXPLANATION: u64 = 1_163_415_634;
