//! Pictures and captions stay the same to the byte: a corpus is written once and trained on for
//! weeks, and published results name only its seed.
//!
//! Sines and powers come from the C library, whose last bit may differ elsewhere: the sums hold for
//! x86-64 with glibc. A deliberate change of the pictures replaces the sums in the same commit.
#![cfg(all(target_arch = "x86_64", target_env = "gnu"))]

use std::sync::Arc;

use sightline_figures::{Assets, Corpus, Words};

use crate::doll::Doll;

/// FNV-1a, 64 bits: enough to notice a change, and no further dependency.
#[derive(Debug)]
struct Checksum(u64);

impl Checksum {
    fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

/// Checksum of the sizes and pixels of `count` pictures, each of another person.
fn pictures(corpus: &Corpus, count: u64) -> u64 {
    let mut sum = Checksum::new();
    for index in 0..count {
        let picture = corpus.picture(index, index % 3);
        sum.add(&picture.width().to_le_bytes());
        sum.add(&picture.height().to_le_bytes());
        sum.add(picture.as_raw());
    }
    sum.0
}

/// Checksum of `count` captions of `words`, each of another person.
fn captions(corpus: &Corpus, words: Words, count: u64) -> u64 {
    let mut sum = Checksum::new();
    for index in 0..count {
        sum.add(corpus.caption_with(index, index % 5, words).as_bytes());
        sum.add(b"\n");
    }
    sum.0
}

/// Checksums of what is drawn and said for one seed.
type Sums = (u64, [u64; 3], [u64; 3]);

#[test]
fn pictures_and_captions_of_a_seed_never_change() {
    const EXPECTED: [Sums; 3] = [
        (
            0,
            [0x49b7_3f8d_cd61_3a9e, 0x38a4_ce42_14d6_9086, 0x0aa1_d87a_4904_eba7],
            [0x7109_3dad_197d_987f, 0xfe37_3229_382d_af4e, 0x5585_a4ac_d4c0_a0a7],
        ),
        (
            5,
            [0xd546_bd15_be46_5082, 0x478d_473c_0956_6362, 0x45b8_afae_8078_d29d],
            [0x3d2e_0766_8f35_5cc2, 0x1f88_4125_a398_daef, 0x98ae_fdb6_b3e1_7bb7],
        ),
        (
            1_000_003,
            [0xb141_e965_32ae_95fb, 0xe529_a49e_3596_a0f3, 0x0af5_35be_f7e2_cf3b],
            [0xc481_703d_203e_7afa, 0x42f9_9e12_33d8_6ac9, 0xcca8_cf0d_99e5_a1d0],
        ),
    ];
    let sums = EXPECTED.map(|(seed, ..)| {
        let corpus = Corpus::new(seed);
        // Level 1 in three runs, so that a failure tells a single person from a change of all.
        let drawn = [8, 40, 72].map(|count| pictures(&corpus, count));
        let said = [Words::All, Words::Seen, Words::HeldOut].map(|words| captions(&corpus, words, 500));
        (seed, drawn, said)
    });
    assert_eq!(sums, EXPECTED, "{sums:#018x?}");
}

#[test]
fn pictures_of_the_doll_never_change() {
    const EXPECTED: u64 = 0x6f34_9c3b_d89f_8d8d;
    let dir = tempfile::tempdir().unwrap();
    Doll::standing().write(dir.path());
    let assets = Arc::new(Assets::load(dir.path()).unwrap());
    let sum = pictures(&Corpus::with_assets(5, assets, 1.0), 40);
    assert_eq!(sum, EXPECTED, "{sum:#018x}");
}
