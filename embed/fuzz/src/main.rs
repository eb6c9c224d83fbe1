//! One libFuzzer program for every parser of the crates under `embed`; SIGHTLINE_FUZZ names the one
//! to feed.
//!
//! `docker/fuzz.sh SECONDS` runs each of them for so long, on stable Rust.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sightline_embed::fuzzing as embed;
use sightline_figures::fuzzing as figures;
use sightline_tune::fuzzing as tune;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 5] = [
    ("meshes", figures::meshes),
    ("annotations", tune::annotations),
    ("captions", embed::captions),
    ("model_config", embed::model_config),
    ("pictures", embed::pictures),
];

fn target() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("SIGHTLINE_FUZZ").unwrap_or_default();
        match TARGETS.iter().find(|(known, _)| *known == name) {
            Some((_, target)) => *target,
            None => panic!("SIGHTLINE_FUZZ={name:?}: it is one of {:?}", TARGETS.map(|t| t.0)),
        }
    })
}

fuzz_target!(|bytes: &[u8]| target()(bytes));
