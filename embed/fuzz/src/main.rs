//! One libFuzzer program for every parser of `sightline-embed`; SIGHTLINE_FUZZ names the one to feed.
//!
//! `docker/fuzz.sh SECONDS` runs each of them for so long, on stable Rust.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sightline_embed::fuzzing;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 6] = [
    ("meshes", fuzzing::meshes),
    ("annotations", fuzzing::annotations),
    ("captions", fuzzing::captions),
    ("model_config", fuzzing::model_config),
    ("pictures", fuzzing::pictures),
    ("dictionaries", fuzzing::dictionaries),
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
